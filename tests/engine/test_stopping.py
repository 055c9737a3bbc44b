"""What a server that was told to stop still answers, and what it does not wait for."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import pytest

from engine.fake_engine import FakeEngine, jpeg
from engine.serving_harness import SECONDS, SPOKEN, assert_error, image_part
from engine.test_connections import HALF_BODY, HEAD, connected, error_of, until_closed
from secondlook.engine.serve.app import GracefulServer, address_url, create_app, listen
from secondlook.engine.serve.connections import ConnectionConfig
from secondlook.engine.serve.settings import ServerSettings

FORM = {"question": "unsure", "width": "400", "height": "300"}


class Running:
    """A server on a thread, and signals to it."""

    def __init__(self, engine: FakeEngine, grace: float) -> None:
        settings = ServerSettings(grace_seconds=grace)
        app = create_app(engine, settings)
        self._listener = listen("127.0.0.1", 0)
        self.url = address_url(self._listener)
        config = ConnectionConfig(app, settings.connections)
        self._server = GracefulServer(config, app.state.service, settings.grace_seconds)
        self._thread = threading.Thread(target=lambda: self._server.run([self._listener]))
        self._thread.start()
        self.client = httpx.Client(base_url=self.url, timeout=SECONDS, headers=SPOKEN)

    def signal(self) -> None:
        self._server.handle_exit(signal.SIGTERM, None)

    def ended(self, within: float = SECONDS) -> bool:
        self._thread.join(within)
        return not self._thread.is_alive()

    def first_look(self, question: str = "unsure") -> httpx.Response:
        return self.client.post("/v1/answers", data={**FORM, "question": question}, files=image_part())

    def session(self) -> str:
        return str(self.first_look().json()["session"]["id"])

    def second_look(self, session: str) -> httpx.Response:
        return self.client.post(f"/v1/answers/{session}/local", files=image_part(jpeg(32, 21)))


Start = Callable[..., Running]


@pytest.fixture
def start(caplog: pytest.LogCaptureFixture) -> Iterator[Start]:
    running: list[Running] = []

    def begin(engine: FakeEngine | None = None, grace: float = SECONDS) -> Running:
        running.append(Running(engine or FakeEngine(), grace))
        return running[-1]

    yield begin
    for one in running:
        one.client.close()
        one.signal()
        one.signal()
        assert one.ended()
    assert "Traceback" not in caplog.text


@contextmanager
def ends_by_itself(server: Running, grace: float = SECONDS) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert server.ended()
    assert time.monotonic() - began < grace


@pytest.mark.parametrize("sent", [b"", HEAD, HALF_BODY, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_incomplete_requests_and_idle_connections_are_not_waited_for(start: Start, sent: bytes) -> None:
    server = start()
    with connected(server.url, sent) as connection:
        assert server.client.get("/healthz").status_code == 200
        with ends_by_itself(server):
            server.signal()
            received = until_closed(connection)
        if sent == HALF_BODY:
            assert error_of(received, 503).error == "shutting_down"


def test_open_sessions_have_their_second_look(start: Start) -> None:
    server = start()
    names = [server.session(), server.session(), server.session()]
    with ends_by_itself(server):
        server.signal()
        assert_error(server.first_look(), 503, "shutting_down")  # on the connection that was kept
        assert_error(httpx.get(f"{server.url}/readyz", timeout=SECONDS), 503, "shutting_down")
        assert server.second_look(names[0]).json()["decision"] == "took_second"
        assert server.client.delete(f"/v1/answers/{names[1]}").json()["status"] == "final"
        assert not server.ended(within=0.5)
        assert server.second_look(names[2]).json()["decision"] == "took_second"


def test_sessions_are_waited_for_no_longer_than_the_grace(start: Start) -> None:
    server = start(grace=0.5)
    server.session()
    with ends_by_itself(server):
        server.signal()


def test_a_question_in_progress_is_answered(start: Start) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    server = start(engine)
    with ThreadPoolExecutor() as pool, ends_by_itself(server):
        asked = pool.submit(server.first_look, "sure")
        assert engine.entered.acquire(timeout=SECONDS)
        server.signal()
        assert not server.ended(within=0.5)
        engine.gate.set()
        assert asked.result(SECONDS).json()["answer"]["text"] == "first to sure"


@pytest.mark.parametrize("end", ["the grace is over", "a second signal"])
def test_a_question_that_takes_too_long_is_told_so(start: Start, end: str) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    server = start(engine, grace=0.5 if end == "the grace is over" else SECONDS)
    with ThreadPoolExecutor() as pool, ends_by_itself(server):
        asked = pool.submit(server.first_look, "sure")
        assert engine.entered.acquire(timeout=SECONDS)
        server.signal()
        if end == "a second signal":
            server.signal()
        assert_error(asked.result(SECONDS), 503, "shutting_down")
        engine.gate.set()


def test_a_second_signal_ends_the_wait_for_sessions(start: Start) -> None:
    server = start()
    server.session()
    server.signal()
    assert not server.ended(within=0.5)
    with ends_by_itself(server):
        server.signal()


def test_nobody_connects_to_a_server_that_has_ended(start: Start) -> None:
    server = start()
    server.signal()
    assert server.ended()
    with pytest.raises(ConnectionRefusedError), connected(server.url):
        pass


def test_a_second_signal_ends_all_of_it_without_a_traceback(start: Start) -> None:
    """A session that waits, and a question that is computed: neither is waited for."""
    engine = FakeEngine()
    server = start(engine)
    server.session()
    engine.gate.clear()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(server.first_look, "sure")
        assert engine.entered.acquire(timeout=SECONDS)
        assert engine.entered.acquire(timeout=SECONDS)
        with ends_by_itself(server):
            server.signal()
            server.signal()
        engine.gate.set()
        with suppress(httpx.RemoteProtocolError, httpx.ReadError):  # or it is told that the server shuts down
            assert_error(asked.result(), 503, "shutting_down")
