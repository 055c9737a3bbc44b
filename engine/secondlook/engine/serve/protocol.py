"""What serving needs of an engine, so that neither knows the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions, ModelCard

if TYPE_CHECKING:
    from secondlook.engine.decode.scheduler import Request
    from secondlook.engine.engine import FinalAnswer, FirstLook, Pending
    from secondlook.engine.models.vision import Square

__all__ = ["TwoLookEngine"]


class TwoLookEngine(Protocol):
    """What the server needs of an engine; `secondlook.engine.engine.Engine` is one, and says more.

    One thread calls it; `card`, `slots` and `square` may be used on any.
    """

    @property
    def card(self) -> ModelCard:
        """What an edge must know."""
        ...

    @property
    def slots(self) -> int:
        """Looks that are computed at once; more of them wait."""
        ...

    def square(self, image: Image.Image) -> Square:
        """A picture as the looks take it."""
        ...

    def start_first_look(
        self,
        global_image: Square,
        question: str,
        original: Size,
        options: AnswerOptions,
        *,
        client: str,
        on_region: Callable[[FirstLook], None],
    ) -> Request[FirstLook]: ...

    def start_second_look(
        self,
        pending: Pending,
        local_image: Square,
        *,
        after: Request[FirstLook] | None,
        sent_bytes: int,
    ) -> Request[FinalAnswer]: ...

    def round(self) -> bool:
        """Compute a little of every look in progress; False when there is none."""
        ...

    def cancel(self, task: Request[Any]) -> None:
        """End a look that nobody waits for."""
        ...
