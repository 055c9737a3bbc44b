"""Edge and server in one process: the whole way of one question, with everything but the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secondlook.edge.imaging import Picture, decode_jpeg
from secondlook.edge.wire import AnswerOptions, AnswerReply, LookSeconds
from secondlook.engine.replies import final_reply, first_reply

if TYPE_CHECKING:
    from secondlook.engine.looks import Engine

__all__ = ["LocalAnswer", "ask_locally"]


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
            "server_seconds": [seconds.model_dump() for seconds in self.seconds],
        }


def ask_locally(
    engine: Engine, picture: Picture, question: str, options: AnswerOptions | None = None
) -> LocalAnswer:
    """Answer one question about one picture. The images go through JPEG, as if they were sent.

    Raises:
        PictureError, QuestionError, ModelError: see `secondlook.edge.imaging` and the engine.
    """
    card = engine.card
    global_image = picture.global_image(card.image_size, card.resize_mode)
    first = engine.first_look(
        decode_jpeg(global_image.jpeg),
        question,
        picture.size,
        AnswerOptions() if options is None else options,
    )
    if first.pending is None:
        return LocalAnswer(first_reply(first, None), (len(global_image.jpeg),), (first.seconds,))
    local_image = picture.local_image(first.pending.region, card.image_size)
    final = engine.second_look(first.pending, decode_jpeg(local_image.jpeg))
    bytes_up = (len(global_image.jpeg), len(local_image.jpeg))
    return LocalAnswer(final_reply(final), bytes_up, (first.seconds, final.seconds))
