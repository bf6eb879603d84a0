"""What a client may send: OpenAI's names, our limits, and nothing that would quietly do nothing.

A field that we don't know is refused by name, so that nobody waits for an effect that never comes.
Called by openai_api.py. Read: Part -> Message -> Asked -> ChatRequest / CompletionRequest.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
StopWord = Annotated[str, Field(min_length=1, max_length=200)]
Id = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """No unknown fields, and no quiet conversions such as "1" -> 1."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Part(Strict):
    """A piece of an earlier answer: words, a calculator call, or what the calculator said."""

    type: Literal["text", "python", "python_output"]
    text: str


class Called(Strict):
    """The function of a tool call in an earlier answer."""

    name: Literal["calculator"]
    arguments: str


class ToolCall(Strict):
    """A calculator call as this server sent it."""

    id: str
    type: Literal["function"] = "function"
    function: Called


class ToolResult(Strict):
    """What the calculator said, as this server sent it."""

    tool_call_id: str
    content: str


class Message(Strict):
    """One turn. Text in it is only ever text: it can't become a special token.

    An answer of this server may be sent back as it came, its tool calls and results included.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None
    name: None = None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None
    tool_results: list[ToolResult] | None = None


class StreamOptions(Strict):
    """How a stream ends."""

    include_usage: bool = False  # one more chunk, without choices, with the numbers of tokens


class Asked(Strict):
    """What both kinds of request share; what is left out takes the server's default."""

    model: str | None = None
    temperature: Finite | None = Field(default=None, ge=0, le=2)
    top_k: int | None = Field(default=None, ge=0, le=1_000_000)  # 0 keeps all tokens
    top_p: Finite | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**53)  # JavaScript reads no larger integer
    n: int | None = Field(default=None, ge=1)
    stop: StopWord | Annotated[list[StopWord], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=256)] | None = None  # accepted, neither used nor logged

    def stop_words(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class ChatRequest(Asked):
    """The body of POST /v1/chat/completions."""

    messages: list[Message]
    max_completion_tokens: int | None = Field(default=None, ge=1)  # the newer name of max_tokens
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    # auto leaves out the oldest turns where the context is too small, and says how many
    truncation: Literal["auto", "disabled"] = "disabled"

    def top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def conversation(self) -> list[dict[str, Any]]:
        """The messages as chat_format.py wants them."""
        return [plain(message) for message in self.messages]


class CompletionRequest(Asked):
    """The body of POST /v1/completions: a text, or the ids of its tokens, to go on from."""

    prompt: str | list[Id] | list[str]
    logprobs: int | None = Field(default=None, ge=0, le=5)

    def top(self) -> int | None:
        return self.logprobs


def plain(message: Message) -> dict[str, Any]:
    """A message with its calls as parts: first the calls and their results, then the words."""
    role = "system" if message.role == "developer" else message.role
    content: Any = message.content
    if not isinstance(content, str):
        content = [part.model_dump() for part in content or []]
    if message.tool_calls:
        said = {result.tool_call_id: result.content for result in message.tool_results or []}
        parts = []
        for call in message.tool_calls:
            parts.append({"type": "python", "text": expression_of(call.function.arguments)})
            if call.id in said:
                parts.append({"type": "python_output", "text": said[call.id]})
        words = [{"type": "text", "text": content}] if isinstance(content, str) else content
        content = parts + [part for part in words if part["text"]]
    return {"role": role, "content": content}


class Arguments(Strict):
    """What the calculator is called with."""

    expression: str


def expression_of(arguments: str) -> str:
    """The text of a call; arguments that are no such JSON are taken as the expression itself."""
    try:
        return Arguments.model_validate_json(arguments).expression
    except ValueError:
        return arguments
