"""Ask a model about pictures, through the real edge code and JPEG, with a second look every time.

Work is spread over processes picture by picture. What a record says depends on its picture and on how it is
asked, not on the order or on what else is asked.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Protocol

import torch

from secondlook.benchmarks.datasets.question import (
    AskedPicture,
    MalformedDataError,
    MissingDataError,
    Question,
)
from secondlook.benchmarks.evaluation.options import Asking, Served
from secondlook.benchmarks.latency.work import look_flops
from secondlook.benchmarks.run_log import LoggedLook, LoggedPicture, Record, Skipped
from secondlook.edge.errors import PictureError, SecondLookError
from secondlook.edge.geometry import Region, Size
from secondlook.edge.imaging import EncodedPicture, JpegSettings, decode_jpeg, open_picture
from secondlook.edge.wire import AnswerOptions, View
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.engine import Engine
from secondlook.engine.errors import QuestionError
from secondlook.engine.flops import PassFlops
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.prompts import DEFAULT_MAX_CHARACTERS
from secondlook.engine.preparing import text_rows
from secondlook.engine.results import FirstLook, Look

_SHORT: Final = 400
"""Bytes, and so tokens at most, of a question that need not be counted: there is room for it anyway."""

_TEMPLATE: Final = 64
"""Tokens kept for what a template puts around a question."""

_MAPPED: Final = 100
"""Of so many pictures, the first of a data set, relative attention is kept too: for reports to show."""

_SLOTS: Final = 4
"""One question is asked at a time; further slots keep what its picture's other questions begin with."""

_AHEAD: Final = 2
"""Pictures for each process that are handed out before their turn. Records are logged in order: what is
computed ahead of a picture that takes long is lost if the run is killed."""


class WorkerError(SecondLookError):
    """A process that asks was killed."""


@dataclass(frozen=True)
class Room:
    """What the longest question needs: tokens beside those of two images, and characters."""

    tokens: int = CacheSettings.text_tokens
    characters: int = DEFAULT_MAX_CHARACTERS


def load_run_model(served: Served, *, progress: bool = False) -> VisionLanguageModel:
    """The model that is asked."""
    return load_model(
        served.model,
        revision=served.revision,
        dtype=served.dtype,  # type: ignore[arg-type]  # it refuses what is no dtype
        device=served.device,
        progress=progress,
        profile=served.profile,
        quantise=served.quantise,
    )


def needed_room(model: VisionLanguageModel, pictures: Iterable[AskedPicture]) -> Room:
    """Room for all questions."""
    tokens = max(Room.tokens, _SHORT + _TEMPLATE + model.settings.max_new_tokens)
    characters = Room.characters
    for picture in pictures:
        for question in picture.questions:
            text = asked_text(question, model)
            characters = max(characters, len(text))
            if len(text.encode()) > _SHORT:
                with naming(picture, question):
                    tokens = max(tokens, text_rows(model, text))
    return Room(tokens, characters)


class Opened(Protocol):
    """An original as an edge has it, such as `secondlook.edge.imaging.Picture`."""

    @property
    def size(self) -> Size: ...

    def global_image(self, view: View, jpeg: JpegSettings) -> EncodedPicture: ...

    def local_image(self, region: Region, view: View, jpeg: JpegSettings) -> EncodedPicture: ...


def ask_all(
    asking: Asking,
    pictures: Iterable[AskedPicture],
    processes: int,
    room: Room | None = None,
    model: VisionLanguageModel | None = None,
    opened: Callable[[bytes], Opened] = open_picture,
) -> Iterator[LoggedPicture]:
    """Records of each picture, in the order of `pictures`.

    Args:
        processes: 1 asks in this one; more load the model each.
        model: the one that `asking` means, if it is loaded already; only for one process.
        opened: what makes an original's pictures; likewise.
    """
    room = Room() if room is None else room
    if processes == 1:
        yield from map(replace(_asker(asking, room, model), opened=opened).ask, pictures)
        return
    workers = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin_worker)
    waiting = deque[Future[LoggedPicture]]()
    try:
        for picture in pictures:
            waiting.append(workers.submit(_ask_in_worker, asking, room, picture))
            if len(waiting) > _AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise WorkerError(
            "a process that asks was killed, perhaps for want of memory; run the command again, with fewer "
            "--processes; with --log it goes on where it stopped"
        ) from error
    finally:
        workers.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one


def _ask_in_worker(asking: Asking, room: Room, picture: AskedPicture) -> LoggedPicture:
    return _kept_asker(asking, room).ask(picture)


def _asker(asking: Asking, room: Room, model: VisionLanguageModel | None = None) -> _Asker:
    cache = CacheSettings(asking.kv_cache_gb, most_slots=_SLOTS, text_tokens=room.tokens)
    model = load_run_model(asking) if model is None else model
    tiled = None if asking.baseline is None else _made(asking, room, cache, model.high_resolution())
    return _made(asking, room, cache, model, tiled)


_kept_asker = lru_cache(maxsize=1)(_asker)


def _made(
    asking: Asking, room: Room, cache: CacheSettings, model: VisionLanguageModel, tiled: _Asker | None = None
) -> _Asker:
    shapes = model.shapes()
    passes = None if shapes is None else PassFlops(shapes)
    engine = Engine(model, cache=cache, max_question_characters=room.characters)
    return _Asker(asking, engine, passes, tiled)


