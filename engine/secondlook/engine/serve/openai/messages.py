"""What a client of OpenAI's API sends: fields that mean something here; others are passed over and told."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.serve.openai.errors import ChatError, unsupported

__all__ = ["ZOOM_TOOL", "ChatMessage", "ChatRequest", "Extension", "Part", "ToolCall", "read_request"]

ZOOM_TOOL: Final = "image_zoom_in_tool"
"""The tool by which agents look closer, as Qwen's models were taught it."""

_MOST_LIKELIEST: Final = 20

_MOST_ENTRIES: Final = 2048
"""Of a list in a request: as many messages as OpenAI takes."""

_MOST_TOLD: Final = 64
"""Unknown fields that are named of one request."""

_LONGEST_NAME: Final = 100

_MOST_PROBLEMS: Final = 8
"""Of a request that are told."""

EntryT = TypeVar("EntryT")

_Entries = Annotated[list[EntryT], Field(max_length=_MOST_ENTRIES, fail_fast=True)]
"""A list whose first mistake is told, as there may be millions."""


class _Message(BaseModel):
    """Immutable; unknown fields are kept, so that they can be told."""

    model_config = ConfigDict(frozen=True, extra="allow")


class ImageUrl(_Message):
    """Where a picture is: `data:`, or a host that the operator allows."""

    url: str
    detail: str | None = None


class Part(_Message):
    """A part of a message's content; a picture may be nothing but the `uuid` that it came with before."""

    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None
    uuid: str | None = Field(default=None, min_length=1, max_length=200)


class Called(_Message):
    """A function and its arguments, JSON in a text."""

    name: str
    arguments: str = "{}"


class ToolCall(_Message):
    """A tool's call, as the reply had it."""

    id: str
    type: str = "function"
    function: Called


class ChatMessage(_Message):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | _Entries[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: _Entries[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def parts(self) -> list[Part]:
        """Its content as parts."""
        if isinstance(self.content, str):
            return [Part(type="text", text=self.content)]
        return self.content or []


class Function(_Message):
    """What a tool is called; the rest is for models that read it."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Message):
    """A tool that may be called."""

    type: str
    function: Function | None = None


class NamedFunction(_Message):
    """A tool's name."""

    name: str


class NamedTool(_Message):
    """The tool that is to be called."""

    type: str = "function"
    function: NamedFunction


class StreamOptions(_Message):
    """What a stream tells besides."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class OriginalSize(_Message):
    """Width and height of an upright original picture, in pixels."""

    width: PositiveInt
    height: PositiveInt


class Extension(AnswerOptions):
    """`secondlook` in a request: the edge's own options.

    Attributes:
        original: the size of the original, where the picture sent is already shrunk.
    """

    original: OriginalSize | None = None

    @property
    def options(self) -> AnswerOptions:
        """Without what is not the edge's."""
        return AnswerOptions.model_construct(
            **{name: getattr(self, name) for name in AnswerOptions.model_fields}
        )

    @property
    def size(self) -> Size | None:
        """Of the original."""
        return None if self.original is None else Size(self.original.width, self.original.height)


class ChatRequest(_Message):
    """The body of `POST /v1/chat/completions`."""

    model: str | None = None
    messages: Annotated[_Entries[ChatMessage], Field(min_length=1)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: PositiveInt | None = Field(default=None, description="The older name of the next.")
    max_completion_tokens: PositiveInt | None = Field(default=None, description="Of each look's answer.")
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = Field(default=False, description="As min_tokens with as many as there may be.")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        default=None, description="0, or OpenAI's default, 1: answers are always the likeliest tokens."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Of no effect: the likeliest token is always among them."
    )
    n: PositiveInt | None = 1
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=_MOST_LIKELIEST)] | None = None
    tools: _Entries[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    stop: str | _Entries[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    seed: int | None = Field(default=None, description="Of no effect: nothing is drawn by chance.")
    user: str | None = None
    secondlook: Extension | None = None

    @model_validator(mode="after")
    def _check_fields(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.limit is not None and (self.min_tokens or 0) > self.limit:
            raise ValueError(f"min_tokens is {self.min_tokens}, but an answer may have {self.limit}")
        return self

    @property
    def limit(self) -> int | None:
        """Tokens of an answer at most, where the request says."""
        extension = None if self.secondlook is None else self.secondlook.max_new_tokens
        return self.max_completion_tokens or self.max_tokens or extension

    @property
    def zooms(self) -> bool:
        """Whether the client looks closer itself, by the tool."""
        named = {tool.function.name for tool in self.tools or () if tool.function is not None}
        if isinstance(self.tool_choice, NamedTool):
            return self.tool_choice.function.name == ZOOM_TOOL and ZOOM_TOOL in named
        return self.tool_choice != "none" and ZOOM_TOOL in named

    @property
    def must_zoom(self) -> bool:
        """Whether it is to be called in any case."""
        return self.zooms and self.tool_choice not in (None, "auto")

    def unknown(self) -> tuple[str, ...]:
        """Names of fields that mean nothing here; not of all where they are many, and not all of each."""
        names = (name[:_LONGEST_NAME] for name in islice(_unknown(self), _MOST_ENTRIES))
        return tuple(islice(dict.fromkeys(names), _MOST_TOLD))


def _unknown(value: object) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from _unknown(one)
    elif isinstance(value, BaseModel):
        yield from value.model_extra or ()
        for name in type(value).model_fields:
            yield from (f"{name}.{inner}" for inner in _unknown(getattr(value, name)))


def _field(place: tuple[int | str, ...]) -> str:
    """A field's name, in one line."""
    return " ".join(".".join(map(str, place))[:_LONGEST_NAME].split())


def read_request(body: bytes) -> ChatRequest:
    """A request from JSON, with nothing in it that cannot be done.

    Raises:
        ChatError: it is none, or asks for more.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        if error.error_count() > _MOST_ENTRIES:  # to list them would take long
            raise ChatError("the request is wrong in thousands of places", code="invalid_field") from None
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        first = problems[0]
        if first["type"] == "json_invalid":
            raise ChatError(
                f"the body is no JSON: {first['msg'].partition(': ')[2]}", code="invalid_json"
            ) from error
        told = "; ".join(
            f"{_field(each['loc']) or 'the body'}: {each['msg'].removeprefix('Value error, ')}"
            for each in problems[:_MOST_PROBLEMS]
        )
        raise ChatError(told, param=_field(first["loc"]) or None, code="invalid_field") from error
    _check_supported(request)
    return request


def _check_supported(request: ChatRequest) -> None:
    """Refuse what would change the answer elsewhere, and cannot be done here."""
    if request.temperature not in (None, 0, 1):
        raise unsupported(
            "temperature",
            f"{request.temperature:g}",
            "answers are always the likeliest tokens: send 0, or leave it out",
        )
    if request.n not in (None, 1):
        raise unsupported("n", str(request.n), "there is one answer to a question: send 1, or leave it out")
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(request, name):
            raise unsupported(name, f"{getattr(request, name):g}", "send 0, or leave it out")
    if request.logit_bias:
        raise unsupported("logit_bias", "given", "leave it out")
    if request.stop:
        raise unsupported("stop", repr(request.stop)[:100], "an answer ends by itself: leave it out")
    kind = (request.response_format or {}).get("type", "text")
    if kind != "text":
        raise unsupported("response_format", repr(kind)[:100], "answers are plain text: leave it out")
