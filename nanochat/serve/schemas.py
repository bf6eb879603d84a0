"""What a client may send to POST /chat/completions: OpenAI's names, our limits.

A field that we don't know is refused by name, so that nobody waits for an effect that never comes.
Called by chat_app.py. Read: Part -> Message -> ChatRequest.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Strict(BaseModel):
    """No unknown fields, and no quiet conversions such as "1" -> 1."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Part(Strict):
    """A piece of an earlier answer: words, a calculator call, or what the calculator said."""

    type: Literal["text", "python", "python_output"]
    text: str


class Message(Strict):
    """One turn. Text in it is only ever text: it can't become a special token."""

    role: Literal["system", "user", "assistant"]
    content: str | list[Part]


class ChatRequest(Strict):
    """The body of POST /chat/completions; what is left out takes the server's default."""

    messages: list[Message]
    model: str | None = None
    temperature: Finite | None = Field(default=None, ge=0, le=2)
    top_k: int | None = Field(default=None, ge=0, le=1_000_000)  # 0 keeps all tokens
    top_p: Finite | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**53)  # JavaScript reads no larger integer
    stream: bool = False
    # auto leaves out the oldest turns where the context is too small, and says how many
    truncation: Literal["auto", "disabled"] = "disabled"
