"""The two looks as the edge sees them: what to ask, what to show, and which answer stands."""

from __future__ import annotations

import logging
import math
import secrets
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
    ServerBusyError,
    UnexpectedReplyError,
)
from .exchange import Call, LostError, Message, Patience, Steps, Surroundings, Traffic, ask, work
from .geometry import Region
from .imaging import EncodedPicture, Original, PictureSource, open_picture
from .retry import ClientSettings
from .wire import SESSION_HEADER, AnswerOptions, AnswerReply, ModelCard, PendingSession, Relevance

__all__ = ["Conversation", "Stage", "check_text"]

logger = logging.getLogger(__name__)

Stage = Literal["open", "model", "prepare_global", "first_look", "prepare_local", "second_look"]
"""What a client is doing, in the order in which it happens."""

_GIVE_UP_SECONDS = 2.0
"""How long a complete answer may be kept back to tell the server that its session will not go on."""

_SESSION_BYTES = 24
"""192 random bits, as a session's id has."""

_QUEUE_FULL = 429
"""The server is there, and keeps the session."""


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
        Where the server has lost the question between the looks, all of it is asked again, once: behind
        several servers another one answers it. A first answer that stays incomplete is asked for alone.
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

        form = {"question": question, "width": str(opened.size.width), "height": str(opened.size.height)}
        if options is not None:
            form["options"] = options.model_dump_json(exclude_defaults=True)
        asked = _Question(opened, form, global_image, card, patience, on_stage)
        looks = yield from self._look(asked)
        lost = looks.error if looks.error is not None and _loses_session(looks.error) else None
        if lost is not None:
            logger.warning("the question was lost between the looks, and is asked again: %s", lost)
            try:
                looks = yield from self._look(asked)
            except SecondLookError as error:
                logger.warning("asked again, it failed: %s", error)
        if looks.error is not None:
            yield from self._give_up(looks)
        if looks.second is None and not looks.reply.answer.complete:
            alone = (options or AnswerOptions()).model_copy(update={"second_look": "never"})
            form["options"] = alone.model_dump_json(exclude_defaults=True)
            looks.reply = (yield from self._look(asked)).reply  # has no session to lose
        final = looks.second or looks.reply
        costs = asked.costs if asked.costs[1].begun else asked.costs[:1]
        return EdgeAnswer(
            text=final.answer.text,
            uncertainty=final.answer.uncertainty,
            refined=final.decision == "took_second",
            looked_twice=final.second is not None,
            second_look_failed=None if looks.error is None else " ".join(str(looks.error).split()),
            decision=final.decision,
            first=final.first,
            second=final.second,
            region=looks.region,
            original=opened.size,
            bytes_up=tuple(look.traffic.up for look in costs),
            bytes_down=tuple(look.traffic.down for look in costs),
            visual_tokens=tuple(said.visual_tokens for said in (final.first, final.second) if said),
            relevance=final.relevance or looks.relevance,
            pixels=tuple(look.pixels for look in costs),
            seconds=StageSeconds(
                prepare_global=prepare_global,
                first_look=asked.costs[0].asking,
                prepare_local=asked.costs[1].preparing,
                second_look=asked.costs[1].asking,
                total=clock() - started,
            ),
            server_seconds=(looks.reply.seconds, *([looks.second.seconds] if looks.second else [])),
            local_image=looks.image,
            asked_again=lost is not None,
        )

    def _look(self, asked: _Question) -> Steps[_Looks]:
        """Both looks, in a session of their own. A first look that fails raises; a second one does not."""
        cost, clock = asked.costs[0], self.surroundings.clock
        header = {SESSION_HEADER: secrets.token_hex(_SESSION_BYTES)}
        asked.on_stage("first_look")
        before = clock()
        call = Call("POST", "/v1/answers", asked.form, {"image": asked.global_image.jpeg}, headers=header)
        cost.pixels += asked.global_image.size.pixels
        try:
            reply = yield from self._ask(call, AnswerReply, cost.traffic, asked.patience)
        except RequestRefusedError:
            self.card = None  # perhaps the server has another model by now: the next question asks it again
            raise
        finally:
            cost.asking += clock() - before
        looks = _Looks(header, reply, reply.relevance)
        if reply.status == "region":
            asked.costs[1].begun = True
            try:
                yield from self._look_closer(asked, looks)
            except SecondLookError as error:
                looks.error = error
        return looks

    def _look_closer(self, asked: _Question, looks: _Looks) -> Steps[None]:
        cost, clock = asked.costs[1], self.surroundings.clock
        box, session = looks.reply.region, looks.reply.session
        if box is None or session is None:
            raise UnexpectedReplyError("the server wants a second look, but does not say where and for whom")
        region = Region(box.left, box.top, box.right, box.bottom)
        if not region.within(asked.opened.size):
            raise GeometryError(
                f"the server asks for region {region} of a picture of {asked.opened.size} pixels"
            )
        looks.region = region

        asked.on_stage("prepare_local")
        started = clock()
        try:
            image = yield from work(
                lambda: asked.opened.local_image(region, asked.card.local_view, self.settings.local_jpeg)
            )
        finally:
            preparing = clock() - started
            cost.preparing += preparing
        looks.image = image

        asked.on_stage("second_look")
        before, sent = clock(), cost.traffic.up
        lasting = session.expires_in - preparing
        call = Call("POST", f"{_path(session)}/local", images={"image": image.jpeg}, headers=looks.header)
        try:
            reply = yield from self._ask(call, AnswerReply, cost.traffic, asked.patience, lasting)
        finally:
            cost.asking += clock() - before
            if cost.traffic.up > sent:
                cost.pixels += image.size.pixels
        if reply.status != "final":
            raise UnexpectedReplyError("the server asks for a third look; there are only two")
        looks.second = reply

    def _give_up(self, looks: _Looks) -> Steps[None]:
        """Tell the server, once, that a session will not go on; what it says that stands, stands.

        That has the whole first answer, and the second look's if only the reply with it was lost. Nothing is
        asked where it would tell nothing: of a session that is unknown (404) or, if the reply was whole, that
        expired (410) or whose server is out of reach.
        """
        error, session = looks.error, looks.reply.session
        whole = looks.reply.answer.complete
        status = error.status if isinstance(error, RequestRefusedError) else None
        lost = isinstance(error, ConnectionFailedError)
        if session is not None and status != 404 and not (whole and (lost or status == 410)):
            seconds = _GIVE_UP_SECONDS if whole else self.settings.timeout
            try:
                told = yield Call("DELETE", _path(session), headers=looks.header, timeout=seconds)
                if told.is_success:
                    looks.take(AnswerReply.model_validate_json(told.content))
            except (LostError, ValidationError) as trouble:
                logger.info("the session could not be given up: %s", trouble)
        if looks.error is not None:
            logger.warning("the second look failed, the first answer stands: %s", looks.error)

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


