"""A request's messages -> the token ids the model reads, or one sentence why not.

Called by chat_app.py, in a worker thread because it tokenizes. Read: read_prompt -> check_messages.
"""

from collections.abc import Sequence

from nanochat.chat_format import BadConversation
from nanochat.engine import Engine
from nanochat.serve.errors import BadMessages, PromptTooLong
from nanochat.serve.schemas import ChatRequest, Message
from nanochat.serve.settings import ServeSettings


def read_prompt(
    body: ChatRequest, engine: Engine, settings: ServeSettings, max_tokens: int
) -> tuple[list[int], int]:
    """(ids ready for the answer, how many messages were left out to make room).

    Messages are left out only with truncation "auto". Raises BadMessages or PromptTooLong.
    """
    check_messages(body.messages, settings)
    messages = [message.model_dump() for message in body.messages]
    try:
        ids, dropped = engine.tokenizer.render_for_completion({"messages": messages}), 0
    except BadConversation as error:
        raise BadMessages(str(error), param="messages") from None
    if body.truncation == "auto" and len(messages) > 2:
        ids, dropped = shortened(ids, messages, engine, max_tokens)
    if len(ids) >= engine.context:
        raise PromptTooLong(
            f"the conversation is {len(ids)} tokens and the model reads at most {engine.context}, "
            "its answer included: shorten the message, leave out earlier turns or start a new chat",
            param="messages",
            prompt_tokens=len(ids),
            context=engine.context,
        )
    return ids, dropped


def shortened(
    ids: list[int], messages: list[dict], engine: Engine, max_tokens: int
) -> tuple[list[int], int]:
    """Without the oldest turns, where the whole conversation leaves too little room to answer."""
    lead = messages[:1] if messages[0]["role"] == "system" else []
    alone = engine.tokenizer.render_for_completion({"messages": [*lead, messages[-1]]})
    if len(alone) >= engine.context:
        return alone, 0  # nothing helps: the last message alone is too long
    return engine.prompt_for(messages, max_tokens)


def check_messages(messages: Sequence[Message], settings: ServeSettings) -> None:
    """What can be told before anything is tokenized: how many, how long, empty, who is last."""
    if not messages:
        raise BadMessages("messages is empty: send at least one from the user", param="messages")
    if len(messages) > settings.max_messages:
        raise BadMessages(
            f"{len(messages)} messages, limit {settings.max_messages}: leave out earlier turns",
            param="messages",
        )
    characters = 0
    for number, message in enumerate(messages):
        text = text_of(message)
        characters += len(text)
        if message.role != "assistant" and not text.strip():
            raise BadMessages(
                f"messages[{number}] from the {message.role} is empty: write something",
                param=f"messages[{number}].content",
            )
    if characters > settings.max_characters:
        raise BadMessages(
            f"{characters:,} characters, limit {settings.max_characters:,}: shorten the "
            "conversation or start a new chat",
            param="messages",
        )
    if messages[-1].role != "user":
        raise BadMessages(
            f"the last message is from the {messages[-1].role}: it must be from the user, "
            "because that is the one to answer",
            param=f"messages[{len(messages) - 1}].role",
        )


def text_of(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text for part in message.content)
