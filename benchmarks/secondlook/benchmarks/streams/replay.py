"""Replaying recorded streams on a virtual clock: the same code that a site runs decides, and no model does.

At the time of each frame the cloud's answers that have arrived are given to the stream's state, then the
frame is answered, then the cloud may be asked about it. The small model takes no time, and every answer is
judged by the truth at its frame's own time.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from secondlook.benchmarks.streams.recording import CloserKey, ContextKey, Key, Looks
from secondlook.benchmarks.streams.scenes import SENSOR, DrawnStream
from secondlook.edge.geometry import Rectangle, Region, inside, moved
from secondlook.edge.wire import View
from secondlook.engine.method.policy import Policy, keep_second
from secondlook.engine.stream.state import Ask, FrameInfo, Method, Said, Stream, Verdict

DEADLINE: Final = 0.2
"""Seconds from a frame to its answer: until the next one."""

_EPSILON: Final = 1e-9
_NEWEST: Final = 0.3
"""Weight of the newest delay in the running mean that offloading goes by."""

_ARBITRATION: Final = Policy(threshold=0.0)


@dataclass(frozen=True)
class Way:
    """One way of answering a stream.

    Attributes:
        method: what the stream's state does.
        windows: whether the camera tells its motion.
        kind: `site`: every frame goes to the site, which asks the cloud. `cloud`: nothing but key frames
            leaves the camera; `partition`: as features. `offload`: an unsure frame goes to the cloud if its
            answer may come in time.
    """

    name: str
    method: Method
    windows: bool = False
    kind: Literal["site", "cloud", "partition", "offload"] = "site"


@dataclass
class Run:
    """What one way came to on one stream; the lists have an entry for each frame.

    Attributes:
        texts: the answers.
        ages: seconds since the capture of what the answer rests on; while there is none, since the
            first frame.
        missed: whether no answer was made from the frame by its deadline.
        asked: whether the frame went to the cloud.
        from_camera, to_cloud: bytes of pictures sent for it.
    """

    texts: list[str] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    missed: list[bool] = field(default_factory=list)
    asked: list[bool] = field(default_factory=list)
    from_camera: list[int] = field(default_factory=list)
    to_cloud: list[int] = field(default_factory=list)

    def add(self, text: str, age: float, missed: bool, asked: bool, sent: tuple[int, int]) -> None:
        self.texts.append(text)
        self.ages.append(age)
        self.missed.append(missed)
        self.asked.append(asked)
        self.from_camera.append(sent[0])
        self.to_cloud.append(sent[1])


class Replayed:
    """One drawn stream and what is recorded of it, to be replayed in any way.

    Args:
        view: of the small model's whole picture.
        shared: whether the large model takes the same, so that the site passes it on.
        features: bytes of what the large model's encoder makes of a whole picture, and of a region.
    """

    def __init__(
        self, drawn: DrawnStream, looks: Looks, view: View, *, shared: bool, features: tuple[int, int]
    ) -> None:
        self.drawn, self.looks = drawn, looks
        self._view, self._shared = view, shared
        self._question = drawn.question
        self._features = features
        plain = [FrameInfo(number, moment.time, SENSOR) for number, moment in enumerate(drawn.moments)]
        self.times = [info.captured for info in plain]
        self._windows = [Rectangle(*moment.window.as_tuple()) for moment in drawn.moments]
        self._plain = plain
        self._known = [
            replace(info, window=window) for info, window in zip(plain, self._windows, strict=True)
        ]
        crops = [size for answer in looks.cloud if (size := answer.bytes[1])]
        self._crop_bytes = sum(crops) // max(1, len(crops))

    def run(self, way: Way, delays: Sequence[float], timeout: float) -> Generator[Key, None, Run]:
        """Answer the stream; yields what is not recorded, and goes on when it is.

        Args:
            delays: of the cloud's answer about each frame, if it is asked.
            timeout: seconds after which what has not come is lost.
        """
        if way.kind == "offload":
            return self._offloaded(way.method, delays, timeout)
        stream = Stream(self._question, way.method, self._view)
        under_way: list[tuple[float, int, bool]] = []
        verdict: Verdict | None = None
        run = Run()
        for info in self._known if way.windows else self._plain:
            number = info.number
            while under_way and under_way[0][0] <= info.captured + _EPSILON:
                _, about, lost = heapq.heappop(under_way)
                if lost:
                    stream.lost(about)
                else:
                    answer = self.looks.cloud[about]
                    stream.answered(about, self.times[about], answer.text, answer.uncertainty, answer.region)
            if verdict is not None and verdict.focus is not None:
                region = self._cut(verdict.focus.frame, verdict.focus.region, number, known=way.windows)
                info = info if region is None else replace(info, focus=region)
            verdict = yield from self._verdict(stream, info)
            asked = stream.wants_cloud(number)
            if asked:
                stream.asked(number)
                lost = delays[number] >= timeout
                arrival = info.captured + (timeout if lost else delays[number])
                heapq.heappush(under_way, (arrival, number, lost))
            late = way.kind in ("cloud", "partition") and not (
                asked and delays[number] <= DEADLINE + _EPSILON
            )
            age = info.captured - self.times[0] if verdict.age is None else verdict.age
            run.add(verdict.text, age, late, asked, self._sent(way, info, asked))
        return run

    def _verdict(self, stream: Stream, info: FrameInfo) -> Generator[Key, None, Verdict]:
        steps = stream.frame(info)
        try:
            ask = next(steps)
            while True:
                ask = steps.send((yield from self._said(info.number, ask)))
        except StopIteration as end:
            verdict: Verdict = end.value
            return verdict

    def _said(self, number: int, ask: Ask) -> Generator[Key, None, Said]:
        own, looks = self.looks.own[number], self.looks
        if ask.question != self._question:
            line = ContextKey(number, ask.question)
            if line not in looks.context:
                yield line
            told = looks.context[line]
            return Said(told.text, told.uncertainty, told.uncertainty)
        cells = own.cells if ask.relevance else None
        if ask.focus is not None and own.uncertainty >= ask.sure:
            key = CloserKey(number, ask.focus.as_tuple())
            if key not in looks.closer:
                yield key
            closer = looks.closer[key]
            if keep_second(own.uncertainty, closer.uncertainty, _ARBITRATION):
                return Said(closer.text, closer.uncertainty, own.uncertainty, closer=True, relevance=cells)
        return Said(own.text, own.uncertainty, own.uncertainty, relevance=cells)

    def _cut(self, before: int, region: Region, number: int, *, known: bool) -> Region | None:
        """What the camera cuts out of a frame: the region asked for, moved if it knows its own motion."""
        if not known:
            return region
        place = Rectangle(*region.as_tuple())
        return inside(moved(place, self._windows[before], self._windows[number], SENSOR), SENSOR)

    def _sent(self, way: Way, info: FrameInfo, asked: bool) -> tuple[int, int]:
        """Bytes from the camera, and to the cloud. The mean stands for a crop that turned out not to be
        needed, and so was not made."""
        whole, part = self.looks.cloud[info.number].bytes
        to_cloud = whole + part if asked else 0
        if way.kind == "partition":
            to_cloud = (self._features[0] + (self._features[1] if part else 0)) if asked else 0
        if way.kind in ("cloud", "partition"):
            return to_cloud, to_cloud
        from_camera = self.looks.own[info.number].bytes
        if asked:
            from_camera += part if self._shared else whole + part
        if info.focus is not None:
            closer = self.looks.closer.get(CloserKey(info.number, info.focus.as_tuple()))
            from_camera += self._crop_bytes if closer is None else closer.bytes
        return from_camera, to_cloud

    def _offloaded(self, method: Method, delays: Sequence[float], timeout: float) -> Run:
        """After ADAS (Hu et al., 2024) as it is told of: an unsure frame goes to the cloud where the mean
        delay of late fits the deadline, and its answer counts if it comes by that. A mean is forgotten with
        the history, so that the network is tried again."""
        run = Run()
        under_way: list[tuple[float, float]] = []
        mean, learnt = 0.0, 0.0
        for number, (own, time) in enumerate(zip(self.looks.own, self.times, strict=True)):
            while under_way and under_way[0][0] <= time + _EPSILON:
                _, took = heapq.heappop(under_way)
                mean, learnt = mean + _NEWEST * (took - mean) if mean else took, time
            fits = mean <= DEADLINE + _EPSILON or time - learnt > method.history_seconds
            asked = own.uncertainty > method.sure and fits and len(under_way) < method.in_flight
            text = own.text
            if asked:
                took = min(delays[number], timeout)
                heapq.heappush(under_way, (time + took, took))
                if took <= DEADLINE + _EPSILON:
                    text = self.looks.cloud[number].text
            whole, part = self.looks.cloud[number].bytes
            from_camera = own.bytes + ((part if self._shared else whole + part) if asked else 0)
            run.add(text, 0.0, False, asked, (from_camera, whole + part if asked else 0))
        return run
