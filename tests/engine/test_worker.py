"""The inference thread with an engine that does what it is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from secondlook.engine.decode.flows import Flow, Request
from secondlook.engine.errors import (
    EmptyQuestionError,
    EngineFailedError,
    ModelNotFoundError,
    ModelNotReadyError,
    ShuttingDownError,
)
from secondlook.engine.progress import Stages
from secondlook.engine.serve.protocol import TwoLookEngine
from secondlook.engine.serve.worker import InferenceThread

SECONDS = 60


class Engine:
    """Runs one function a round, in the order they came."""

    slots = 1
    outside = None

    def __init__(self) -> None:
        self.jobs: list[tuple[Request[Any], Callable[[], object]]] = []
        self.cancelled: list[Request[Any]] = []
        self.cancelling = threading.Event()
        self.fail: Exception | None = None

    def begin(self, job: Callable[[], object]) -> Request[Any]:
        request: Request[Any] = Request(_flow(), False, Stages())
        self.jobs.append((request, job))
        return request

    def round(self) -> bool:
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        if not self.jobs:
            return False
        request, job = self.jobs.pop(0)
        try:
            request.future.set_result(job())
        except Exception as error:  # noqa: BLE001 -- as the real one does
            request.future.set_exception(error)
        return bool(self.jobs)

    def cancel(self, request: Request[Any]) -> None:
        self.jobs = [pair for pair in self.jobs if pair[0] is not request]
        self.cancelled.append(request)
        self.cancelling.set()


def _flow() -> Flow[Any]:
    yield from ()


def doing(job: Callable[[], object]) -> Callable[[TwoLookEngine], Request[Any]]:
    return lambda engine: cast("Engine", engine).begin(job)


class Gate:
    """A job that says when it has begun, and waits to be let through."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.open.wait(SECONDS)
        return "through"


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def thread(engine: Engine) -> Iterator[InferenceThread]:
    inference = InferenceThread(lambda: cast(TwoLookEngine, engine))
    inference.start()
    inference.loaded.result(SECONDS)
    yield inference
    inference.close()
    inference.join(SECONDS)


def result(thread: InferenceThread, job: Callable[[], object]) -> object:
    return thread.submit(doing(job)).future.result(SECONDS)


def test_looks_are_computed_on_one_thread(thread: InferenceThread) -> None:
    for number in range(3):
        assert result(thread, lambda number=number: number) == number  # type: ignore[misc]
        assert result(thread, lambda: threading.current_thread().name) == "secondlook-inference"


def test_a_cancelled_look_is_not_computed(thread: InferenceThread, engine: Engine) -> None:
    gate = Gate()
    running = thread.submit(doing(gate))
    assert gate.begun.wait(SECONDS)
    ran: list[str] = []
    waiting = [thread.submit(doing(lambda: ran.append("ran"))) for _ in range(2)]
    assert all(look.future.cancel() for look in waiting)
    last = thread.submit(doing(lambda: "last"))
    gate.open.set()
    assert running.future.result(SECONDS) == "through"
    assert last.future.result(SECONDS) == "last"
    assert ran == []


def test_a_look_that_is_cancelled_while_it_is_computed_ends(thread: InferenceThread, engine: Engine) -> None:
    gate, never = Gate(), Gate()
    first, second = thread.submit(doing(gate)), thread.submit(doing(never))
    assert gate.begun.wait(SECONDS)
    gate.open.set()
    first.future.result(SECONDS)
    assert second.future.cancel()
    never.open.set()
    assert engine.cancelling.wait(SECONDS)
    assert engine.cancelled[-1] is second.request
    assert result(thread, lambda: "next") == "next"


def test_an_error_of_ours_reaches_the_caller_as_it_is(thread: InferenceThread) -> None:
    def job() -> None:
        raise EmptyQuestionError("nothing asked")

    with pytest.raises(EmptyQuestionError, match="nothing asked"):
        result(thread, job)

    def refuse(_engine: TwoLookEngine) -> Request[Any]:
        raise EmptyQuestionError("not even begun")

    with pytest.raises(EmptyQuestionError, match="not even begun"):
        thread.submit(refuse).future.result(SECONDS)


def test_an_unforeseen_error_is_logged_wrapped_and_survived(
    thread: InferenceThread, caplog: pytest.LogCaptureFixture
) -> None:
    def job() -> None:
        raise RuntimeError("a secret")

    with caplog.at_level(logging.ERROR), pytest.raises(EngineFailedError) as failed:
        result(thread, job)
    assert isinstance(failed.value.__cause__, RuntimeError)
    assert "a secret" not in str(failed.value)
    assert "a secret" in caplog.text
    assert result(thread, lambda: "fine") == "fine"


def test_an_engine_that_fails_loses_its_looks_and_goes_on(
    thread: InferenceThread, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    first, second = thread.submit(doing(gate)), thread.submit(doing(lambda: "lost"))
    assert gate.begun.wait(SECONDS)
    engine.fail = RuntimeError("a round failed")
    gate.open.set()
    assert first.future.result(SECONDS) == "through"
    with pytest.raises(EngineFailedError):
        second.future.result(SECONDS)
    assert "a round failed" in caplog.text
    assert result(thread, lambda: "fine") == "fine"


def test_closing_finishes_what_was_accepted_and_refuses_the_rest(thread: InferenceThread) -> None:
    gate = Gate()
    accepted = [thread.submit(doing(gate)), thread.submit(doing(lambda: "late"))]
    assert gate.begun.wait(SECONDS)
    thread.close()
    with pytest.raises(ShuttingDownError):
        thread.submit(doing(lambda: "no"))
    gate.open.set()
    thread.join(SECONDS)
    assert [look.future.result(0) for look in accepted] == ["through", "late"]


def test_looks_are_refused_while_the_engine_is_being_loaded(engine: Engine) -> None:
    go = threading.Event()

    def load() -> TwoLookEngine:
        assert go.wait(SECONDS)
        return cast(TwoLookEngine, engine)

    thread = InferenceThread(load)
    thread.start()
    with pytest.raises(ModelNotReadyError, match="being loaded"):
        thread.submit(doing(lambda: "no"))
    go.set()
    assert cast(Engine, thread.loaded.result(SECONDS)) is engine
    assert result(thread, lambda: "yes") == "yes"
    thread.close()
    thread.join(SECONDS)


def test_a_failed_loading_is_told() -> None:
    def load() -> TwoLookEngine:
        raise ModelNotFoundError("no such folder")

    thread = InferenceThread(load)
    thread.start()
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        thread.loaded.result(SECONDS)
    with pytest.raises(ModelNotReadyError, match="could not be loaded"):
        thread.submit(doing(lambda: "no"))
    thread.join(SECONDS)
