"""A request's messages -> the token ids the model reads, or one sentence why not.

Called by openai_api.py, in a worker thread because it tokenizes. Read: read_prompt ->
check_messages -> raw_prompts.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence

from nanochat.chat_format import BadConversation
from nanochat.engine import Engine
from nanochat.serve.errors import ApiError, BadMessages, PromptTooLong
from nanochat.serve.guardrails import SUSPICIOUS, check_characters, signals_in
from nanochat.serve.schemas import ChatRequest, CompletionRequest, Message, expression_of
from nanochat.serve.settings import ServeSettings

logger = logging.getLogger(__name__)


def read_prompt(
    body: ChatRequest, engine: Engine, settings: ServeSettings, max_tokens: int
) -> tuple[list[int], int]:
    """(ids ready for the answer, how many messages were left out to make room).

    Messages are left out only with truncation "auto". Raises BadMessages or PromptTooLong.
    """
    check_messages(body.messages, settings)
    messages = body.conversation()
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
        for where, text in texts_of(message):
            characters += len(text)
            check_characters(text, f"messages[{number}].{where}")
        calls = {call.id for call in message.tool_calls or []}
        if any(result.tool_call_id not in calls for result in message.tool_results or []):
            raise BadMessages(
                f"messages[{number}].tool_results answers a call that this message does not hold: "
                "send tool_calls back with it, or leave the result out",
                param=f"messages[{number}].tool_results",
            )
        if message.role != "assistant" and not words_of(message).strip():
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
    look_for_signals(words_of(message) for message in messages if message.role != "assistant")
    if messages[-1].role != "user":
        raise BadMessages(
            f"the last message is from the {messages[-1].role}: it must be from the user, "
            "because that is the one to answer",
            param=f"messages[{len(messages) - 1}].role",
        )


def words_of(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text for part in message.content or [])


def texts_of(message: Message) -> Iterator[tuple[str, str]]:
    """Every text of a message that a client could write, with its place in it."""
    yield "content", words_of(message)
    for number, call in enumerate(message.tool_calls or []):
        yield f"tool_calls[{number}].id", call.id
        # As the model will read it: in the JSON around it, any character can be written otherwise.
        expression = expression_of(call.function.arguments)
        yield f"tool_calls[{number}].function.arguments", expression
    for number, result in enumerate(message.tool_results or []):
        yield f"tool_results[{number}].tool_call_id", result.tool_call_id
        yield f"tool_results[{number}].content", result.content


def look_for_signals(texts: Iterable[str]) -> None:
    """Note attempts to steer the model, in one line a request that holds none of the texts.

    Nothing is blocked. The score is that of the text that shows the most.
    """
    found = [signals for text in texts if sum((signals := signals_in(text)).values()) >= SUSPICIOUS]
    if found:
        fields = {
            "event": "guardrail",
            "signals": sorted(set().union(*found)),
            "score": max(sum(signals.values()) for signals in found),
            "texts": len(found),
        }
        logger.warning("a prompt shows signs of injection", extra={"fields": fields})


def raw_prompts(
    body: CompletionRequest, engine: Engine, settings: ServeSettings
) -> list[tuple[list[int], str]]:
    """Each prompt of POST /v1/completions as (ids, its name in the request). Raises ApiError."""
    given = body.prompt
    if isinstance(given, str):
        texts: list[str | list[int]] = [given]
    elif all(isinstance(item, str) for item in given):
        texts = [item for item in given if isinstance(item, str)]
    else:
        texts = [[item for item in given if isinstance(item, int)]]
    if len(texts) > settings.max_choices:
        raise ApiError(f"{len(texts)} prompts, limit {settings.max_choices}", param="prompt")
    prompts = []
    for number, text in enumerate(texts):
        where = "prompt" if len(texts) == 1 else f"prompt[{number}]"
        prompts.append((raw_ids(text, where, engine, settings), where))
    if not prompts:
        raise ApiError("prompt is an empty list: send at least one text", param="prompt")
    return prompts


def raw_ids(
    text: str | list[int], where: str, engine: Engine, settings: ServeSettings
) -> list[int]:
    """A text after the token that begins documents, or ids as they are."""
    if isinstance(text, str):
        if len(text) > settings.max_characters:
            raise ApiError(
                f"{where}: {len(text):,} characters, limit {settings.max_characters:,}: send less",
                param=where,
            )
        check_characters(text, where)
        look_for_signals([text])
        ids = [engine.tokenizer.special("bos"), *engine.tokenizer.encode(text)]
    else:
        ids = text
        # Special tokens are the server's to write: a client's ids are words only.
        if not ids or max(ids) >= engine.tokenizer.special("bos"):
            raise ApiError(
                f"{where}: ids from 0 to {engine.tokenizer.special('bos') - 1}, at least one",
                param=where,
            )
        ids = [engine.tokenizer.special("bos"), *ids]
    if len(ids) >= engine.context:
        raise PromptTooLong(
            f"{where} is {len(ids)} tokens and the model reads at most {engine.context}, "
            "its answer included: shorten it",
            param=where,
            prompt_tokens=len(ids),
            context=engine.context,
        )
    return ids
