"""What serving needs of an engine, so that neither knows the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions, ModelCard

if TYPE_CHECKING:
    from secondlook.engine.decode.token_options import TokenOptions
    from secondlook.engine.progress import InProgress
    from secondlook.engine.results import FinalAnswer, FirstLook, LocalImage, Look, Pending, Question, Usage

__all__ = ["Outside", "TwoLookEngine"]


class Outside(Protocol):
    """What an engine waits for, where what computes is not in this thread. May be used on any."""

    def wake(self) -> None:
        """Have a `round` that waits return."""
        ...

    def check(self) -> None:
        """Raise a SecondLookError that says why nothing can be answered now; takes seconds at most."""
        ...

    def close(self) -> None:
        """Leave it. Called once, on the inference thread, when there is no look any more."""
        ...


class TwoLookEngine(Protocol):
    """What the server needs of an engine; `secondlook.engine.engine.Engine` is one, and says more.

    One thread calls it; the properties, `prepare`, `prepare_local` and `token_texts` may be used on any.
    """

    @property
    def outside(self) -> Outside | None:
        """What computes for it elsewhere; None: it computes itself."""
        ...

    @property
    def card(self) -> ModelCard:
        """What an edge must know."""
        ...

    @property
    def slots(self) -> int:
        """Looks that are computed at once; more of them wait."""
        ...

    @property
    def usage(self) -> Usage:
        """What its cache is used for."""
        ...

    @property
    def max_question_characters(self) -> int:
        """Longest question taken."""
        ...

    @property
    def context(self) -> str | None:
        """How an earlier answer is put behind a question, where the model has learnt to read that; see
        `secondlook.engine.context`."""
        ...

    def prepare(
        self,
        global_image: Image.Image,
        question: str,
        original: Size,
        options: AnswerOptions,
        *,
        client: str,
        wanted: TokenOptions = ...,
        jpeg: bytes | None = ...,
    ) -> Question:
        """A question as the first look takes it, checked; `jpeg` is its picture as it came, if as one."""
        ...

    def prepare_local(
        self, pending: Pending, local_image: Image.Image, *, jpeg: bytes | None = ...
    ) -> LocalImage:
        """A region's picture as the second look takes it."""
        ...

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Each token as text."""
        ...

    def start_first_look(
        self,
        question: Question,
        *,
        on_region: Callable[[FirstLook], None],
        on_tokens: Callable[[Look], None] | None,
    ) -> InProgress[FirstLook]: ...

    def start_second_look(
        self,
        pending: Pending,
        local_image: LocalImage,
        *,
        after: InProgress[FirstLook] | None,
        sent_bytes: int,
        on_tokens: Callable[[Look], None] | None,
    ) -> InProgress[FinalAnswer]: ...

    def round(self) -> bool:
        """Compute a little of every look in progress, or wait for some of it; False when there is none."""
        ...

    def cancel(self, request: InProgress[Any]) -> None:
        """End a look that nobody waits for."""
        ...
