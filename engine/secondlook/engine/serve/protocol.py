"""What serving needs of an engine, so that neither knows the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions, ModelCard

if TYPE_CHECKING:
    from secondlook.engine.decode.flows import Request
    from secondlook.engine.decode.token_options import TokenOptions
    from secondlook.engine.results import FinalAnswer, FirstLook, LocalImage, Look, Pending, Question, Usage

__all__ = ["TwoLookEngine"]


class TwoLookEngine(Protocol):
    """What the server needs of an engine; `secondlook.engine.engine.Engine` is one, and says more.

    One thread calls it; the properties, `prepare`, `prepare_local` and `token_texts` may be used on any.
    """

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
    ) -> Question:
        """A question as the first look takes it, checked and tokenised."""
        ...

    def prepare_local(self, pending: Pending, local_image: Image.Image) -> LocalImage:
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
    ) -> Request[FirstLook]: ...

    def start_second_look(
        self,
        pending: Pending,
        local_image: LocalImage,
        *,
        after: Request[FirstLook] | None,
        sent_bytes: int,
        on_tokens: Callable[[Look], None] | None,
    ) -> Request[FinalAnswer]: ...

    def round(self) -> bool:
        """Compute a little of every look in progress; False when there is none."""
        ...

    def cancel(self, request: Request[Any]) -> None:
        """End a look that nobody waits for."""
        ...
