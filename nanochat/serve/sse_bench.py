"""What a token costs on its way out: from the engine's news to the bytes of a server-sent event.

The event loop does this for every token of every stream, so it bounds how many streams one loop
can feed. Called by scripts/bench.py. Read: bench_sse -> time_frames.
"""

import asyncio
import statistics
import time
from dataclasses import dataclass

from nanochat.engine import Answer, TokenEvent
from nanochat.sampling import Sampling
from nanochat.scheduler import Deaf, Request, Written
from nanochat.serve.engine_thread import Ticket, Tickets
from nanochat.serve.replies import ChatReply
from nanochat.tokenizer import Tokenizer

ANSWER_TOKENS = 256


@dataclass(frozen=True)
class SseBenchSettings:
    """Microseconds to turn one written token into the bytes of its server-sent event."""

    tokens: int = 20_000  # tokens in a round
    rounds: int = 7  # rounds; the median counts
    json: bool = False  # print one JSON object as the last line


def bench_sse(settings: SseBenchSettings) -> dict[str, float]:
    """`frame_us`: text to bytes. `token_us`: all that the event loop does for a token."""
    return asyncio.run(time_frames(settings))


async def time_frames(settings: SseBenchSettings) -> dict[str, float]:
    """Microseconds to make one frame of a stream, and one token's share."""
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)})
    request = Request(Answer([0], Sampling(), tokenizer), Deaf())
    ticket = Ticket(0, request, asyncio.Queue())
    written = Written(request, TokenEvent(65, " the", "text", False))
    frame_us: list[float] = []
    token_us: list[float] = []
    for _ in range(settings.rounds):
        reply = ChatReply("nanochat-d4-sft", Tickets([ticket], ticket.queue), tokenizer, 1)
        start = time.perf_counter()
        for _ in range(settings.tokens):
            reply.text_frame(0, " the")
        middle = time.perf_counter()
        for number in range(settings.tokens):
            if number % ANSWER_TOKENS == 0:  # what an answer has said grows with it
                reply = ChatReply("nanochat-d4-sft", Tickets([ticket], ticket.queue), tokenizer, 1)
            for _ in reply.events(ticket, written):
                pass
        end = time.perf_counter()
        frame_us.append(1e6 * (middle - start) / settings.tokens)
        token_us.append(1e6 * (end - middle) / settings.tokens)
    return {
        "frame_us": round(statistics.median(frame_us), 3),
        "token_us": round(statistics.median(token_us), 3),
        "frame_bytes": len(reply.text_frame(0, " the")),
    }
