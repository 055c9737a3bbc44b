"""Many looks at once on few slots: whatever the schedule, each comes to what it comes to alone."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checkpoints import GRID
from engine.schedules import (
    MOST,
    QUESTIONS,
    THREE,
    Cancel,
    Expected,
    First,
    Rounds,
    Second,
    Session,
    engine_of,
    write_expected,
)
from properties import examples
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.decode.flows import Decode, Flow, Request, Wait
from secondlook.engine.decode.scheduler import AttentionRow, Encode, Prefill, Slot
from secondlook.engine.progress import Stages

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return write_expected(tmp_path_factory.mktemp("batching"))


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
    max_examples=examples(120),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    slots=st.integers(1, 4),
    most_rows=st.sampled_from([1, 120, 4096]),
    schedule=st.lists(_firsts | _seconds | _others, min_size=8, max_size=30),
)
def test_any_schedule_gives_the_answers_of_looks_alone(
    expected: Expected, slots: int, most_rows: int, schedule: list[Any]
) -> None:
    session = Session(expected.adapter, slots)
    session.engine._flows._most_rows = most_rows
    for action in schedule:
        session.do(action)
    session.finish()
    session.check(expected)


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


@pytest.mark.parametrize("stage", [Slot, Encode, Prefill, AttentionRow, Decode])
def test_a_cancelled_look_frees_its_slot_at_once(expected: Expected, stage: type) -> None:
    session = Session(expected.adapter, 1 if stage is Slot else 2)
    scheduler = session.engine._flows
    # Room for both pictures, but for one prompt only: none waits for a pass that both fit.
    scheduler._most_rows = {Encode: 1, Prefill: 2 * GRID * GRID, AttentionRow: 1}.get(stage, 4096)
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
    assert len(session.engine._flows._requests) - session.engine._pool.used == 2  # wait
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

    scheduler = engine_of(expected.adapter, 1)._flows
    assert scheduler.run(scheduler.start(flow(None), {})) == 5
    with pytest.raises(ValueError, match="at once"):
        scheduler.run(scheduler.start(flow(ValueError("at once")), {}))
    assert (scheduler._requests, scheduler.round()) == ([], False)


def test_flows_wait_for_each_other(expected: Expected) -> None:
    def giving() -> Flow[int]:
        slot, holds = yield Slot(lambda: None)
        assert holds is None
        engine._pool.give_back(slot)
        return slot

    def waiting(other: Request[int]) -> Flow[int]:
        return (yield Wait(other)) + 100

    engine = engine_of(expected.adapter, 1)
    scheduler, stages = engine._flows, Stages()
    other = scheduler.start(giving(), Stages())
    task = scheduler.start(waiting(other), stages)
    assert not task.future.done()
    assert scheduler.run(task) == 100
    assert list(stages.seconds) == ["queue"]
    assert scheduler.run(scheduler.start(waiting(other), Stages())) == 100  # done long ago
