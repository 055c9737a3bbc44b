"""Edge and server in one process: the whole way of one question, with everything but the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from secondlook.edge.geometry import Region, Size
from secondlook.edge.imaging import Picture, PictureSource, decode_jpeg, open_picture
from secondlook.edge.wire import AnswerOptions, AnswerReply, LookSeconds, View
from secondlook.engine.replies import final_reply, first_reply

if TYPE_CHECKING:
    from secondlook.engine.two_looks import TwoLooks

__all__ = ["LocalAnswer", "LocalEdge", "ask_locally"]


@dataclass(frozen=True)
class LocalAnswer:
    """The final reply, and what an edge would have sent for it. The tuples have one entry for each look.

    Attributes:
        bytes_up: bytes of the images' JPEGs.
        seconds: the engine's time per stage.
    """

    reply: AnswerReply
    bytes_up: tuple[int, ...]
    seconds: tuple[LookSeconds, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the names of `secondlook.edge.EdgeAnswer.to_dict` for what both know."""
        reply = self.reply
        return {
            "text": reply.answer.text,
            "uncertainty": reply.answer.uncertainty,
            "refined": reply.decision == "took_second",
            "looked_twice": reply.second is not None,
            "decision": reply.decision,
            "first": reply.first.model_dump(),
            "second": None if reply.second is None else reply.second.model_dump(),
            "region": None if reply.region is None else reply.region.model_dump(),
            "bytes_up": list(self.bytes_up),
            "relevance": None if reply.relevance is None else reply.relevance.model_dump(),
            "server_seconds": [seconds.model_dump() for seconds in self.seconds],
        }


class LocalEdge:
    """The edge's half for one picture. What it hands out went through JPEG, as if it had been sent.

    Args:
        global_view, local_view: of the model that is asked.

    Raises:
        PictureError: the picture cannot be used.
    """

    def __init__(self, source: PictureSource | Picture, global_view: View, local_view: View) -> None:
        self._picture = source if isinstance(source, Picture) else open_picture(source)
        self._global_view, self._local_view = global_view, local_view
        self.bytes_up: tuple[int, ...] = ()

    @property
    def size(self) -> Size:
        """Of the original."""
        return self._picture.size

    def global_image(self) -> Image.Image:
        """The whole picture, shrunk."""
        return self._sent(self._picture.global_image(self._global_view).jpeg)

    def local_image(self, region: Region) -> Image.Image:
        """A region of the original."""
        return self._sent(self._picture.local_image(region, self._local_view).jpeg)

    def _sent(self, jpeg: bytes) -> Image.Image:
        self.bytes_up += (len(jpeg),)
        return decode_jpeg(jpeg)


def ask_locally(
    engine: TwoLooks, picture: Picture, question: str, options: AnswerOptions | None = None
) -> LocalAnswer:
    """Answer one question about one picture. The images go through JPEG, as if they were sent.

    Raises:
        PictureError, QuestionError, ModelError: see `secondlook.edge.imaging` and the engine.
    """
    card = engine.card
    edge = LocalEdge(picture, card.global_view, card.local_view)
    first = engine.first_look(edge.global_image(), question, edge.size, options)
    if first.pending is None:
        return LocalAnswer(first_reply(first, None), edge.bytes_up, (first.seconds,))
    final = engine.second_look(first.pending, edge.local_image(first.pending.region))
    reply = final_reply(final).model_copy(update={"relevance": first.relevance})
    return LocalAnswer(reply, edge.bytes_up, (first.seconds, final.seconds))
