"""The two looks as the edge sees them: what to ask, what to show, and which answer stands."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

from pydantic import ValidationError

from .answer import EdgeAnswer, StageSeconds
from .errors import (
    ClientError,
    ConnectionFailedError,
    GeometryError,
    RequestRefusedError,
    SecondLookError,
    UnexpectedReplyError,
)
from .exchange import Call, LostError, Message, Patience, Steps, Surroundings, Traffic, ask, work
from .geometry import Region
from .imaging import EncodedPicture, Original, PictureSource, open_picture
from .retry import ClientSettings
from .wire import AnswerOptions, AnswerReply, ModelCard, PendingSession

__all__ = ["Conversation", "Stage", "check_text"]

logger = logging.getLogger(__name__)

Stage = Literal["open", "model", "prepare_global", "first_look", "prepare_local", "second_look"]
"""What a client is doing, in the order in which it happens."""

_GIVE_UP_SECONDS = 2.0
"""How long a complete answer may be kept back to tell the server that its session will not go on."""


class Conversation:
    """What one client knows of its server: how to prepare pictures for it. Holds no connection.

    Attributes:
        card: the server's model, asked for at the first question and then remembered.
    """

    def __init__(self, settings: ClientSettings, surroundings: Surroundings) -> None:
        self.settings = settings
        self.surroundings = surroundings
        self.card: ModelCard | None = None

    def answer(
        self,
        picture: PictureSource | Original,
        question: str,
        options: AnswerOptions | None,
        on_stage: Callable[[Stage], None],
    ) -> Steps[EdgeAnswer]:
        """Ask one question about one picture, and show the server the region it asks for.

        A first look that fails raises. A second look that fails does not: the first answer stands, marked so.
        """
        check_text(question)
        clock, patience = self.surroundings.clock, Patience(self.settings)
        started = clock()
        on_stage("open")
        opened = yield from work(lambda: self._open(picture))
        opening = clock() - started

        card = self.card
        if card is None:
            on_stage("model")
            card = yield from self._ask(Call("GET", "/v1/model"), ModelCard, Traffic(), patience)
            self.card = card

        on_stage("prepare_global")
        before = clock()
        global_image = yield from work(
            lambda: opened.global_image(card.global_view, self.settings.global_jpeg)
        )
        prepare_global = opening + clock() - before

        on_stage("first_look")
        before = clock()
        data = {"question": question, "width": str(opened.size.width), "height": str(opened.size.height)}
        if options is not None:
            data["options"] = options.model_dump_json(exclude_defaults=True)
        traffic = Traffic()
        try:
            reply = yield from self._ask(
                Call("POST", "/v1/answers", data, {"image": global_image.jpeg}),
                AnswerReply,
                traffic,
                patience,
            )
        except RequestRefusedError:
            self.card = None  # perhaps the server has another model by now: the next question asks it again
            raise
        first_look = clock() - before

        relevance = reply.relevance
        second: _SecondLook | None = None
        failure: str | None = None
        if reply.status == "region":
            second = _SecondLook(patience)
            try:
                yield from self._look_closer(second, opened, reply, card, on_stage)
            except SecondLookError as error:
                failure = " ".join(str(error).split())
                told = yield from _give_up(reply, error, self.settings.timeout)
                if told.second is None:
                    reply = told
                    logger.warning("the second look failed, the first answer stands: %s", failure)
                else:
                    second.reply, failure = told, None
        final = second.reply if second and second.reply else reply
        looks = [traffic, second.traffic] if second else [traffic]
        return EdgeAnswer(
            text=final.answer.text,
            uncertainty=final.answer.uncertainty,
            refined=final.decision == "took_second",
            looked_twice=final.second is not None,
            second_look_failed=failure,
            decision=final.decision,
            first=final.first,
            second=final.second,
            region=second.region if second else None,
            original=opened.size,
            bytes_up=tuple(look.up for look in looks),
            bytes_down=tuple(look.down for look in looks),
            visual_tokens=tuple(said.visual_tokens for said in (final.first, final.second) if said),
            relevance=final.relevance or relevance,
            pixels=(global_image.size.pixels, *([second.pixels_sent] if second else [])),
            seconds=StageSeconds(
                prepare_global=prepare_global,
                first_look=first_look,
                prepare_local=second.preparing if second else 0.0,
                second_look=second.asking if second else 0.0,
                total=clock() - started,
            ),
            server_seconds=(reply.seconds, *([second.reply.seconds] if second and second.reply else [])),
            local_image=second.image if second else None,
        )

    def _look_closer(
        self,
        look: _SecondLook,
        opened: Original,
        first: AnswerReply,
        card: ModelCard,
        on_stage: Callable[[Stage], None],
    ) -> Steps[None]:
        clock = self.surroundings.clock
        box, session = first.region, first.session
        if box is None or session is None:
            raise UnexpectedReplyError("the server wants a second look, but does not say where and for whom")
        region = Region(box.left, box.top, box.right, box.bottom)
        if not region.within(opened.size):
            raise GeometryError(f"the server asks for region {region} of a picture of {opened.size} pixels")
        look.region = region

        on_stage("prepare_local")
        started = clock()
        try:
            image = yield from work(
                lambda: opened.local_image(region, card.local_view, self.settings.local_jpeg)
            )
        finally:
            look.preparing = clock() - started
        look.image = image

        on_stage("second_look")
        before = clock()
        lasting = session.expires_in - look.preparing
        call = Call("POST", f"{_path(session)}/local", images={"image": image.jpeg})
        try:
            reply = yield from self._ask(call, AnswerReply, look.traffic, look.patience, lasting)
        finally:
            look.asking = clock() - before
        if reply.status != "final":
            raise UnexpectedReplyError("the server asks for a third look; there are only two")
        look.reply = reply

    def _open(self, picture: PictureSource | Original) -> Original:
        return picture if isinstance(picture, Original) else open_picture(picture, self.settings.limits)

    def _ask(
        self,
        call: Call,
        message: type[Message],
        traffic: Traffic,
        patience: Patience,
        lasting: float = math.inf,
    ) -> Steps[Message]:
        return ask(call, message, traffic, patience, self.surroundings, lasting)


def _path(session: PendingSession) -> str:
    return f"/v1/answers/{quote(session.id, safe='')}"


def _give_up(reply: AnswerReply, error: SecondLookError, timeout: float) -> Steps[AnswerReply]:
    """Tell the server, once, that a session will not go on; what it says that stands, or `reply`.

    That has the whole first answer, and the second look's if only the reply with it was lost. Nothing is
    asked where it would tell nothing: where the server does not know the session (404), or has the whole of
    `reply` and let it expire (410), or is out of reach, which would only cost another timeout.
    """
    whole, session = reply.answer.complete, reply.session
    status = error.status if isinstance(error, RequestRefusedError) else None
    lost = isinstance(error, ConnectionFailedError)
    if session is None or status == 404 or (whole and (lost or status == 410)):
        return reply
    try:
        seconds = _GIVE_UP_SECONDS if whole else timeout
        told = yield Call("DELETE", _path(session), timeout=seconds)
        return AnswerReply.model_validate_json(told.content) if told.is_success else reply
    except (LostError, ValidationError) as trouble:
        logger.info("the session could not be given up: %s", trouble)
        return reply


def check_text(question: str) -> None:
    """
    Raises:
        ClientError: the question is empty, or no text.
    """
    if not question.strip():
        raise ClientError("the question is empty; ask something about the picture")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise ClientError(f"the question {question!r} is not valid Unicode text: {error.reason}") from error


@dataclass
class _SecondLook:
    """How far a second look came; what is set stays set if it fails."""

    patience: Patience
    region: Region | None = None
    image: EncodedPicture | None = None
    reply: AnswerReply | None = None
    traffic: Traffic = field(default_factory=Traffic)
    preparing: float = 0.0
    asking: float = 0.0

    @property
    def pixels_sent(self) -> int:
        return self.image.size.pixels if self.image and self.traffic.up else 0
