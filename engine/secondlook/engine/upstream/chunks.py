"""What an upstream sends: events of a stream, and the chunks of a completion in them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Chunk", "Logprob", "TokenLogprob", "UsageTold", "events"]

_DATA: Final = b"data:"

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Told(BaseModel):
    """Immutable; what is not of use here is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Logprob(_Told):
    """A token as text, and ln p."""

    token: str
    logprob: _Finite


class TokenLogprob(Logprob):
    """A token of the answer, with the likeliest at its place."""

    top_logprobs: list[Logprob] | None = None


class _Logprobs(_Told):
    content: list[TokenLogprob] | None = None


class _Delta(_Told):
    content: str | None = None


class _Choice(_Told):
    delta: _Delta = _Delta()
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _PromptDetails(_Told):
    cached_tokens: int | None = None
    image_tokens: int | None = None


class UsageTold(_Told):
    """Tokens of prompt and answer."""

    prompt_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None


class Chunk(_Told):
    """A part of an answer; the last has `usage`. With `error` there is none."""

    choices: list[_Choice] = []
    usage: UsageTold | None = None
    error: Any = None

    @property
    def finished(self) -> bool:
        """Whether the answer is complete with it."""
        return any(choice.finish_reason is not None for choice in self.choices)


async def events(parts: AsyncIterator[bytes], most: int) -> AsyncGenerator[bytes, None]:
    """The data of server-sent events, one line each, as OpenAI's servers send them.

    Args:
        most: bytes of all of them; with more, they end.
    """
    line, read = b"", 0
    async for part in parts:
        read += len(part)
        if read > most:
            return
        *lines, line = (line + part).split(b"\n")
        for whole in lines:
            if whole.startswith(_DATA):
                yield whole[len(_DATA) :].strip()
    if line.startswith(_DATA):
        yield line[len(_DATA) :].strip()
