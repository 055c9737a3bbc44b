"""Asking the models about drawn streams, many frames at once, through JPEG and the engine's scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from secondlook.benchmarks.streams.recording import (
    CloserKey,
    CloserLook,
    CloudAnswer,
    ContextKey,
    ContextLook,
    Key,
    Looks,
    OwnLook,
)
from secondlook.benchmarks.streams.scenes import SENSOR, DrawnFrame, DrawnStream
from secondlook.edge.geometry import Region
from secondlook.edge.imaging import EncodedPicture, decode_jpeg
from secondlook.edge.wire import AnswerOptions, Box
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.engine import Engine
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.results import FinalAnswer, FirstLook

_OWN: Final = AnswerOptions(second_look="never", relevance=True)
_CLOUD: Final = AnswerOptions(relevance=True)
_PLAIN: Final = AnswerOptions(second_look="never")


class Asker:
    """The site's small model and the cloud's large one, which may be the same.

    Args:
        small, large: as for `secondlook serve`.
    """

    def __init__(self, small: str, large: str, dtype: str = "auto", device: str = "auto") -> None:
        self.small = _engine(small, dtype, device)
        self.large = self.small if large == small else _engine(large, dtype, device)

    @property
    def described(self) -> dict[str, Any]:
        """Models and weights, for a recording's settings."""
        return {"small": _described(self.small), "large": _described(self.large)}

    def looks(self, stream: DrawnStream) -> Looks:
        """Of both models at every frame."""
        frames = [stream.frame(index) for index in range(len(stream.moments))]
        sent = [frame.global_image(self.small.card.global_view) for frame in frames]
        if self.large is self.small:
            # The large model's first look is the small one's.
            firsts = _first_looks(self.small, stream.question, sent, _CLOUD)
            return Looks([*map(_own, firsts, sent)], _cloud(self.large, frames, sent, firsts))
        own = _first_looks(self.small, stream.question, sent, _OWN)
        to_cloud = [frame.global_image(self.large.card.global_view) for frame in frames]
        firsts = _first_looks(self.large, stream.question, to_cloud, _CLOUD)
        return Looks([*map(_own, own, sent)], _cloud(self.large, frames, to_cloud, firsts))

    def further(self, stream: DrawnStream, keys: Sequence[Key]) -> Mapping[Key, CloserLook | ContextLook]:
        """What else is asked of the small model: each frame's picture is seen once."""
        engine, view = self.small, self.small.card.global_view
        frames = {key.frame: stream.frame(key.frame) for key in keys}
        images = {number: decode_jpeg(frame.global_image(view).jpeg) for number, frame in frames.items()}
        requests = []
        for key in keys:
            question = stream.question if isinstance(key, CloserKey) else key.question
            options = _closer(Region(*key.region)) if isinstance(key, CloserKey) else _PLAIN
            prepared = engine.prepare(images[key.frame], question, SENSOR, options)
            requests.append(engine.start_first_look(prepared))
        _finish(engine)
        found = dict[Key, CloserLook | ContextLook]()
        again = []
        for key, request in zip(keys, requests, strict=True):
            first = request.future.result()
            if isinstance(key, ContextKey):
                found[key] = ContextLook(first.text, first.uncertainty)
                continue
            assert first.pending is not None, "a region smaller than the frame is looked at"
            crop = frames[key.frame].local_image(first.pending.region, engine.card.local_view)
            local = engine.prepare_local(first.pending, decode_jpeg(crop.jpeg))
            again.append((key, crop, engine.start_second_look(first.pending, local)))
        _finish(engine)
        for closer, crop, second in again:
            look = second.future.result().second
            found[closer] = CloserLook(look.text, look.uncertainty, len(crop.jpeg))
        return found


def _engine(model: str, dtype: str, device: str) -> Engine:
    loaded = load_model(model, dtype=dtype, device=device)  # type: ignore[arg-type]  # it refuses what is no dtype
    return Engine(loaded, cache=CacheSettings())


def _described(engine: Engine) -> dict[str, Any]:
    model = engine.model
    return {
        "name": model.name,
        "digest": model.digest(),
        "dtype": model.precision,
        "threshold": engine.policy.threshold,
        "context": model.settings.context,
        "view": model.global_view.model_dump(mode="json"),
    }


def _closer(region: Region) -> AnswerOptions:
    left, top, right, bottom = region.as_tuple()
    return AnswerOptions(second_look="always", region=Box(left=left, top=top, right=right, bottom=bottom))


def _first_looks(
    engine: Engine, question: str, sent: Sequence[EncodedPicture], options: AnswerOptions
) -> list[FirstLook]:
    requests = [
        engine.start_first_look(engine.prepare(decode_jpeg(one.jpeg), question, SENSOR, options))
        for one in sent
    ]
    _finish(engine)
    return [request.future.result() for request in requests]


def _own(first: FirstLook, sent: EncodedPicture) -> OwnLook:
    assert first.relevance is not None, "it was asked for"
    cells = tuple(map(bytes, first.relevance.rows()))
    return OwnLook(first.text, first.uncertainty, cells, len(sent.jpeg))


def _cloud(
    engine: Engine, frames: Sequence[DrawnFrame], sent: Sequence[EncodedPicture], firsts: Sequence[FirstLook]
) -> list[CloudAnswer]:
    """The answers after a second look where the first wants one."""
    crops: list[EncodedPicture | None] = []
    requests = []
    for frame, first in zip(frames, firsts, strict=True):
        if first.pending is None:
            crops.append(None)
            continue
        crop = frame.local_image(first.pending.region, engine.card.local_view)
        crops.append(crop)
        local = engine.prepare_local(first.pending, decode_jpeg(crop.jpeg))
        requests.append(engine.start_second_look(first.pending, local))
    _finish(engine)
    finals = iter(request.future.result() for request in requests)
    found = []
    for whole, first, part in zip(sent, firsts, crops, strict=True):
        stands: FirstLook | FinalAnswer = first if part is None else next(finals)
        assert first.region is not None, "the map was asked for, and so the region is sought"
        sizes = len(whole.jpeg), 0 if part is None else len(part.jpeg)
        found.append(CloudAnswer(stands.look.text, stands.look.uncertainty, first.region, sizes))
    return found


def _finish(engine: Engine) -> None:
    while engine.round():
        pass
