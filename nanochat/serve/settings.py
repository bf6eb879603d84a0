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
    kernel: str = "auto"
    """Who computes a decode step: c (fp32 on a processor, needs a C compiler), torch, or auto."""
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
    max_choices: int = 8
    """The largest `n` that a request may ask for, answers."""
    running_limit: int = 16
    """Answers that are written together; the next ones wait."""
    waiting_limit: int = 32
    """Answers that may wait for their turn; one more is refused with 503 and Retry-After."""
    read_tokens: int = 128
    """Most tokens of new prompts that are read between two tokens of the running answers."""
    turn_tokens: int = 512
    """An answer makes way for those who wait after so many tokens, and goes on later."""
    kv_blocks: int = 512
    """Beginnings of conversations that are remembered, in blocks of 32 tokens; 0 remembers none."""
    deadline_s: float = 120.0
    """Longest time from a request's arrival to its last token, seconds."""
    slow_reader_s: float = 30.0
    """How much longer a client may take to read an answer that is complete, seconds."""
    drain_s: float = 5.0
    """How long answers in progress may go on after Ctrl-C or SIGTERM, seconds."""
    api_keys_file: str | None = None
    """File with one `name sha256-of-key` a line (`nanochat api-key` makes them); none: no keys."""
    requests_per_minute: float = 0.0
    """Requests that each key may send, a minute; 0 sets no limit."""
    tokens_per_minute: float = 0.0
    """Tokens, prompts and answers, that each key may use, a minute; 0 sets no limit."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that the server goes by, besides localhost; none: any on an address for everybody."""
    cors_origins: tuple[str, ...] = ()
    """Other sites whose pages may call the API, such as https://example.org; none: no site."""
    redact_secrets: bool = False
    """Replace what looks like a key or a password in answers by [redacted]."""
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
