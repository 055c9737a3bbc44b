"""What the server's looks came to: for whoever answers a request, in whatever format, or observes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secondlook.edge.wire import AnswerReply, PendingSession
from secondlook.engine.replies import final_reply, first_reply
from secondlook.engine.results import FinalAnswer

if TYPE_CHECKING:
    from secondlook.engine.results import FirstLook
    from secondlook.engine.serve.decoding import Made
    from secondlook.engine.serve.worker import Submitted

__all__ = ["Served"]


@dataclass(frozen=True, eq=False)
class Served:
    """A look, and what the server did for it.

    Attributes:
        found: what the engine came to, by the first look or by both.
        session: of a first look that waits for its local image.
        complete: whether a first look's answer is all of it, or still being written.
        queue_seconds: waiting for its turn, and for the inference thread.
        decode_seconds: its picture and its question, made ready for it.
        received_bytes: of its picture; 0 where none was received, as when a session was given up.
        first_token_seconds: from its coming until its answer's first token was computed.
    """

    found: FirstLook | FinalAnswer
    session: PendingSession | None = None
    complete: bool = True
    queue_seconds: float = 0.0
    decode_seconds: float = 0.0
    received_bytes: int = 0
    first_token_seconds: float = 0.0

    @classmethod
    def of(
        cls,
        found: FirstLook | FinalAnswer,
        *,
        made: Made[Any],
        submitted: Submitted[Any],
        received_bytes: int,
        session: PendingSession | None = None,
        complete: bool = True,
    ) -> Served:
        """What a look came to that was made ready and handed in."""
        queue, decode = made.queue_seconds + submitted.waited, made.decode_seconds
        request = submitted.request
        assert request is not None, "what came to something was begun"
        first_token = queue + decode + request.stages.first_token
        return cls(found, session, complete, queue, decode, received_bytes, first_token)

    @property
    def reply(self) -> AnswerReply:
        """As it travels to the edge."""
        waited, decoded = self.queue_seconds, self.decode_seconds
        if isinstance(self.found, FinalAnswer):
            return final_reply(self.found, queue_seconds=waited, decode_seconds=decoded)
        return first_reply(
            self.found, self.session, complete=self.complete, queue_seconds=waited, decode_seconds=decoded
        )
