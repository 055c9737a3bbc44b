"""One stream: what it knows, and what holds for each frame. Pure arithmetic, driven from outside.

A frame's steps are a generator: it yields what to ask the small model (`Ask`), is sent what that said
(`Said`), and returns the `Verdict`. Whoever drives it, a server with a model and a clock or a replay with a
recording and none, takes the same steps.

    every frame n:      the small model looks at it; its answer and all that count of the last seconds, its
                        own and the cloud's, are weighed. Where another than its own stands: that one, behind
                        the question, where the checkpoint has learnt to read it, or in place of the answer
    a key frame:        goes to the cloud, whose answer may come at any later time
    an answer for k:    counts as of frame k, if it tells anything
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat

from secondlook.edge.geometry import Rectangle, Region, Size, inside, moved, target
from secondlook.edge.validation import validated
from secondlook.edge.wire import View
from secondlook.engine.context import with_history
from secondlook.engine.method.grid import GridMap
from secondlook.engine.stream.focus import anchored, narrowed, widened
from secondlook.engine.stream.history import MOST_FRAMES, Entry, History
from secondlook.engine.stream.keyframes import KeyFrames
from secondlook.engine.stream.rules import Belief, Newest, Standing

__all__ = ["Ask", "Focus", "FrameInfo", "Method", "Said", "Stream", "Verdict"]

Cells = Sequence[Sequence[int]]
"""A relevance map's rows, see `secondlook.edge.wire.Relevance`."""


@validated(frozen=True)
class Method:
    """What a stream does with its frames. The defaults were chosen for the embedded model on drawn streams of
    the calibration split, and are a start for others.

    Attributes:
        rule: how answers are weighed.
        memory: whether the small model's own answers are remembered for later frames.
        sure: doubt in nats up to which the small model need not look closer, and up to which counts what it
            says to an earlier answer behind the question.
        key_frames, in_flight: which frames the cloud is asked about, and how many at once; 0: it is not
            asked.
        history_seconds: how long an answer is of use.
        own: whether the small model looks at all; without, the cloud's newest answer is held.
        context: how an earlier answer is put behind the question, see `secondlook.engine.context`; what
            is said to that counts up to the doubt `sure`. Else, and with None, the earlier answer stands.
        focus: `crop`: where the small model was unsure, the next frame is looked at closer, in the region
            brought to it; `still`: in the region as it was, for comparison.
    """

    rule: Belief | Newest = Belief()
    memory: bool = True
    sure: NonNegativeFloat = 0.1
    key_frames: KeyFrames = KeyFrames()
    in_flight: Annotated[int, Field(ge=0)] = 1
    history_seconds: Annotated[float, Field(gt=0)] = 10.0
    own: bool = True
    context: str | None = None
    focus: Literal["off", "crop", "still"] = "off"


@dataclass(frozen=True)
class FrameInfo:
    """A frame, without its pixels.

    Attributes:
        captured: seconds on the camera's clock.
        original: its size in pixels.
        window: what it shows of the world, where that is known; see `secondlook.edge.geometry.moved`.
        focus: the region that is there as a picture of its own.
    """

    number: int
    captured: float
    original: Size
    window: Rectangle | None = None
    focus: Region | None = None


@dataclass(frozen=True)
class Ask:
    """What to ask the small model of the frame.

    Attributes:
        focus: where it may look closer, if it is less sure than `sure`; None: at the whole frame only.
        relevance: whether its map is needed.
    """

    question: str
    sure: float
    focus: Region | None = None
    relevance: bool = False


@dataclass(frozen=True)
class Said:
    """What the small model said.

    Attributes:
        text, uncertainty: of the look that stands.
        first: uncertainty of the look at the whole frame.
        closer: whether the answer that stands was read in the focus.
        relevance: the map, if that was asked for.
    """

    text: str
    uncertainty: float
    first: float
    closer: bool = False
    relevance: Cells | None = None


@dataclass(frozen=True)
class Focus:
    """Where to look closer, as it lies in one frame."""

    frame: int
    region: Region


