from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from secondlook.engine.errors import (
    EmptyQuestionError,
    EngineFailedError,
    ModelNotFoundError,
    ModelNotReadyError,
    QueueFullError,
    ShuttingDownError,
)
from secondlook.engine.worker import InferenceThread

SECONDS = 60


class Gate:
    """A job that says when it has begun, and waits to be let through."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def __call__(self, engine: str) -> str:
        self.begun.set()
        assert self.open.wait(SECONDS)
        return engine


@pytest.fixture
def thread() -> Iterator[InferenceThread[str]]:
    inference = InferenceThread(lambda: "engine", queue_size=2)
    inference.start()
    inference.loaded.result(SECONDS)
    yield inference
    inference.close()
    inference.join(SECONDS)


def test_jobs_run_in_order_on_one_thread_with_the_engine(thread: InferenceThread[str]) -> None:
    seen: list[tuple[int, str]] = []
    gate = Gate()
    blocking = thread.submit(gate)
    assert gate.begun.wait(SECONDS)

    def job(number: int) -> str:
        seen.append((number, threading.current_thread().name))
        return f"result {number}"

    futures = [thread.submit(lambda _engine, number=number: job(number)) for number in range(2)]  # type: ignore[misc]
    gate.open.set()
    assert blocking.result(SECONDS).result == "engine"
    assert [future.result(SECONDS).result for future in futures] == ["result 0", "result 1"]
    assert seen == [(0, "secondlook-inference"), (1, "secondlook-inference")]


def test_a_full_queue_refuses_and_says_when_to_come_back(thread: InferenceThread[str]) -> None:
    gate = Gate()
    futures = [thread.submit(gate)]
    assert gate.begun.wait(SECONDS)
    futures += [thread.submit(lambda engine: engine) for _ in range(2)]
    with pytest.raises(QueueFullError, match="2 questions are waiting") as refused:
        thread.submit(lambda engine: engine)
    assert refused.value.retry_after >= 1
    with pytest.raises(QueueFullError):
        thread.check_room()
    thread.check_ready()
    gate.open.set()
    for future in futures:
        future.result(SECONDS)
    assert thread.submit(lambda engine: engine).result(SECONDS).result == "engine"


def test_a_cancelled_job_does_not_run_and_makes_room(thread: InferenceThread[str]) -> None:
    gate = Gate()
    running = thread.submit(gate)
    assert gate.begun.wait(SECONDS)
    ran: list[str] = []
    cancelled = [thread.submit(ran.append) for _ in range(2)]
    assert all(future.cancel() for future in cancelled)
    last = thread.submit(lambda engine: engine)
    gate.open.set()
    running.result(SECONDS)
    assert last.result(SECONDS).result == "engine"
    assert ran == []


def test_the_seconds_in_the_queue_are_told() -> None:
    ticks = iter([10.0, 12.5, 13.0])  # submitted, begun, done
    thread = InferenceThread(lambda: "engine", queue_size=1, clock=lambda: next(ticks))
    thread.start()
    thread.loaded.result(SECONDS)
    assert thread.submit(lambda engine: engine).result(SECONDS).queue_seconds == 2.5
    thread.close()
    thread.join(SECONDS)


def test_an_error_of_ours_reaches_the_caller_as_it_is(thread: InferenceThread[str]) -> None:
    def job(_engine: str) -> None:
        raise EmptyQuestionError("nothing asked")

    with pytest.raises(EmptyQuestionError, match="nothing asked"):
        thread.submit(job).result(SECONDS)


def test_an_unforeseen_error_is_logged_wrapped_and_survived(
    thread: InferenceThread[str], caplog: pytest.LogCaptureFixture
) -> None:
    def job(_engine: str) -> None:
        raise RuntimeError("out of memory")

    with caplog.at_level(logging.ERROR), pytest.raises(EngineFailedError) as failed:
        thread.submit(job).result(SECONDS)
    assert isinstance(failed.value.__cause__, RuntimeError)
    assert "out of memory" not in str(failed.value)
    assert "out of memory" in caplog.text
    assert thread.submit(lambda engine: engine).result(SECONDS).result == "engine"


def test_closing_finishes_what_was_accepted_and_refuses_the_rest(thread: InferenceThread[str]) -> None:
    gate = Gate()
    accepted = [thread.submit(gate), thread.submit(lambda engine: f"late {engine}")]
    assert gate.begun.wait(SECONDS)
    thread.close()
    with pytest.raises(ShuttingDownError):
        thread.submit(lambda engine: engine)
    gate.open.set()
    thread.join(SECONDS)
    assert [future.result(0).result for future in accepted] == ["engine", "late engine"]


def test_jobs_are_refused_while_the_engine_is_being_loaded() -> None:
    go = threading.Event()

    def load() -> str:
        assert go.wait(SECONDS)
        return "engine"

    thread = InferenceThread(load, queue_size=1)
    thread.start()
    with pytest.raises(ModelNotReadyError, match="being loaded"):
        thread.submit(lambda engine: engine)
    go.set()
    assert thread.loaded.result(SECONDS) == "engine"
    assert thread.submit(lambda engine: engine).result(SECONDS).result == "engine"
    thread.close()
    thread.join(SECONDS)


def test_a_failed_loading_is_told() -> None:
    def load() -> str:
        raise ModelNotFoundError("no such folder")

    thread = InferenceThread(load, queue_size=1)
    thread.start()
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        thread.loaded.result(SECONDS)
    with pytest.raises(ModelNotReadyError, match="could not be loaded"):
        thread.submit(lambda engine: engine)
    thread.join(SECONDS)
