"""A conversation as a flat list of segments: special token or text, and whether it is trained on.

    {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}
    -> <|bos|> <|user_start|> 2+2? <|user_end|> <|assistant_start|> 4 <|assistant_end|>
                                                                    ^ ^ mask 1: what it must learn

No token ids here: tokenizer.py turns the segments into ids. Called by tokenizer.py (training and
completion) and by whoever wants to check a conversation before it is used.
Read: SPECIALS -> segments -> user_turn / assistant_turn -> checked_messages.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from nanochat.errors import UserError

# @learn:tokenization.special_tokens
# The nine special tokens. They are the last nine ids of every vocabulary, in this order.
SPECIALS = (
    "bos",  # begins every document and every conversation
    "user_start",
    "user_end",
    "assistant_start",
    "assistant_end",
    "python_start",  # the assistant calls the calculator ...
    "python_end",
    "output_start",  # ... and the calculator's answer comes back
    "output_end",
)

Conversation = dict[str, Any]


class BadConversation(UserError):
    """A conversation breaks the format: wrong roles, order or content."""


class NothingToLearn(BadConversation):
    """After cutting to the limit no token of an answer is left, so a row would train nothing."""


class Segment(NamedTuple):
    """One stretch of a rendered conversation; exactly one of `special` and `text` is given."""

    special: str | None
    text: str | None
    learn: int  # 1 where the model must predict it, 0 where it is only given


def special_text(name: str) -> str:
    """
    >>> special_text("bos")
    '<|bos|>'
    """
    return f"<|{name}|>"


# @learn:tokenization.chat_rendering
def segments(conversation: Conversation) -> Iterator[Segment]:
    """The whole conversation in order. Raises BadConversation.

    >>> for s in segments({"messages": [{"role": "user", "content": "Hi"}]}): print(*s)
    bos None 0
    user_start None 0
    None Hi 0
    user_end None 0
    """
    yield Segment("bos", None, 0)
    for message in checked_messages(conversation):
        if message["role"] == "user":
            yield from user_turn(message["content"])
        else:
            yield from assistant_turn(message["content"])


def user_turn(content: Any) -> Iterator[Segment]:
    yield Segment("user_start", None, 0)
    yield Segment(None, plain_text(content), 0)
    yield Segment("user_end", None, 0)


# @learn:tokenization.loss_mask
def assistant_turn(content: Any) -> Iterator[Segment]:
    """Learned: its words, its calls of the calculator with both delimiters, and when to stop.

    The calculator's output is not learned: the engine writes it, the model only reads it.
    """
    yield Segment("assistant_start", None, 0)
    for kind, text in parts_of(content):
        if kind == "text":
            yield Segment(None, text, 1)
        elif kind == "python":
            yield Segment("python_start", None, 1)
            yield Segment(None, text, 1)
            yield Segment("python_end", None, 1)
        else:
            yield Segment("output_start", None, 0)
            yield Segment(None, text, 0)
            yield Segment("output_end", None, 0)
    yield Segment("assistant_end", None, 1)


def prompt_of(conversation: Conversation) -> Conversation:
    """The conversation without a final assistant message: what a model is asked to complete."""
    messages = messages_of(conversation)
    if messages and isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
        messages = messages[:-1]
    if not messages or messages[-1].get("role") != "user":
        raise BadConversation("nothing to answer: a prompt ends with a user message")
    return {"messages": messages}


def checked_messages(conversation: Conversation) -> list[dict[str, Any]]:
    """Messages that alternate user, assistant, user, ...; a leading system message is merged.

    The system text is put before the first user message with an empty line between, because the
    vocabulary has no system token.
    """
    messages = messages_of(conversation)
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise BadConversation(f"message {number} has no 'role' and 'content': {message!r:.80}")
    if messages and messages[0]["role"] == "system":
        if len(messages) < 2 or messages[1]["role"] != "user":
            raise BadConversation("a system message must be followed by a user message")
        merged = plain_text(messages[0]["content"]) + "\n\n" + plain_text(messages[1]["content"])
        messages = [{"role": "user", "content": merged}, *messages[2:]]
    if not messages:
        raise BadConversation("the conversation has no messages: it needs at least one")
    for number, message in enumerate(messages):
        wanted = ("user", "assistant")[number % 2]
        if message["role"] != wanted:
            raise BadConversation(
                f"message {number} is from {message['role']!r} where {wanted!r} was expected: "
                "roles must alternate user, assistant, user, ... (one system message may lead)"
            )
    return messages


def messages_of(conversation: Conversation) -> list[Any]:
    """The list of messages. Raises BadConversation when there is none."""
    messages = conversation.get("messages") if isinstance(conversation, dict) else None
    if not isinstance(messages, list):
        raise BadConversation(
            f'a conversation is {{"messages": [...]}}, this is {conversation!r:.80}'
        )
    return messages


def plain_text(content: Any) -> str:
    """The text of a user or system message, which has no tool parts."""
    parts = parts_of(content)
    if any(kind != "text" for kind, _ in parts):
        raise BadConversation("only an assistant message may hold python or python_output parts")
    return "".join(text for _, text in parts)


def parts_of(content: Any) -> list[tuple[str, str]]:
    """Content, a string or a list of typed parts, as [(kind, text), ...]."""
    if isinstance(content, str):
        return [("text", content)]
    if not isinstance(content, list):
        raise BadConversation(f"content is text or a list of parts, this is {content!r:.80}")
    parts = []
    for part in content:
        kind, text = (part.get("type"), part.get("text")) if isinstance(part, dict) else (None, 0)
        if kind not in ("text", "python", "python_output") or not isinstance(text, str):
            raise BadConversation(
                f"a part is {{'type': 'text'|'python'|'python_output', 'text': ...}}: {part!r:.80}"
            )
        parts.append((kind, text))
    return parts
