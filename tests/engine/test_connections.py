"""Raw sockets against a server: what clients owe, and how many of them there may be."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from engine.fake_engine import FakeEngine
from engine.serving_harness import SECONDS, SPOKEN, image_part, listening
from secondlook.edge.errors import SettingsError
from secondlook.edge.wire import ErrorReply
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.connections import connections_allowed
from secondlook.engine.serve.errors import TooManyBodiesError
from secondlook.engine.serve.settings import ChatLimits, ConnectionLimits, ServerSettings
from secondlook.engine.serve.uploads import Bodies

HEAD = (
    b"POST /v1/answers HTTP/1.1\r\nHost: x\r\nsecondlook-protocol: 2.0\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n"
)
HALF_BODY = HEAD + b"Content-Length: 5000\r\n\r\n--x\r\n"
PATIENT = 600.0


def limits(**chosen: Any) -> ConnectionLimits:
    """No deadline but those chosen."""
    patient = dict.fromkeys(("header_seconds", "body_seconds", "window_seconds", "idle_seconds"), PATIENT)
    return ConnectionLimits(**{**patient, **chosen})


@contextmanager
def connected(url: str, sent: bytes = b"") -> Iterator[socket.socket]:
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 0), timeout=SECONDS) as connection:
        connection.sendall(sent)
        yield connection


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    try:
        while more := connection.recv(65536):
            received += more
    except ConnectionResetError:
        pass
    return received


def error_of(received: bytes, status: int) -> ErrorReply:
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), received
    assert b"connection: close" in head.lower()
    return ErrorReply.model_validate_json(body)


def ask(url: str) -> httpx.Response:
    form = {"question": "sure", "width": "400", "height": "300"}
    return httpx.post(f"{url}/v1/answers", data=form, files=image_part(), headers=SPOKEN, timeout=SECONDS)


# Deadlines


def test_a_connection_that_says_nothing_is_closed() -> None:
    with (
        listening(create_app(FakeEngine()), limits(header_seconds=0.2)) as url,
        connected(url) as connection,
    ):
        assert until_closed(connection) == b""


@pytest.mark.parametrize(
    ("sent", "chosen", "text"),
    [
        (HEAD, {"header_seconds": 0.2}, "headers"),
        (HALF_BODY, {"body_seconds": 0.2}, "body"),
        (HALF_BODY, {"window_seconds": 0.2}, "body"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n--x\r\n\r\n", {"body_seconds": 0.2}, "body"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /", {"header_seconds": 0.2}, "headers"),
    ],
)
def test_half_a_request_is_given_up(sent: bytes, chosen: dict[str, float], text: str) -> None:
    app = create_app(FakeEngine())
    with listening(app, limits(**chosen)) as url, connected(url, sent) as connection:
        received = until_closed(connection)
        told = error_of(received[received.rindex(b"HTTP/1.1") :], 408)
        assert (told.error, text in told.message) == ("request_timeout", True)
        assert ask(url).json()["status"] == "final"


CHAT = HEAD.replace(b"/v1/answers", b"/v1/chat/completions")
HALF_CHAT = (
    b"POST /eyes/v1/chat/completions?a=b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 5000\r\n\r\n{"
)


@pytest.mark.parametrize(
    ("sent", "chosen", "status", "code"),
    [
        (CHAT, {"header_seconds": 0.2}, 408, "request_timeout"),
        (CHAT.replace(b"/v1", b"/eyes/v1"), {"header_seconds": 0.2}, 408, "request_timeout"),
        (HALF_CHAT, {"body_seconds": 0.2}, 408, "request_timeout"),
        (b"GET /v1/models?a=b HTTP/1.1\r\nA: b", {"header_seconds": 0.2}, 408, "request_timeout"),
        (CHAT + b"A: " + b"a" * 70_000, {}, 431, "headers_too_large"),
        (CHAT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", {}, 400, "malformed_request"),
        (CHAT + b"no colon\r\n\r\n", {}, 400, "malformed_request"),
        (CHAT.replace(b"Host: x\r\n", b"") + b"\r\n", {}, 400, "malformed_request"),
        (CHAT.replace(b"HTTP/1.1", b"HTTP/9 or so") + b"\r\n", {}, 400, "malformed_request"),
        (b"GET /eyes/v1/models\r\n\r\n", {}, 400, "malformed_request"),
        (b"GET  /version?a=b HTTP/1.1\r\n\r\n", {}, 400, "malformed_request"),
        (b"G\x00T /v1/models/demo HTTP/1.1\r\n\r\n", {}, 400, "malformed_request"),
    ],
)
def test_clients_of_openais_are_told_in_its_words(
    sent: bytes, chosen: dict[str, float], status: int, code: str
) -> None:
    app = create_app(FakeEngine(), ServerSettings(root_path="/eyes"))
    with listening(app, limits(**chosen), prefix="/eyes") as url, connected(url, sent) as connection:
        head, _, body = until_closed(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    kind = "server_error" if status >= 500 else "invalid_request_error"
    assert (error["code"], error["type"]) == (code, kind)


@pytest.mark.parametrize("why", ["shutting_down", "too_many_connections"])
def test_clients_of_openais_are_told_of_a_server_without_room_for_them(why: str) -> None:
    most = 1 if why == "too_many_connections" else 8
    app = create_app(FakeEngine(), ServerSettings(root_path="/eyes"))
    with ExitStack() as stack:
        with listening(app, limits(most=most), prefix="/eyes") as url:
            expecting = HALF_CHAT.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue")
            connection = stack.enter_context(connected(url, expecting))
            assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"  # it has been read
            with connected(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as after:
                assert after.recv(65536).startswith(b"HTTP/1.1 200 ")
        head, _, body = until_closed(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after" in head
    assert (json.loads(body)["error"]["code"], json.loads(body)["error"]["type"]) == (why, "server_error")


@pytest.mark.parametrize("sent", [b"no colon\r\n\r\n", b"Content-Length: -1\r\n\r\n"])
def test_whose_words_they_are_is_the_later_requests_where_one_was_answered_before(sent: bytes) -> None:
    asked = b"GET %b HTTP/1.1\r\nHost: x\r\n"
    for path, ours in ((b"/v1/models", False), (b"/v1/model", True)):
        with (
            listening(create_app(FakeEngine())) as url,
            connected(url, asked % b"/healthz" + b"\r\n" + asked % path + sent) as connection,
        ):
            body = until_closed(connection).rpartition(b"\r\n\r\n")[2]
        error = json.loads(body)["error"]
        assert (error if ours else error["code"]) == "malformed_request"


@pytest.mark.parametrize("path", [b"/v1/answers", b"/v1/chat/completions"])
def test_a_client_that_leaves_amid_its_body_costs_one_quiet_line(
    path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    kind = b"application/json" if b"chat" in path else b"multipart/form-data; boundary=x"
    head = HEAD.replace(b"/v1/answers", path).replace(b"multipart/form-data; boundary=x", kind)
    caplog.set_level("INFO")
    with listening(create_app(FakeEngine())) as url:
        with connected(url, head + b"Content-Length: 5000\r\nExpect: 100-continue\r\n\r\n") as connection:
            assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"  # it is being read
            connection.sendall(b"--x\r\n" if kind != b"application/json" else b"{")
        deadline = time.monotonic() + SECONDS
        while not (lines := [one for one in caplog.records if path.decode() in one.getMessage()]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert [": 499 in" in one.getMessage() for one in lines] == [True]
    assert not [one for one in caplog.records if one.exc_info or one.levelname not in ("INFO", "DEBUG")]


def test_a_request_for_the_head_only_is_given_up_without_a_body() -> None:
    half = HALF_BODY.replace(b"POST", b"HEAD")
    app = create_app(FakeEngine())
    engaged = limits(body_seconds=0.2)
    with listening(app, engaged) as url, connected(url, half) as connection:
        head, _, body = until_closed(connection).partition(b"\r\n\r\n")
        assert (head.split()[1], body) in ((b"405", b""), (b"408", b""))


@pytest.mark.parametrize("method", [b"CONNECT x:1", b"OPTIONS *", b"BREW /v1/answers"])
def test_a_method_that_nothing_has_is_an_error_reply(method: bytes) -> None:
    with listening(create_app(FakeEngine())) as url:
        with connected(url, method + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as connection:
            received = until_closed(connection)
        assert ErrorReply.model_validate_json(received.partition(b"\r\n\r\n")[2])


def test_dripping_does_not_move_a_deadline() -> None:
    for sent, chosen in ((HEAD, {"header_seconds": 0.5}), (HALF_BODY, {"body_seconds": 0.5})):
        with (
            listening(create_app(FakeEngine()), limits(**chosen)) as url,
            connected(url, sent) as connection,
        ):
            connection.settimeout(0.05)
            ends = time.monotonic() + SECONDS
            received = b""
            while not received and time.monotonic() < ends:
                connection.sendall(b"a")
                try:
                    received = connection.recv(65536)
                except TimeoutError:
                    continue
            assert received.startswith(b"HTTP/1.1 408 ")


def test_a_slow_body_is_taken_as_long_as_it_comes() -> None:
    form = {"question": "sure", "width": "400", "height": "300"}
    request = httpx.Request("POST", "http://x/v1/answers", data=form, files=image_part(), headers=SPOKEN)
    body = request.read()
    head = b"".join(b"%b: %b\r\n" % header for header in request.headers.raw)
    with (
        listening(create_app(FakeEngine()), limits(window_seconds=0.3, window_bytes=1)) as url,
        connected(url, b"POST /v1/answers HTTP/1.1\r\n" + head + b"\r\n") as connection,
    ):
        for start in range(0, len(body), 1 + len(body) // 20):
            connection.sendall(body[start : start + 1 + len(body) // 20])
            time.sleep(0.05)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_reply_that_nobody_reads_is_given_up() -> None:
    app = create_app(FakeEngine())
    with listening(app, limits(reading_seconds=0.2)) as url, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(SECONDS)
        connection.connect((httpx.URL(url).host, httpx.URL(url).port))
        connection.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
        time.sleep(2)
        assert len(until_closed(connection)) < 8 * 1_500_000


def test_an_idle_connection_is_closed_and_one_that_waits_for_an_answer_is_not() -> None:
    engine = FakeEngine()
    short = limits(idle_seconds=0.2, header_seconds=0.2, body_seconds=0.2)
    with listening(create_app(engine), short) as url:
        with connected(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
            assert until_closed(connection).startswith(b"HTTP/1.1 200 ")
        engine.gate.clear()
        with httpx.Client(base_url=url, timeout=SECONDS, headers=SPOKEN) as client, ExitStack() as later:
            later.callback(engine.gate.set)
            threading.Timer(1.0, engine.gate.set).start()
            form = {"question": "sure", "width": "400", "height": "300"}
            response = client.post("/v1/answers", data=form, files=image_part())
            assert response.json()["status"] == "final"


# Room


def test_silent_connections_do_not_lock_others_out() -> None:
    with listening(create_app(FakeEngine()), limits(most=8)) as url, ExitStack() as stack:
        silent = [
            stack.enter_context(connected(url, (b"", HEAD, HALF_BODY)[number % 3])) for number in range(40)
        ]
        for _ in range(3):
            assert ask(url).json()["status"] == "final"
        told = [until_closed(connection) for connection in silent[:30]]
        assert {error_of(one, 503).error for one in told if one} <= {"too_many_connections"}
        assert not any(told[::3])  # who asked nothing is told nothing


def test_an_answer_in_progress_is_not_dropped_for_room() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    form = {"question": "sure", "width": "400", "height": "300"}
    request = httpx.Request("POST", "http://x/v1/answers", data=form, files=image_part(), headers=SPOKEN)
    head = b"".join(b"%b: %b\r\n" % header for header in [*request.headers.raw])
    whole = b"POST /v1/answers HTTP/1.1\r\n" + head + b"\r\n" + request.read()
    with listening(create_app(engine), limits(most=1)) as url, connected(url, whole) as asking:
        assert engine.entered.acquire(timeout=SECONDS)
        with connected(url) as another:
            assert error_of(until_closed(another), 503).error == "too_many_connections"
        engine.gate.set()
        assert asking.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_connections_leave_files_to_the_rest() -> None:
    most, at_once = connections_allowed(None)
    assert most > 4 * at_once > 0
    with pytest.raises(SettingsError, match="ulimit -n"):
        connections_allowed(10**9)


def test_bodies_have_a_bound_of_all_of_them() -> None:
    chat = ChatLimits(max_body_bytes=40_000)
    settings = ServerSettings(
        max_body_bytes=40_000, max_bodies_bytes=1, chat=chat
    )  # one of the largest a client
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    with listening(create_app(FakeEngine(), settings)) as url, ExitStack() as stack:
        large = HEAD + b"Content-Length: 39000\r\n\r\n" + part + bytes(20_000)
        held = stack.enter_context(connected(url, large))
        with httpx.Client(base_url=url, timeout=SECONDS, headers=SPOKEN) as client:
            content = {"content-type": "multipart/form-data; boundary=x"}
            for _ in range(200):  # until the server has read what was sent
                response = client.post("/v1/answers", content=bytes(30_000), headers=content)
                if response.status_code == 429:
                    break
            assert ErrorReply.model_validate_json(response.content).error == "queue_full"
            assert response.headers["retry-after"] == "1"
            assert ask(url).json()["status"] == "final"  # there is room for small ones
            held.close()
            for _ in range(200):
                response = client.post("/v1/answers", content=bytes(30_000), headers=content)
                if response.status_code == 400:
                    break
            assert response.status_code == 400


def test_all_clients_together_have_a_bound_and_each_has_half_of_it() -> None:
    bodies = Bodies(100)
    with bodies.one_more("a") as first, bodies.one_more("b") as second:
        first.take(50)
        with pytest.raises(TooManyBodiesError, match="of this client would hold more than 50 bytes"):
            first.check(1)
        second.take(40)
        with bodies.one_more("c") as third, pytest.raises(TooManyBodiesError, match="of all clients"):
            third.take(11)
        with bodies.one_more("c") as third:
            third.take(10)
    with bodies.one_more("a") as again:
        again.take(50)


# What is no HTTP


@pytest.mark.parametrize(
    ("sent", "status", "name"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000, 431, "headers_too_large"),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 501, "not_implemented"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "malformed_request"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n--x\r\n\r\nzz\r\n", 400, "malformed_request"),
    ],
)
def test_what_is_no_http_is_an_error_reply_and_one_line(
    sent: bytes, status: int, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(create_app(FakeEngine())) as url:
        caplog.clear()
        with connected(url, sent) as connection:
            told = error_of(until_closed(connection), status)
        assert (told.error, "bytearray" in told.message) == (name, False)
        assert ask(url).json()["status"] == "final"
    warnings = [record for record in caplog.records if record.levelname not in ("INFO", "DEBUG")]
    assert len(warnings) == 1
    assert warnings[0].exc_info is None


def test_lines_about_bad_connections_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    with listening(create_app(FakeEngine())) as url:
        for _ in range(30):
            with connected(url, b"\x00\r\n\r\n") as connection:
                until_closed(connection)
    assert len([record for record in caplog.records if "is not HTTP" in record.message]) == 10


def test_an_upgrade_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    headers = {"connection": "upgrade", "upgrade": "websocket"}
    with listening(create_app(FakeEngine())) as url:
        assert httpx.get(f"{url}/healthz", headers=headers, timeout=SECONDS).status_code == 200
    assert "pgrade" not in caplog.text
