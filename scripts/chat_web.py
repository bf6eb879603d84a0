"""Serve the trained model: a chat page and OpenAI's API (/v1/chat/completions and more).

Prints the address when the model is loaded. Ctrl-C ends it; running answers get a moment to finish.
"""

import sys
from collections.abc import Sequence

from nanochat.checkpoint import CheckpointMissing, find_checkpoint, load_model
from nanochat.cli import parse, run
from nanochat.device import pick_device, pick_dtype
from nanochat.engine import Engine
from nanochat.engine_kernel import kernel_for
from nanochat.observe.logs import start_logging
from nanochat.serve.chat_app import create_app, open_to_strangers
from nanochat.serve.server import address_of, open_socket, serve
from nanochat.serve.settings import ServedModel, ServeSettings


def pick_stage(settings: ServeSettings) -> str:
    """auto takes the stage that was trained last of those that can chat."""
    if settings.stage != "auto":
        return settings.stage
    try:
        find_checkpoint("rl", settings.tag)
    except CheckpointMissing:
        return "sft"
    return "rl"


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(ServeSettings, argv, "nanochat chat-web", __doc__)
    warning = open_to_strangers(settings)
    if warning:
        print(warning, file=sys.stderr, flush=True)
    bound = open_socket(settings.host, settings.port)
    device = pick_device(settings.device)
    stage = pick_stage(settings)
    # On a processor one token at a time is bound by memory and dispatch: bf16 only adds casts.
    slow_bf16 = settings.dtype == "auto" and device.type == "cpu"
    dtype = pick_dtype("fp32" if slow_bf16 else settings.dtype, device)
    model, tokenizer, _ = load_model(stage, settings.tag, device, dtype)
    start_logging(settings.log, settings.log_level)
    kernel = kernel_for(model, settings.kernel)
    about = ServedModel(
        name=f"nanochat-d{model.config.n_layer}-{stage}",
        parameters=sum(weight.numel() for weight in model.parameters()),
    )
    app = create_app(settings, Engine(model, tokenizer, kernel), about)
    serve(app, bound, lambda: print(f"nanochat chat is ready: {address_of(bound)}", flush=True))


if __name__ == "__main__":
    run(main)