def _loses_session(error: SecondLookError) -> bool:
    """Whether a second look's failure means that its server is gone, or does not know the session."""
    if isinstance(error, RequestRefusedError):
        return error.status == 404
    return isinstance(error, ConnectionFailedError) or (
        isinstance(error, ServerBusyError) and error.status != _QUEUE_FULL
    )


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
class _Cost:
    """What one of the looks cost, in both askings of its question.

    Attributes:
        begun: whether it was asked for.
    """

    begun: bool = False
    traffic: Traffic = field(default_factory=Traffic)
    pixels: int = 0
    preparing: float = 0.0
    asking: float = 0.0


@dataclass
class _Question:
    """What stays the same when a question is asked again, and what both looks cost."""

    opened: Original
    form: dict[str, str]
    global_image: EncodedPicture
    card: ModelCard
    patience: Patience
    on_stage: Callable[[Stage], None]
    costs: tuple[_Cost, _Cost] = field(default_factory=lambda: (_Cost(), _Cost()))


@dataclass
class _Looks:
    """How far both looks of one session came; what is set stays set if the second one fails.

    Attributes:
        header: of all its requests.
        reply: the first look's.
    """

    header: dict[str, str]
    reply: AnswerReply
    relevance: Relevance | None
    region: Region | None = None
    image: EncodedPicture | None = None
    second: AnswerReply | None = None
    error: SecondLookError | None = None

    def take(self, told: AnswerReply) -> None:
        """What the server says that stands, of a session that was given up."""
        if told.second is None:
            self.reply = told
        else:
            self.second, self.error = told, None
