"""Structured logs: one JSON object a line, written by a thread of its own, so nobody waits for it.

A full disk, a closed pipe or a reader that has stopped reading costs log lines, which are counted,
and never a request. What is logged is a list of named fields; prompts and answers are not among
them. Of an exception it is the kind and the place, not the words. Field names are those that
Google's Cloud Logging recognises (severity, message).
Called by serve/ and scripts/chat_web.py.
Read: JsonFormatter -> stack_of -> LineWriter -> start_logging.
Not covered: rotation; that is logrotate's work, or the container platform's.
"""

import json
import logging
import os
import queue
import sys
import threading
import time
import traceback
from functools import lru_cache
from pathlib import Path
from typing import Any

from nanochat.observe.request_context import current

QUEUE_LINES = 10_000  # about 5 MB; a burst beyond what the disk takes is dropped, not held
BATCH_LINES = 200
GATHER_S = 0.05  # a write for each line would cost more than the line
ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)


# @learn:production.structured_logs
class JsonFormatter(logging.Formatter):
    """A record as one line of JSON, with the ids of the request it belongs to.

    Fields travel in `extra`: logger.info("answered", extra={"fields": {"status": 200}}).
    """

    def format(self, record: logging.LogRecord) -> str:
        """A log record as one line of JSON."""
        line: dict[str, Any] = {
            "timestamp": f"{second(int(record.created))}.{int(record.msecs):03d}Z",
            "severity": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
        }
        context = current.get()
        if context is not None:
            line["request_id"] = context.request_id
            line["trace_id"], line["span_id"] = context.trace_id, context.span_id
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["stack"] = stack_of(record.exc_info[1])
        return ENCODER.encode(line)  # which escapes every line break


def stack_of(error: BaseException | None) -> str:
    """Where an exception came from and of which kinds it and its causes are, without their words:
    a message may quote what it choked on, such as a prompt or a key.

    >>> stack_of(KeyError("my secret"))
    'KeyError'
    """
    pieces: list[str] = []
    seen: set[int] = set()  # an exception can be its own cause
    left = [error]
    while left:
        error = left.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        # The lines between are of our files: code, never data.
        frames = "".join(traceback.format_tb(error.__traceback__))
        pieces.append(f"{frames}{type(error).__qualname__}")
        if isinstance(error, BaseExceptionGroup):
            left += error.exceptions
        left.append(error.__cause__ or (None if error.__suppress_context__ else error.__context__))
    return "\nfrom:\n".join(pieces)


@lru_cache(8)  # many lines fall into one second
def second(since_1970: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since_1970))


class LineWriter(logging.Handler):
    """Hands lines to a thread that writes them to a file descriptor; counts those it lost."""

    def __init__(self, target: str, capacity: int = QUEUE_LINES) -> None:
        """`target` is "stderr" or a path. Raises OSError when the file can't be opened."""
        super().__init__()
        self.capacity, self.lost = capacity, 0
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        if target == "stderr":
            self.descriptor = os.dup(sys.stderr.fileno())
        else:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        self.closing = threading.Event()
        self.torn = False  # the last write ended in the middle of a line
        self.setFormatter(JsonFormatter())
        self.thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self.thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line to the writing thread; when it can't keep up, count the line as lost."""
        if self.lines.qsize() >= self.capacity:
            self.lost += 1
            return
        try:
            self.lines.put(self.format(record))
        except (TypeError, ValueError, RecursionError):  # fields that are no JSON
            self.lost += 1

    def close(self) -> None:
        """Write what is queued, but wait for a stuck disk or pipe no longer than a second."""
        if self.thread.is_alive():
            self.closing.set()
            self.lines.put(None)
            self.thread.join(1.0)
        super().close()

    def _run(self) -> None:
        ended = False
        while not ended:
            batch = [self.lines.get()]
            self.closing.wait(GATHER_S)
            while len(batch) < BATCH_LINES and not self.lines.empty():
                batch.append(self.lines.get())
            ended = None in batch
            self._write([line for line in batch if line is not None])

    def _write(self, lines: list[str]) -> None:
        """All of them or as many as there is room for; what is lost is counted, by lines."""
        text = "\n" * self.torn + "".join(f"{line}\n" for line in lines)
        data = text.encode("utf-8", "backslashreplace")
        written = 0
        try:
            while written < len(data):
                written += os.write(self.descriptor, data[written:])
        except OSError:
            self.lost += data.count(b"\n", written)
        if written:  # a line cut in the middle gets its end before the next one begins
            self.torn = data[written - 1] != ord("\n")


def start_logging(target: str, level: str = "INFO") -> LineWriter | None:
    """Send our log and the web server's to `target`: "stderr", a path, or "none"."""
    writer = None if target == "none" else LineWriter(target)
    for name in ("nanochat", "uvicorn"):
        logger = logging.getLogger(name)
        # Without any handler Python itself would print warnings and whole exceptions to stderr.
        logger.handlers[:] = [writer or logging.NullHandler()]
        logger.setLevel(level)
        logger.propagate = False
    return writer
