"""What serving needs of an engine, so that neither knows the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from PIL import Image

from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions, ModelCard

if TYPE_CHECKING:
    from secondlook.engine.looks import FinalAnswer, FirstLook, Pending

__all__ = ["TwoLookEngine"]


class TwoLookEngine(Protocol):
    """What the server needs of an engine; `secondlook.engine.looks.Engine` is one. One thread calls it."""

    @property
    def card(self) -> ModelCard:
        """What an edge must know. Read from any thread."""
        ...

    def first_look(
        self, global_image: Image.Image, question: str, original: Size, options: AnswerOptions
    ) -> FirstLook: ...

    def second_look(self, pending: Pending, local_image: Image.Image) -> FinalAnswer: ...
