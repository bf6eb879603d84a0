"""What a log file would hold. Used by test_serving_prompts.py and test_serving_refusals.py."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nanochat.observe.logs import JsonFormatter


@contextmanager
def logged(name: str = "nanochat") -> Iterator[list[dict[str, Any]]]:
    """Every line as it would be written from now on, read as JSON."""
    lines: list[dict[str, Any]] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter().format(record)))

    handler, logger = Lines(), logging.getLogger(name)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