@dataclass(frozen=True)
class _Shown:
    """A picture of a data set, as the edge has it, and its global image."""

    asked: AskedPicture
    picture: Opened
    sent: EncodedPicture


@dataclass(frozen=True)
class _Asker:
    """Asks one engine.

    Attributes:
        passes: count what it computes, where that can be counted.
        tiled: asks the same model with pictures in tiles, where that is the baseline.
        opened: makes an original's pictures.
    """

    asking: Asking
    engine: Engine
    passes: PassFlops | None
    tiled: _Asker | None = None
    opened: Callable[[bytes], Opened] = open_picture

    def ask(self, asked: AskedPicture) -> LoggedPicture:
        try:
            original = asked.source.read()
            shown = self._shown(asked, self.opened(original))
            records = [self._record(shown, question, len(original)) for question in asked.questions]
            if self.tiled is None:
                return records
            shown, look = self.tiled._shown(asked, shown.picture), self.tiled._only_look
            looks = [look(shown, question) for question in asked.questions]
            return [replace(one, baseline=look) for one, look in zip(records, looks, strict=True)]
        except (MissingDataError, PictureError) as error:
            return left_out(asked, error, self.asking)

    def _shown(self, asked: AskedPicture, picture: Opened) -> _Shown:
        view = self.engine.model.global_view
        return _Shown(asked, picture, picture.global_image(view, self.asking.global_jpeg))

    def _look(self, shown: _Shown, question: Question, options: AnswerOptions) -> FirstLook:
        with naming(shown.asked, question):
            text, image = asked_text(question, self.engine.model), decode_jpeg(shown.sent.jpeg)
            return self.engine.first_look(image, text, shown.picture.size, options)

    def _only_look(self, shown: _Shown, question: Question) -> LoggedLook:
        first = self._look(shown, question, AnswerOptions(second_look="never"))
        flops, _ = self._flops(shown, question, first, None, only=True)
        return _logged(question, first.look, shown.sent, first.look.visual_tokens, flops)

    def _flops(
        self, shown: _Shown, question: Question, first: FirstLook, second: Look | None, *, only: bool = False
    ) -> tuple[int | None, int | None]:
        if self.passes is None:
            return None, None
        text = asked_text(question, self.engine.model)
        return look_flops(self.passes, shown.picture.size, text, first, second, only=only)

    def _record(self, shown: _Shown, question: Question, original_bytes: int) -> Record:
        engine, asked, picture = self.engine, shown.asked, shown.picture
        first = self._look(shown, question, AnswerOptions(second_look="always"))
        region: Region | None = None
        final: Look | None = None
        crop: EncodedPicture | None = None
        if first.pending is not None:
            region = first.pending.region
            crop = picture.local_image(region, engine.model.local_view, self.asking.local_jpeg)
            final = engine.second_look(first.pending, decode_jpeg(crop.jpeg)).second
        flops = self._flops(shown, question, first, final)
        second = None
        if final is not None and crop is not None:
            visual_tokens = final.visual_tokens - first.look.visual_tokens
            second = _logged(question, final, crop, visual_tokens, flops[1])
        return Record(
            index=asked.index,
            type=question.kind,
            question=asked_text(question, engine.model),
            truth=question.truth,
            first=_logged(question, first.look, shown.sent, first.look.visual_tokens, flops[0]),
            second=second,
            region=None if region is None else region.as_tuple(),
            region_hit=region.holds(question.boxes) if region and question.boxes else None,
            original_pixels=picture.size.pixels,
            original_bytes=original_bytes,
            id=question.id,
            boxes=question.boxes,
            file=asked.source.name,
            relevance=first.maps.relevance() if first.maps and asked.index < _MAPPED else None,
        )


def asked_text(question: Question, model: VisionLanguageModel) -> str:
    """A question as this model is asked it."""
    return question.asked(model.settings.question_suffix, brief=model.brief)


def _logged(
    question: Question, look: Look, sent: EncodedPicture, visual_tokens: int, flops: int | None
) -> LoggedLook:
    return LoggedLook(
        text=look.text,
        score=question.score(look.text),
        tokens=look.tokens,
        pixels=sent.size.pixels,
        bytes=len(sent.jpeg),
        visual_tokens=visual_tokens,
        prompt_tokens=look.prompt_tokens,
        flops=flops,
    )


def left_out(asked: AskedPicture, error: MissingDataError | PictureError, served: Served) -> Skipped:
    """A picture that cannot be read, where such are to be left out.

    Raises:
        MissingDataError, MalformedDataError: they are not.
    """
    if served.skip_damaged:
        return Skipped(asked.index, asked.source.name, str(error))
    if isinstance(error, MissingDataError):
        raise error
    raise MalformedDataError(f"{asked.source}: {error}; leave it out with --skip-damaged") from error


@contextmanager
def naming(picture: AskedPicture, question: Question) -> Iterator[None]:
    """Say which question it is that a model cannot be asked."""
    try:
        yield
    except QuestionError as error:
        raise type(error)(
            f"question {question.id or question.text!r} about {picture.source}: {error}"
        ) from error
