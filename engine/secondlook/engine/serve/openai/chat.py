"""How a conversation is answered: by one look, by both at once, or by one and the client's zoom tool.

For a client that sends whole pictures the server is its own edge: it makes the global image, and cuts the
local one when that is wanted, without compressing either. With the zoom tool the client is the edge.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from secondlook.edge.errors import SecondLookError
from secondlook.edge.geometry import Size
from secondlook.edge.limits import PictureLimits
from secondlook.edge.wire import AnswerOptions, Box
from secondlook.engine.decode.token_options import TokenOptions
from secondlook.engine.errors import (
    AnsweredSessionError,
    EngineFailedError,
    ExpiredSessionError,
    OutOfMemoryError,
    QueueFullError,
    UnknownSessionError,
    UpstreamError,
)
from secondlook.engine.serve.openai.errors import ChatError
from secondlook.engine.serve.openai.fetching import Fetcher
from secondlook.engine.serve.openai.messages import ChatRequest, ImageUrl, Part
from secondlook.engine.serve.openai.pictures import Encoded, PictureStore, from_data_url
from secondlook.engine.serve.openai.reading import Closer, Conversation, read_conversation, region_of

if TYPE_CHECKING:
    from secondlook.engine.results import LocalImage, Look, Pending, Question
    from secondlook.engine.serve.decoding import Made
    from secondlook.engine.serve.places import Place
    from secondlook.engine.serve.served import Served
    from secondlook.engine.serve.service import TwoLookService

__all__ = ["Asker", "Chat", "Chatted"]

_MOST_NAMES: Final = 1000
"""Unknown fields whose names are remembered as told."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asker:
    """Who asks.

    Attributes:
        client: whose pictures, prefixes and places these are.
        take: called with bytes that came for it besides the body; raises where they are too many.
        look: called for each look besides the first, once it has a place.
        on_tokens: called with the answer so far once it is certain that it stands.
    """

    client: str
    take: Callable[[int], None]
    look: Callable[[], None]
    on_tokens: Callable[[Look], None] | None = None


@dataclass(frozen=True)
class Chatted:
    """What came of a question.

    Attributes:
        served: by the last look.
        original: the size of the picture asked about, where that is known.
        question: its text.
        image_id: by which later questions may mean the picture.
        received_bytes: of pictures.
        ignored: what of the request was passed over.
    """

    served: Served
    original: Size | None
    question: str
    image_id: str | None
    received_bytes: int
    ignored: tuple[str, ...]


@dataclass
class _Asked:
    """A question with its picture, as it is being asked; `original` is known once the picture is opened."""

    question: str
    picture: Encoded
    options: AnswerOptions
    wanted: TokenOptions
    given: Size | None
    original: Size | None = None
    crop: Encoded | None = field(default=None, repr=False)


