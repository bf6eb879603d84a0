"""What a load test asks, and when: requests drawn from one seed, arrivals like a crowd's.

A crowd does not wait for answers before it asks: its requests come at random moments, on average
`rate` a second, which is a Poisson process (open loop). A fixed number of clients that each wait
for their answer (closed loop) slow down with the server and hide its queue, so both are offered.
Called by load_run.py and scripts/load_test.py. Read: LoadSettings -> Ask -> asks -> poisson_times.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from nanochat.errors import UserError

NAMES = ["Anna", "Tom", "Mia", "Leo", "Ella", "Max", "Nora", "Sam", "Ida", "Ben", "Zoe", "Finn"]
PLACES = [
    "kitchen",
    "garden",
    "attic",
    "barn",
    "library",
    "cellar",
    "harbour",
    "market",
    "tower",
    "orchard",
]
THINGS = ["lamp", "drum", "kite", "map", "rope", "apple", "book", "bell", "ladder", "basket"]
SHARED = "You are a friendly story teller. Use short sentences and simple words."


class BadLoad(UserError):
    """The load that was asked for makes no sense."""


# @learn:production.slo
@dataclass(frozen=True)
class LoadSettings:
    """Flags of `nanochat load-test`."""

    url: str = "http://127.0.0.1:8000"
    """Server to test; --self-host starts one of its own instead."""
    self_host: bool = False
    """Start the real server as a subprocess on a free port, and stop it afterwards."""
    random_model: bool = False
    """With --self-host: serve random weights of the sizes below instead of the trained model."""
    depth: int = 4
    """Layers of the random model."""
    channels: int = 256
    """Width of the random model, channels."""
    vocab: int = 4096
    """Vocabulary of the random model, tokens."""
    context: int = 1024
    """Context of the random model, tokens."""
    server_flags: str = ""
    """With --self-host: more flags for chat-web, such as "--running-limit 16"."""
    path: str = "/v1/chat/completions"
    """Where to ask: the chat endpoint, or /v1/completions for plain text."""
    api_key: str = ""
    """Sent as a bearer token when the server wants one."""
    clients: int = 16
    """Closed loop: clients that each wait for their answer before they ask again."""
    rate: float = 0.0
    """Open loop: mean arrivals a second, at random moments; 0 uses the closed loop."""
    overload: float = 0.0
    """Open loop at this many times the rate the server can take, after measuring that; 0 is off."""
    seconds: float = 10.0
    """Length of each measured phase."""
    warmup_s: float = 2.0
    """Time before each measured phase, not counted."""
    requests: int = 0
    """Send exactly so many requests instead of measuring for --seconds; 0 is off."""
    prompt_words: int = 40
    """Length of a prompt, words."""
    max_tokens: int = 64
    """Longest answer, tokens."""
    mixed: bool = False
    """Vary lengths from a quarter to twice, share half the prefixes, stream two of three."""
    disconnect: float = 0.0
    """Share of requests whose client leaves early: in the queue, while reading or while writing."""
    slo_ttft_ms: float = 2000.0
    """A good request has its first token within this time."""
    slo_tpot_ms: float = 200.0
    """A good request has, on average, a token within this time after the first."""
    timeout_s: float = 60.0
    """A request that takes longer counts as an error."""
    usd_per_hour: float = 0.0
    """Price of the machine: with it the report says dollars per million tokens."""
    seed: int = 0
    """Decides prompts, lengths, arrivals and who leaves."""
    picture: str = ""
    """Where to write the picture (SVG); empty writes load_test.svg beside the report card."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True)
class Ask:
    """One request, ready to be sent."""

    text: str
    system: str  # "" for none; equal ones share their prefix in the server's cache
    max_tokens: int
    seed: int
    stream: bool = True
    leave_after_s: float | None = None  # leave so long after sending, whatever has come
    leave_after_tokens: int | None = None  # leave when so many pieces have come


def check(settings: LoadSettings) -> None:
    """Refuse what can't be run, before anything is started. Raises BadLoad."""
    if settings.clients < 1 or settings.seconds <= 0 or settings.max_tokens < 1:
        raise BadLoad("--clients, --seconds and --max-tokens must be positive")
    if not 0 <= settings.disconnect <= 1:
        raise BadLoad(f"--disconnect {settings.disconnect}: a share from 0 to 1")
    if settings.overload and settings.rate:
        raise BadLoad("--overload finds its own rate: leave --rate out")
    if settings.random_model and not settings.self_host:
        raise BadLoad("--random-model needs --self-host: it is for a server of our own")


def story(rng: random.Random, words: int) -> str:
    """About `words` words in the manner of TinyWorld, ending in a wish for more."""
    said: list[str] = []
    while len(said) < words - 8:
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        said += f"{name} took the {thing} to the {rng.choice(PLACES)}.".split()
    wish = f"Tell me a story about {rng.choice(NAMES)} and a {rng.choice(THINGS)}."
    return " ".join([*said, wish])


def asks(settings: LoadSettings, stream: str) -> Iterator[Ask]:
    """Requests without end; the same settings and the same `stream` name yield the same ones."""
    rng = random.Random(f"{settings.seed} {stream}")
    while True:
        size = 2 ** rng.uniform(-2, 1) if settings.mixed else 1.0
        length = 2 ** rng.uniform(-2, 1) if settings.mixed else 1.0
        leave_s: float | None = None
        leave_tokens: int | None = None
        if rng.random() < settings.disconnect:
            if rng.random() < 0.5:  # soon: still in the queue, or while the prompt is read
                leave_s = rng.uniform(0, 0.05)
            else:
                leave_tokens = rng.randint(1, max(1, settings.max_tokens // 2))
        yield Ask(
            text=story(rng, round(settings.prompt_words * size)),
            system=SHARED if settings.mixed and rng.random() < 0.5 else "",
            max_tokens=max(1, round(settings.max_tokens * length)),
            seed=rng.randrange(2**31),
            stream=leave_tokens is not None or not settings.mixed or rng.random() < 2 / 3,
            leave_after_s=leave_s,
            leave_after_tokens=leave_tokens,
        )


def poisson_times(rate: float, seconds: float, seed: str) -> list[float]:
    """Moments of arrival in [0, seconds): independent gaps, exponential with mean 1 / rate.

    >>> times = poisson_times(100.0, 50.0, "doctest")
    >>> 4700 < len(times) < 5300, times == sorted(times), times[-1] < 50
    (True, True, True)
    """
    rng = random.Random(seed)
    times: list[float] = []
    now = rng.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += rng.expovariate(rate)
    return times