@dataclass(frozen=True)
class Verdict:
    """What holds for a frame.

    Attributes:
        source: see `secondlook.edge.wire_stream.FrameReply`.
        uncertainty: the small model's, from pictures alone; None: it did not look.
        context_uncertainty: with the history behind the question; None: it was not asked so.
        entry: the earlier answer that this rests on.
        chance: that the answer is right, as far as that was weighed; None: there is none.
        age: seconds since the capture of what it rests on; None: there is no answer.
        focus: where the next frame is looked at closer.
    """

    text: str
    source: Literal["picture", "context", "history", "nothing"]
    uncertainty: float | None = None
    context_uncertainty: float | None = None
    entry: Entry | None = None
    age: float | None = None
    focus: Focus | None = None
    chance: float | None = None


Steps = Generator[Ask, "Said | None", Verdict]


@dataclass
class _Tracked:
    """A place on its way from the frame of its entry."""

    entry: Entry
    frame: int
    region: Region | None


@dataclass
class _Known:
    """A frame of the last seconds."""

    info: FrameInfo
    own: Entry | None = None
    relevance: Cells | None = field(default=None, repr=False)


class Stream:
    """One question about the frames of one camera.

    Args:
        view: of the small model's whole picture.
    """

    def __init__(self, question: str, method: Method, view: View) -> None:
        self.question = question
        self.method = method
        self.history = History(method.history_seconds)
        self._view = view
        self._frames: dict[int, _Known] = {}
        self._order: deque[int] = deque()
        self._asked: dict[int, float] = {}  # in flight: captured
        self._last_asked: float | None = None
        self._tracked: _Tracked | None = None
        self._own: Entry | None = None  # the small model's last answer, however unsure

    def frame(self, info: FrameInfo) -> Steps:
        """The steps of a frame. Sent None in place of what was said, it does without: that look failed."""
        method = self.method
        known = self._remember(info)
        if not method.own:
            return self._hold(info)
        focusing = method.focus != "off"
        tracking = method.focus == "crop" and info.window is None
        said = yield Ask(self.question, method.sure, info.focus if focusing else None, tracking)
        if said is None:
            return self._hold(info)
        known.relevance = said.relevance
        known.own = self._own_answer(info, said)
        focus = self._focus(info) if focusing and said.first > method.sure else None
        standing = self._standing(info, known.own)
        assert standing is not None, "its own answer is there, if nothing else"
        entry, chance, own = standing.entry, standing.chance, said.uncertainty
        if entry is known.own:
            return Verdict(said.text, "picture", own, age=0.0, focus=focus, chance=chance)
        age = info.captured - entry.captured
        told = None
        if method.context is not None:
            told = yield Ask(with_history(method.context, self.question, age, entry.text), method.sure)
        if told is None:
            return Verdict(entry.text, "history", own, None, entry, age, focus, chance)
        if told.text.strip() and told.uncertainty <= method.sure:
            return Verdict(told.text, "context", own, told.uncertainty, entry, age, focus, chance)
        return Verdict(entry.text, "history", own, told.uncertainty, entry, age, focus, chance)

    def held(self, info: FrameInfo) -> Verdict:
        """What holds for a frame that was not looked at, or is not yet: what held before. Changes nothing."""
        return self._hold(info)

    def wants_cloud(self, number: int) -> bool:
        """Whether the cloud should be asked about a frame: it is a key frame, and there is room."""
        known = self._frames.get(number)
        if known is None or number in self._asked or len(self._asked) >= self.method.in_flight:
            return False
        return self.method.key_frames.wants(
            lambda: self._chance(known), known.info.captured, self._last_asked
        )

    def asked(self, number: int) -> None:
        """The cloud was asked about a frame."""
        captured = self._frames[number].info.captured
        self._asked[number] = captured
        self._last_asked = captured if self._last_asked is None else max(self._last_asked, captured)

    def answered(
        self, number: int, captured: float, text: str, uncertainty: float, region: Region | None
    ) -> bool:
        """The cloud's answer about a frame came, or came again; whether it counts."""
        self._asked.pop(number, None)
        entry = Entry(number, captured, text, uncertainty, "cloud", region)
        counts = self.method.rule.counts(entry)
        if counts:
            self.history.put(entry)
        return counts

    def lost(self, number: int) -> None:
        """The cloud will not answer about a frame; it is not asked again."""
        self._asked.pop(number, None)

    @property
    def in_flight(self) -> int:
        """Frames that the cloud was asked about, and has not answered."""
        return len(self._asked)

    def _remember(self, info: FrameInfo) -> _Known:
        known = self._frames.get(info.number)
        if known is None:
            known = self._frames[info.number] = _Known(info)
            self._order.append(info.number)
            self.history.reach(info.captured)
            while len(self._order) > MOST_FRAMES or self._age(info, self._order[0]) > self.history.seconds:
                del self._frames[self._order.popleft()]
        return known

    def _age(self, info: FrameInfo, earlier: int) -> float:
        return info.captured - self._frames[earlier].info.captured

    def _own_answer(self, info: FrameInfo, said: Said) -> Entry:
        region = narrowed(info.focus) if said.closer and info.focus is not None else None
        entry = Entry(info.number, info.captured, said.text, said.uncertainty, "own", region)
        if self._own is None or entry.frame > self._own.frame:
            self._own = entry
        if self.method.memory and self.method.rule.counts(entry):
            self.history.put(entry)
        return entry

    def _standing(self, info: FrameInfo, own: Entry | None) -> Standing | None:
        earlier = self.history.before(info.number, info.captured)
        return self.method.rule.standing(earlier, own, info.captured)

    def _chance(self, known: _Known) -> float:
        standing = self._standing(known.info, known.own)
        return 0.0 if standing is None else standing.chance

    def _hold(self, info: FrameInfo) -> Verdict:
        standing, own = self._standing(info, None), self._own
        if standing is not None:
            entry, chance = standing.entry, standing.chance
        elif own is None or own.frame >= info.number or self._too_old(own, info):
            return Verdict("", "nothing")
        else:
            entry, chance = own, 0.0
        age = info.captured - entry.captured
        return Verdict(entry.text, "history", entry=entry, age=age, chance=chance)

    def _too_old(self, entry: Entry, info: FrameInfo) -> bool:
        return info.captured - entry.captured > self.method.history_seconds

    def _focus(self, info: FrameInfo) -> Focus | None:
        """The newest known place, brought to this frame."""
        entry = self.history.place(info.number, info.captured, self.method.sure)
        if entry is None or entry.region is None:
            return None
        place = self._brought(entry, entry.region, info)
        return None if place is None else Focus(info.number, widened(place, info.original))

    def _brought(self, entry: Entry, region: Region, info: FrameInfo) -> Region | None:
        source = self._frames.get(entry.frame)
        if source is None or source.info.original != info.original:
            return None  # nothing says how the one's pixels are the other's
        if self.method.focus == "still":
            return inside(Rectangle(*region.as_tuple()), info.original)
        if source.info.window is not None and info.window is not None:
            rectangle = Rectangle(*region.as_tuple())
            return inside(moved(rectangle, source.info.window, info.window, info.original), info.original)
        return self._tracked_to(entry, region, info)

    def _tracked_to(self, entry: Entry, region: Region, info: FrameInfo) -> Region | None:
        """By the small model's own attention, from frame to frame. The cloud's place is exact in its own
        frame; the small model's, which the camera cut out before it saw that, is not."""
        tracked = self._tracked
        if tracked is None or tracked.entry != entry or tracked.frame > info.number:
            begin = entry.frame if entry.by == "cloud" else entry.frame - 1
            tracked = self._tracked = _Tracked(entry, begin, region)
        for number in sorted(n for n in self._frames if tracked.frame < n <= info.number):
            cells = self._frames[number].relevance
            if cells is not None and tracked.region is not None:
                original = self._frames[number].info.original
                size = target(self._view, original)
                grid = GridMap(original, size, self._view.fit, len(cells), len(cells[0]))
                tracked.region = anchored(cells, grid, tracked.region)
            tracked.frame = number
        return tracked.region
