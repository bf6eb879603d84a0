"""What the chat server can be told. Read by chat_web.py (its flags) and chat_app.py (limits)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServeSettings:
    """Flags of `nanochat chat-web`: where it listens, which model it serves, what it refuses."""

    host: str = "127.0.0.1"
    """Address to listen on; the default is reachable from this machine only."""
    port: int = 8000
    """TCP port; 0 takes a free one and prints it."""
    stage: str = "auto"
    """Which training stage to serve: rl, sft or base; auto takes rl, or sft without it."""
    tag: str | None = None
    """Which run of that stage, such as d4; none takes the one saved last."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dtype: str = "auto"
    """Number format of the activations: auto, fp32, bf16 or fp16."""
    temperature: float = 0.6
    """Used when a request names none: 0 always takes the likeliest token, 1 samples as learned."""
    top_k: int = 50
    """Used when a request names none: keep only the k likeliest tokens, 0 keeps all."""
    top_p: float = 1.0
    """Used when a request names none: keep the likeliest tokens up to this sum of probability."""
    max_tokens: int = 256
    """Used when a request names none: the longest answer, tokens."""
    max_tokens_limit: int = 4096
    """The largest max_tokens that a request may ask for, tokens."""
    max_messages: int = 500
    """Longest conversation that is accepted, messages."""
    max_characters: int = 100_000
    """Longest conversation that is accepted, characters; the context in tokens binds sooner."""
    max_body_bytes: int = 1_000_000
    """Largest request body that is read, bytes."""
    running_limit: int = 8
    """Answers that are written together; the next ones wait."""
    waiting_limit: int = 16
    """Requests that may wait for their turn; one more is answered with 503 and Retry-After."""
    drain_s: float = 3.0
    """How long answers in progress may go on after Ctrl-C or SIGTERM, seconds."""
    log: str = "stderr"
    """Where the structured log goes: stderr, none, or a file that lines are added to."""
    log_level: str = "INFO"
    """The least that is logged: DEBUG, INFO, WARNING or ERROR. Prompts and answers never are."""
    otlp_endpoint: str = ""
    """An OpenTelemetry collector, such as http://localhost:4318; empty sends no traces."""
    usd_per_hour: float = 0.0
    """Price of this machine: with it /metrics and the log say what serving costs, dollars."""


@dataclass(frozen=True)
class ServedModel:
    """What the page and the API say about the model behind them."""

    name: str  # as in the `model` field of the API
    parameters: int  # weights, embeddings included
