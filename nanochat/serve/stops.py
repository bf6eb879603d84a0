"""Words that end an answer, and secrets that must not leave in one: both need to look ahead.

A token may bring half of a stop word, so its text is held back until it is clear whether the rest
follows. The scheduler calls these for every token, in its thread.
Called by openai_api.py. Read: StopWords -> overlap -> Redactor -> chain.
"""

import re
from collections.abc import Callable, Sequence

from nanochat.engine import TokenEvent
from nanochat.scheduler import held_back

Watch = Callable[[TokenEvent], TokenEvent]
LONGEST_HEADER = 60  # characters of a private key's first line
LONGEST_SECRET = 400  # characters; a longer run without a space is let go


class StopWords:
    """Ends the answer just before the first of `words`; calculator calls are not looked at."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = [word for word in words if word]
        self.held = ""

    def __call__(self, event: TokenEvent) -> TokenEvent:
        if event.kind != "text":
            return event
        text = self.held + event.text
        places = [place for word in self.words if (place := text.find(word)) >= 0]
        if places:
            return held_back(event, text[: min(places)], finished=True)
        keep = 0 if event.finish_reason else max((overlap(text, w) for w in self.words), default=0)
        self.held = text[len(text) - keep :]
        return held_back(event, text[: len(text) - keep], finished=False)


def overlap(text: str, word: str) -> int:
    """How many characters at the end of `text` could be the beginning of `word`.

    >>> overlap("a line\\n", "\\n\\nQ"), overlap("abc", "x")
    (1, 0)
    """
    longest = min(len(text), len(word) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(word[:n])), 0)


# Shapes of secrets that people paste; a learner's model may repeat them from its data.
SECRETS = re.compile(
    r"sk-[A-Za-z0-9_-]{20,}"  # API keys of several hosts
    r"|AKIA[0-9A-Z]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{36,}"  # GitHub
    r"|xox[abpr]-[A-Za-z0-9-]{10,}"  # Slack
    r"|AIza[0-9A-Za-z_-]{35}"  # Google
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"  # JSON web tokens
    r"|-----BEGIN(?: [A-Z]+)* PRIVATE KEY-----"
)
REDACTED = "[redacted]"


def redact(text: str) -> str:
    """
    >>> redact("key AKIAABCDEFGHIJKLMNOP, keep it")
    'key [redacted], keep it'
    """
    return SECRETS.sub(REDACTED, text)


class Redactor:
    """Replaces secrets in the answer: the last word is held until it is complete."""

    def __init__(self) -> None:
        self.held = ""

    def __call__(self, event: TokenEvent) -> TokenEvent:
        if event.kind != "text":
            return event
        text = self.held + event.text
        # A private key's first line has spaces: its dashes hold it together as one word.
        cut = len(text) if event.finish_reason else complete_until(text)
        self.held = text[cut:]
        return held_back(event, redact(text[:cut]), finished=False)


def complete_until(text: str) -> int:
    """Where the last word, which may still grow into a secret, begins."""
    begin = text.rfind("-----BEGIN")
    last = text.find("KEY-----", begin) if begin >= 0 else -1
    if begin >= 0 and last < 0 and len(text) - begin < LONGEST_HEADER:
        return begin
    end = last + len("KEY-----") if last >= 0 else 0
    place = max(end, max(text.rfind(space) for space in " \n\t") + 1)
    return place if len(text) - place <= LONGEST_SECRET else len(text)


def chain(watches: Sequence[Watch]) -> Watch | None:
    """One watch out of several, each seeing what the one before it let through."""
    if not watches:
        return None

    def watch(event: TokenEvent) -> TokenEvent:
        for each in watches:
            event = each(event)
        return event

    return watch
