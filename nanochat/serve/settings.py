"""What the chat server can be told. Read by chat_web.py (its flags) and chat_app.py (limits)."""

import re
from dataclasses import dataclass

from nanochat.errors import UserError

DAY_S = 86_400.0
MANY = 1_000_000_000
RANGES: dict[str, tuple[float, float]] = {  # both ends are fine
    "port": (0, 65_535),
    "temperature": (0, 2),
    "top_k": (0, 1_000_000),
    "max_tokens": (1, MANY),
    "max_tokens_limit": (1, MANY),
    "max_messages": (1, MANY),
    "max_characters": (1, MANY),
    "max_body_bytes": (1, MANY),
    "max_choices": (1, 1_000_000),
    "running_limit": (1, 1_000_000),
    "waiting_limit": (0, 1_000_000),
    "read_tokens": (1, MANY),
    "turn_tokens": (1, MANY),
    "kv_blocks": (0, 1_000_000),
    "upload_s": (0.001, DAY_S),
    "deadline_s": (0.001, DAY_S),
    "slow_reader_s": (0, DAY_S),
    "stuck_s": (0.001, DAY_S),
    "drain_s": (0, DAY_S),
    "requests_per_minute": (0, MANY),
    "tokens_per_minute": (0, MANY),
    "usd_per_hour": (0, 1_000_000),
}
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
ADDRESS = re.compile("https?://[^/]")
SITE = re.compile("https?://[^/]+/?")
HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")


class BadSetting(UserError):
    """A flag of the server has a value it can't have."""


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
    """Who reads and writes: c (fp32 on a processor, needs a C compiler), torch, or auto."""
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
    upload_s: float = 10.0
    """Longest time that the body of a request may take to arrive, seconds; then it gets a 408."""
    deadline_s: float = 120.0
    """Longest time from a request's arrival to its last token, seconds."""
    slow_reader_s: float = 30.0
    """How long a client may leave its answer lying, and how much longer it may read, seconds."""
    stuck_s: float = 60.0
    """/livez says 503 when the engine has had work for so long and finished no step, seconds."""
    drain_s: float = 5.0
    """How long answers in progress may go on after Ctrl-C or SIGTERM, seconds; whatever else there
    is to do then takes 4 s at most."""
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

    def __post_init__(self) -> None:
        """Before anything is loaded. Raises BadSetting for the first that can't be."""
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:  # NaN is in no range
                raise self._bad(name, f"it must be from {least:,} to {most:,}")
        if not 0 < self.top_p <= 1:
            raise self._bad("top_p", "it must be over 0 and at most 1, which keeps all tokens")
        if self.log_level not in LEVELS:
            raise self._bad("log_level", f"it must be one of {', '.join(LEVELS)}")
        if self.otlp_endpoint and not ADDRESS.match(self.otlp_endpoint):
            raise self._bad("otlp_endpoint", "it must begin with http:// or https://, or be empty")
        for origin in self.cors_origins:
            if not SITE.fullmatch(origin):
                raise self._bad("cors_origins", "name each site as in https://example.org")
        for host in self.allowed_hosts:
            if not HOST.fullmatch(host):
                raise self._bad("allowed_hosts", "give names alone, such as chat.example.org")
        if self.max_tokens > self.max_tokens_limit:
            raise self._bad(
                "max_tokens", f"it must be at most --max-tokens-limit, {self.max_tokens_limit}"
            )

    def _bad(self, name: str, remedy: str) -> BadSetting:
        return BadSetting(f"--{name.replace('_', '-')} is {getattr(self, name)!r:.80}: {remedy}")


@dataclass(frozen=True)
class ServedModel:
    """What the page and the API say about the model behind them."""

    name: str  # as in the `model` field of the API
    parameters: int  # weights, embeddings included
