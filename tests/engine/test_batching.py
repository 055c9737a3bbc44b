"""Many looks at once on few slots: whatever the schedule, each comes to what it comes to alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlavaForConditionalGeneration

from engine.checkpoints import Variant, write_checkpoint
from engine.test_looks import picture
from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.batching import Decode, Encode, Flow, Prefill, Rows, Slot, Task, Wait
from secondlook.engine.kv_cache import CacheSettings
from secondlook.engine.llava import LlavaAdapter
from secondlook.engine.loading import load_model
from secondlook.engine.looks import Engine, FinalAnswer, FirstLook, Pending
from secondlook.engine.policy import Policy

QUESTIONS = ("What is the number on the sign?", "Is it a sign?")
LARGE = Size(1000, 800)
MOST = 8
ENDS = (2, 168)  # with the second, every third answer ends early
# More than half of the first tokens are surer; none within 0.05 of it.
THRESHOLD = 0.6

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class First:
    """Start a first look."""

    picture: int = 1
    question: str = QUESTIONS[0]
    options: AnswerOptions = field(default_factory=lambda: AnswerOptions(max_new_tokens=MOST))
    client: str = ""


@dataclass(frozen=True)
class Second:
    """Start a second look of one of the regions told."""

    of: int
    local: int


@dataclass(frozen=True)
class Cancel:
    """Cancel one of the looks started, done or not."""

    of: int


@dataclass(frozen=True)
class Rounds:
    """Let the engine compute."""

    count: int


class Expected:
    """What each look comes to: tokens from `generate`, decision and region from an engine of its own."""

    def __init__(self, folder: Path) -> None:
        self.adapter = load_model(str(folder))
        self._model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self._alone: dict[tuple[int, str, str], FirstLook] = {}

    @functools.cache  # noqa: B019 -- lives as long as the module's tests
    def tokens(self, seed: int, question: str, local: tuple[int, tuple[int, int]] | None) -> tuple[int, ...]:
        """Greedily, with the local image drawn from a seed at a size, if there is one."""
        images = [picture(seed)] if local is None else [picture(seed), picture(*local)]
        ids = torch.tensor([self.adapter.layout.build(question, len(images), MOST).ids])
        squares = [self.adapter.square(image) for image in images]
        found = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=self.adapter._preprocessing.pixel_values(squares, torch.device("cpu")),
            max_new_tokens=MOST,
            do_sample=False,
        )
        return tuple(found[0, ids.shape[1] :].tolist())

    def alone(self, first: First) -> FirstLook:
        key = (first.picture, first.question, first.options.model_dump_json())
        if key not in self._alone:
            self._alone[key] = engine_of(self.adapter, 1).first_look(
                picture(first.picture), first.question, LARGE, first.options
            )
        return self._alone[key]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    # The two likeliest tokens of every logit row computed here are at least 0.01 apart.
    variant = Variant(seed=11, kv_heads=2, eos=ENDS)
    return Expected(write_checkpoint(tmp_path_factory.mktemp("batching"), variant))


def engine_of(adapter: LlavaAdapter, slots: int) -> Engine:
    policy = Policy(threshold=THRESHOLD)
    return Engine(adapter, policy, cache=CacheSettings(most_slots=slots))


class Session:
    """An engine with few slots, and all that was asked of it."""

    def __init__(self, adapter: LlavaAdapter, slots: int) -> None:
        self.engine = engine_of(adapter, slots)
        self.firsts: list[tuple[First, Task[FirstLook], list[FirstLook]]] = []
        self.seconds: list[tuple[First, Second, Pending, Task[FirstLook] | None, Task[FinalAnswer]]] = []
        self.cancelled: list[Task[Any]] = []

    def first(self, first: First) -> Task[FirstLook]:
        told: list[FirstLook] = []
        task = self.engine.start_first_look(
            picture(first.picture),
            first.question,
            LARGE,
            first.options,
            client=first.client,
            on_region=told.append,
        )
        self.firsts.append((first, task, told))
        return task

    def second(self, second: Second) -> Any:
        known: list[Any] = [(one, task, pending_of(task, told)) for one, task, told in self.firsts]
        known = [one for one in known if one[2] is not None]
        if not known:
            return None
        first, task, pending = known[second.of % len(known)]
        local, after = picture(second.local, size_of(pending)), None if task.future.done() else task
        begun = self.engine.start_second_look(pending, local, after=after)
        self.seconds.append((first, second, pending, after, begun))
        return begun

    def cancel(self, task: Task[Any]) -> None:
        self.cancelled += [] if task.future.done() else [task]
        self.engine.cancel(task)
        assert task.future.done()

    def do(self, action: First | Second | Cancel | Rounds) -> None:
        tasks: list[Task[Any]] = [one[1] for one in self.firsts]
        tasks += [one[-1] for one in self.seconds]
        if isinstance(action, First):
            self.first(action)
        elif isinstance(action, Second):
            self.second(action)
        elif isinstance(action, Cancel) and tasks:
            self.cancel(tasks[action.of % len(tasks)])
        elif isinstance(action, Rounds):
            for _ in range(action.count):
                self.engine.round()
        used = self.engine._pool.used
        assert used <= self.engine.slots
        assert used + self.engine.waiting <= self.engine._batcher.tasks

    def finish(self) -> None:
        """To the end, which must come; nothing is left."""
        for _ in range(100 * (1 + len(self.firsts) + len(self.seconds))):
            if not self.engine.round():
                break
        assert self.engine._batcher.tasks == 0
        assert self.engine._pool.used == 0

    def check(self, expected: Expected) -> None:
        """Everything came to what it comes to alone."""
        for task in self.cancelled:
            assert task.future.cancelled()
        for first, task, told in self.firsts:
            if task in self.cancelled:
                continue
            look, limit = task.future.result(), first.options.max_new_tokens
            assert look.look.token_ids == expected.tokens(first.picture, first.question, None)[:limit]
            alone = expected.alone(first)
            assert (look.decision, look.region) == (alone.decision, alone.region)
            assert look.uncertainty == pytest.approx(alone.uncertainty, rel=1e-4, abs=1e-5)
            for name in ("question", "generic") if alone.maps is not None else ():
                maps, alone_maps = getattr(look.maps, name), getattr(alone.maps, name)
                torch.testing.assert_close(maps, alone_maps, atol=1e-5, rtol=0)
            early = alone.decision == "unsure" and len(look.tokens) > (first.options.decide_after or MOST)
            assert [one.region for one in told] == [alone.region] * early
        for first, second, pending, after, final_task in self.seconds:
            if final_task in self.cancelled:
                continue
            if after in self.cancelled:
                assert isinstance(final_task.future.exception(), CancelledError)
                continue
            final, limit = final_task.future.result(), first.options.max_new_tokens
            local = (second.local, size_of(pending))
            assert final.second.token_ids == expected.tokens(first.picture, first.question, local)[:limit]
            assert final.first.token_ids == expected.tokens(first.picture, first.question, None)[:limit]
            assert final.region == expected.alone(first).region


def pending_of(task: Task[FirstLook], told: list[FirstLook]) -> Pending | None:
    """What a second look can be started with by now."""
    if task.future.done():
        return None if task.future.cancelled() else task.future.result().pending
    return told[0].pending if told else None


def size_of(pending: Pending) -> tuple[int, int]:
    return pending.region.width, pending.region.height


_options = st.builds(
    AnswerOptions,
    max_new_tokens=st.integers(1, MOST),
    second_look=st.sampled_from(["always", "auto", "never"]),
    decide_after=st.integers(1, 4),
)
_firsts = st.builds(
    First, st.integers(1, 3), st.sampled_from(QUESTIONS), _options, st.sampled_from(["ann", "bob"])
)
_seconds = st.builds(Second, st.integers(0, 9), st.integers(8, 9))
_others = st.builds(Cancel, st.integers(0, 19)) | st.builds(Rounds, st.integers(1, 5))


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    slots=st.integers(1, 4),
    most_images=st.sampled_from([1, 2, 8]),
    most_rows=st.sampled_from([1, 120, 4096]),
    schedule=st.lists(_firsts | _seconds | _others, min_size=8, max_size=30),
)
def test_any_schedule_gives_the_answers_of_looks_alone(
    expected: Expected, slots: int, most_images: int, most_rows: int, schedule: list[Any]
) -> None:
    session = Session(expected.adapter, slots)
    session.engine._batcher._most_images, session.engine._batcher._most_rows = most_images, most_rows
    for action in schedule:
        session.do(action)
    session.finish()
    session.check(expected)


ALWAYS = AnswerOptions(second_look="always", max_new_tokens=4, decide_after=2)
THREE = [First(1, options=ALWAYS), First(2, QUESTIONS[1], options=ALWAYS), First(3, options=ALWAYS)]


def test_looks_share_their_passes(expected: Expected, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(expected.adapter, 3)
    passes: dict[str, list[int]] = {}
    for owner, name in (
        (expected.adapter, "encode"),
        (session.engine._decoder, "prefill"),
        (session.engine._decoder, "attention_rows"),
        (session.engine._decoder, "step"),
    ):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name), passes.setdefault(name, [])))
    for first in THREE:
        session.first(first)
    session.finish()
    monkeypatch.undo()
    session.check(expected)
    longest = max(len(one[1].future.result().tokens) for one in session.firsts)
    assert passes["encode"] == passes["prefill"] == passes["attention_rows"] == [3]
    assert len(passes["step"]) == longest - 1


def counted(function: Callable[..., Any], sizes: list[int]) -> Callable[..., Any]:
    def counting(several: list[Any], **others: Any) -> Any:
        sizes.append(len(several))
        return function(several, **others)

    return counting


@pytest.mark.parametrize("name", ["encode", "prefill", "attention_rows", "step"])
def test_a_failure_is_only_the_requests_own(
    expected: Expected, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    session = Session(expected.adapter, 3)
    owner: Any = expected.adapter if name == "encode" else session.engine._decoder
    function, broken = getattr(owner, name), expected.adapter.square(picture(2)).digest

    def failing(several: list[Any], **others: Any) -> Any:
        for one in several:
            slot = one if name == "step" else getattr(one, "slot", None)
            if slot == 1 or getattr(one, "digest", None) == broken:
                raise RuntimeError("broken")
        return function(several, **others)

    monkeypatch.setattr(owner, name, failing)
    good, bad, also_good = (session.first(first) for first in THREE)
    with pytest.raises(RuntimeError, match="broken"):
        session.engine._batcher.run(bad)
    assert session.engine._pool.used == (0 if good.future.done() else 2)
    session.finish()
    assert not also_good.future.exception()
    monkeypatch.undo()
    session.firsts.pop(1)
    session.first(THREE[1])  # what failed does not stay broken
    session.finish()
    session.check(expected)


@pytest.mark.parametrize("stage", [Slot, Encode, Prefill, Rows, Decode])
def test_a_cancelled_look_frees_its_slot_at_once(expected: Expected, stage: type) -> None:
    session = Session(expected.adapter, 1 if stage is Slot else 2)
    batcher = session.engine._batcher
    batcher._most_images = 1 if stage is Encode else 8
    batcher._most_rows = 1 if stage in (Prefill, Rows) else 4096
    stays, goes = session.first(THREE[0]), session.first(THREE[1])
    while not isinstance(goes.want, stage):
        session.engine.round()
    used = session.engine._pool.used
    session.cancel(goes)
    assert session.engine._pool.used == used - (stage is not Slot)
    assert goes.future.cancelled()
    assert not stays.future.done()
    session.first(THREE[2])
    session.finish()
    session.check(expected)


def test_a_second_look_that_waits_for_the_first_can_be_cancelled(expected: Expected) -> None:
    session = Session(expected.adapter, 2)
    options = AnswerOptions(second_look="always", max_new_tokens=MOST, decide_after=1)
    first = session.first(First(options=options))
    while not session.firsts[0][2]:
        session.engine.round()
    second = session.second(Second(0, 8))  # it has an end token early, and the first has none
    while not isinstance(second.want, Wait):
        session.engine.round()
    assert session.engine._pool.used == 1
    session.cancel(second)
    session.finish()
    session.check(expected)
    session.cancel(first)  # done: nothing happens
    assert first.future.result()


def test_an_arriving_second_look_gets_the_next_slot(expected: Expected) -> None:
    session = Session(expected.adapter, 1)
    session.first(THREE[0])
    session.finish()
    ended: list[str] = []
    for first in (THREE[1], THREE[2], THREE[0]):
        session.first(first).future.add_done_callback(lambda _, first=first: ended.append(str(first.picture)))
    session.engine.round()  # the first of them has the slot
    assert session.engine.waiting == 2
    second = session.second(Second(0, 8))
    second.future.add_done_callback(lambda _: ended.append("second"))
    session.finish()
    assert ended == ["2", "second", "3", "1"]
    session.check(expected)


def test_a_flow_may_end_before_it_wants_anything(expected: Expected) -> None:
    def flow(error: Exception | None) -> Generator[Any, Any, int]:
        if error is not None:
            raise error
        return 5
        yield

    batcher = engine_of(expected.adapter, 1)._batcher
    assert batcher.run(batcher.start(flow(None), {})) == 5
    with pytest.raises(ValueError, match="at once"):
        batcher.run(batcher.start(flow(ValueError("at once")), {}))
    assert (batcher.tasks, batcher.round()) == (0, False)


def test_flows_wait_for_each_other(expected: Expected) -> None:
    def giving() -> Flow[int]:
        slot, holds = yield Slot()
        assert not holds
        engine._pool.give_back(slot)
        return slot

    def waiting(other: Task[int]) -> Flow[int]:
        return (yield Wait(other)) + 100

    engine = engine_of(expected.adapter, 1)
    batcher, spent = engine._batcher, dict[str, float]()
    other = batcher.start(giving(), {})
    task = batcher.start(waiting(other), spent)
    assert not task.future.done()
    assert batcher.run(task) == 100
    assert list(spent) == ["queue"]
    assert batcher.run(batcher.start(waiting(other), {})) == 100  # done long ago