class Chat:
    """Answers conversations with one service. All calls belong to its event loop."""

    def __init__(self, service: TwoLookService) -> None:
        self._service = service
        limits = service.settings.chat
        self.pictures = PictureStore(limits.pictures)
        self._limits = PictureLimits(max_pixels=limits.max_pixels, max_bytes=limits.max_body_bytes)
        self.fetcher = Fetcher(limits.allowed_media_domains, limits.fetch_seconds, limits.max_body_bytes)
        self._told: set[str] = set()

    async def answer(self, request: ChatRequest, asker: Asker) -> Chatted:
        """
        Raises:
            ChatError: see `read_conversation`, `PictureStore`, `Fetcher`; or there is no picture.
            SecondLookError: as `TwoLookService.first_look` and `second_look`.
        """
        name = self._service.loaded.result().card.name
        if request.model not in (None, "", name):
            raise ChatError(
                f"there is no model {str(request.model)[:200]!r} here; this server has {name!r}",
                code="model_not_found",
                param="model",
                status=404,
            )
        unknown, conversation = await self._service.decoding.run(
            lambda: (request.unknown(), read_conversation(request.messages))
        )
        self._tell(unknown)
        self._service.check_room(asker.client, second=conversation.closer is not None)
        ignored = conversation.ignored + unknown
        if conversation.closer is not None:
            chatted = await self._closer(request, conversation, conversation.closer, asker)
        else:
            asked = await self._asked(request, conversation, asker)
            if not request.zooms and asked.given is not None:  # what is here is all that there is to look at
                asked.given = None
                ignored += ("secondlook.original",)
            chatted = await (self._first if request.zooms else self._both)(asked, asker)
        return replace(chatted, ignored=ignored)

    async def _first(self, asked: _Asked, asker: Asker) -> Chatted:
        """The first look, and a session where it is unsure."""
        served = await self._service.look(
            asker.client,
            lambda place: self._prepared(place, asked, asker),
            received_bytes=len(asked.picture.data),
            on_tokens=asker.on_tokens,
        )
        return self._chatted(served, asked)

    async def _both(self, asked: _Asked, asker: Asker) -> Chatted:
        """Both looks, where the whole picture is here."""
        chatted = await self._first(asked, asker)
        session = chatted.served.session
        if session is None:
            return chatted
        try:
            served = await self._service.look_closer(
                session.id,
                lambda place, pending: self._cut(place, asked, pending, asker),
                asker.client,
                received_bytes=0 if asked.crop is None else len(asked.crop.data),
                on_tokens=asker.on_tokens,
            )
        except (ExpiredSessionError, QueueFullError):  # there were too many: the first answer stands
            served = await self._service.give_up(session.id, asker.client)
        except (OutOfMemoryError, EngineFailedError, UpstreamError):
            if asker.on_tokens is not None:  # some of the second answer may have been told
                self._service.end_session(session.id, asker.client)
                raise
            served = await self._service.give_up(session.id, asker.client)
        except BaseException:
            self._service.end_session(session.id, asker.client)  # nobody else knows of it
            raise
        return self._chatted(served, asked)

    async def _closer(
        self, request: ChatRequest, conversation: Conversation, closer: Closer, asker: Asker
    ) -> Chatted:
        """What the zoom tool brought, looked at."""
        crop = None
        if closer.picture is not None:
            crop = await self._encoded(closer.picture, closer.where, asker)
        try:
            if crop is None:
                served = await self._service.give_up(closer.session, asker.client)
            else:
                served = await self._service.look_closer(
                    closer.session,
                    lambda place, pending: self._fitted(place, crop, pending),
                    asker.client,
                    received_bytes=len(crop.data),
                    on_tokens=asker.on_tokens,
                )
        except AnsweredSessionError:
            served = await self._service.give_up(closer.session, asker.client)  # tells again what stands
        except (UnknownSessionError, ExpiredSessionError) as error:
            return await self._again(request, conversation, closer, crop, asker, error)
        return Chatted(served, None, conversation.question, None, 0 if crop is None else len(crop.data), ())

    async def _again(
        self,
        request: ChatRequest,
        conversation: Conversation,
        closer: Closer,
        crop: Encoded | None,
        asker: Asker,
        gone: SecondLookError,
    ) -> Chatted:
        """Both looks from the conversation alone: the session is gone."""
        self._service.check_room(asker.client, second=False)
        try:
            asked = await self._asked(request, conversation, asker)
        except ChatError as error:
            raise ChatError(
                f"the session of {closer.call.id[:100]!r} is gone ({gone}), and the conversation does "
                f"not have its first picture any more ({error}); ask the question again",
                code="expired_session",
                param=closer.where,
                status=410,
            ) from error
        if crop is None:
            asked.options = asked.options.model_copy(update={"second_look": "never"})
            return await self._first(asked, asker)
        asked.crop = crop
        await self._service.decoding.run(lambda: self._place(asked, crop, closer))
        return await self._both(asked, asker)

    def _place(self, asked: _Asked, crop: Encoded, closer: Closer) -> None:
        """Work out where the crop was of; a picture with less detail than that was a global image."""
        size = asked.given or asked.picture.open(self._limits).size
        region, seen = region_of(closer.call, size), crop.open(self._limits).size
        if asked.given is None and seen.width > region.width and seen.height > region.height:
            times = min(seen.width / region.width, seen.height / region.height)
            size = Size(round(size.width * times), round(size.height * times))
            region, asked.given = region_of(closer.call, size), size
        box = Box(left=region.left, top=region.top, right=region.right, bottom=region.bottom)
        asked.options = asked.options.model_copy(update={"region": box, "second_look": "always"})

    async def _asked(self, request: ChatRequest, conversation: Conversation, asker: Asker) -> _Asked:
        """The question with its picture, which is there in the end."""
        if conversation.picture is None:
            raise ChatError(
                "this model answers questions about one picture; send an image_url part",
                code="image_required",
                param="messages",
            )
        extension = request.secondlook
        options = AnswerOptions() if extension is None else extension.options
        most = self._service.settings.max_new_tokens
        if request.limit is not None:  # a bound: where the server's own is lower, the answer keeps to it too
            options = options.model_copy(update={"max_new_tokens": min(request.limit, most)})
        if request.must_zoom and options.second_look == "auto":
            options = options.model_copy(update={"second_look": "always"})
        least = most if request.ignore_eos else request.min_tokens or 0
        wanted = TokenOptions(request.top_logprobs or 0, least, bounded=True)
        picture = await self._encoded(conversation.picture, conversation.where, asker)
        self.pictures.keep(asker.client, picture)
        return _Asked(
            conversation.question, picture, options, wanted, None if extension is None else extension.size
        )

    async def _encoded(self, part: Part, where: str, asker: Asker) -> Encoded:
        """A picture's bytes, wherever they are."""
        url = part.image_url.url if isinstance(part.image_url, ImageUrl) else part.image_url
        if not url:
            if part.uuid is None:
                raise ChatError("image_url has neither a url nor a uuid", code="invalid_field", param=where)
            return self.pictures.find(asker.client, part.uuid, where)
        scheme = url[:8].partition(":")[0].lower()
        if scheme == "data":
            return await self._service.decoding.run(lambda: from_data_url(url, part.uuid, where))
        if scheme in ("http", "https"):
            fetched = await self.fetcher.fetch(url, where, asker.take)
            return await self._service.decoding.run(lambda: Encoded.of(fetched, part.uuid, where))
        raise ChatError(
            f"pictures are taken as data:image/jpeg;base64,..., not as {url[:100]!r}",
            code="invalid_image_url",
            param=where,
        )

    async def _prepared(self, place: Place, asked: _Asked, asker: Asker) -> Made[Question]:
        engine = self._service.loaded.result()

        def prepare() -> Question:
            picture = asked.picture.open(self._limits)
            asked.original = original = asked.given or picture.size
            self._service.settings.check_allowed(asked.options, original)
            image = picture.shrunk(engine.card.global_view, original)
            options, wanted = asked.options, asked.wanted
            return engine.prepare(
                image, asked.question, original, options, client=asker.client, wanted=wanted
            )

        return await self._service.decoding.in_turn(place, prepare)

    async def _cut(self, place: Place, asked: _Asked, pending: Pending, asker: Asker) -> Made[LocalImage]:
        """The local image: what came of the tool, or cut from the picture, which is the original then."""
        asker.look()
        if asked.crop is not None:
            return await self._fitted(place, asked.crop, pending)
        engine = self._service.loaded.result()

        def prepare() -> LocalImage:
            picture = asked.picture.open(self._limits)
            return engine.prepare_local(pending, picture.closer(pending.region, engine.card.local_view))

        return await self._service.decoding.in_turn(place, prepare)

    async def _fitted(self, place: Place, crop: Encoded, pending: Pending) -> Made[LocalImage]:
        engine = self._service.loaded.result()

        def prepare() -> LocalImage:
            image = crop.open(self._limits).shrunk(engine.card.local_view, pending.region.size)
            return engine.prepare_local(pending, image)

        return await self._service.decoding.in_turn(place, prepare)

    def _chatted(self, served: Served, asked: _Asked) -> Chatted:
        received = len(asked.picture.data) + (0 if asked.crop is None else len(asked.crop.data))
        return Chatted(served, asked.original, asked.question, asked.picture.name, received, ())

    def _tell(self, unknown: tuple[str, ...]) -> None:
        """Log names of fields that mean nothing here, each once."""
        for name in unknown:
            if name not in self._told and len(self._told) < _MOST_NAMES:
                self._told.add(name)
                _log.warning("a request has the field %r, which means nothing here: passed over", name)
