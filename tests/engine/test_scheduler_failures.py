"""What goes wrong with one look of many, which is only its own."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.schedules import THREE, Expected, First, Session, size_of, write_expected
from engine.test_engine import LARGE, picture
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.errors import OutOfMemoryError
from secondlook.engine.models.pictures import Picture

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return write_expected(tmp_path_factory.mktemp("batching"))


def shown(expected: Expected, seed: int) -> Picture:
    return expected.adapter.picture(picture(seed), expected.adapter.global_view, LARGE)


@pytest.mark.parametrize("name", ["encode", "prefill", "attention_rows", "step"])
def test_a_failure_is_only_the_requests_own(
    expected: Expected, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    session = Session(expected.adapter, 3)
    owner: Any = expected.adapter if name == "encode" else session.engine._decoder
    function, broken = getattr(owner, name), shown(expected, 2).digest

    def failing(several: list[Any], **others: Any) -> Any:
        for one in several:
            slot = one if name == "step" else getattr(one, "slot", None)
            if slot == 1 or getattr(one, "digest", None) == broken:
                raise RuntimeError("broken")
        return function(several, **others)

    monkeypatch.setattr(owner, name, failing)
    good, bad, also_good = (session.first(first) for first in THREE)
    with pytest.raises(RuntimeError, match="broken"):
        session.engine._flows.run(bad)
    assert session.engine._pool.used == (0 if good.future.done() else 2)
    session.finish()
    assert not also_good.future.exception()
    monkeypatch.undo()
    session.firsts.pop(1)
    session.first(THREE[1])  # what failed does not stay broken
    session.finish()
    session.check(expected)


def test_a_second_look_without_its_first_fails_at_once(
    expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(expected.adapter, 1)
    options = AnswerOptions(second_look="always", max_new_tokens=8, decide_after=1)
    first = session.first(First(options=options))
    while not session.firsts[0][2]:
        session.engine.round()
    monkeypatch.setattr(session.engine._decoder, "step", lambda slots: exhaust())
    with pytest.raises(OutOfMemoryError):
        session.engine._flows.run(first)
    monkeypatch.undo()
    pending = session.firsts[0][2][0].pending
    assert pending is not None
    local = session.engine.prepare_local(pending, picture(8, size_of(pending)))
    second = session.engine.start_second_look(pending, local, after=first)
    assert isinstance(second.future.exception(0), OutOfMemoryError)  # before a single round


def exhaust() -> None:
    torch.empty(2**50, dtype=torch.uint8)


def exhaust_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("allocate", [exhaust, exhaust_gpu])
def test_what_has_no_room_together_is_computed_alone(
    expected: Expected, monkeypatch: pytest.MonkeyPatch, allocate: Callable[[], None]
) -> None:
    session = Session(expected.adapter, 3)
    decoder, held = session.engine._decoder, list[weakref.ref[torch.Tensor]]()
    prefill = decoder.prefill

    def crowded(several: list[Any], **others: Any) -> Any:
        assert all(tensor() is None for tensor in held), "the failed pass still holds its memory"
        if len(several) > 1:
            activations = torch.zeros(1)
            held.append(weakref.ref(activations))
            allocate()
        return prefill(several, **others)

    monkeypatch.setattr(decoder, "prefill", crowded)
    for first in THREE:
        session.first(first)
    session.finish()
    assert held
    session.check(expected)


@pytest.mark.parametrize("allocate", [exhaust, exhaust_gpu])
def test_a_request_without_room_is_told_so(
    expected: Expected,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    allocate: Callable[[], None],
) -> None:
    session = Session(expected.adapter, 2)
    encode, large = expected.adapter.encode, shown(expected, 2).digest

    def crowded(pictures: list[Any]) -> Any:
        if any(picture.digest == large for picture in pictures):
            allocate()
        return encode(pictures)

    monkeypatch.setattr(expected.adapter, "encode", crowded)
    tasks = [session.first(first) for first in THREE]
    with pytest.raises(OutOfMemoryError, match="no memory for this question"):
        session.engine._flows.run(tasks[1])
    assert "no memory for a question" in caplog.text
    session.firsts.pop(1)
    session.finish()
    session.check(expected)
