"""A server that speaks TLS, on real connections."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.certificates import certificate
from engine.commands import exit_status, one_line, python
from engine.fake_engine import FakeEngine, jpeg
from engine.serving_harness import SECONDS, SPOKEN, image_part, listening
from engine.test_connections import PATIENT, connected, limits, until_closed
from engine.test_keys import line, written
from secondlook.edge.client import EdgeClient
from secondlook.edge.errors import ConnectionFailedError, SettingsError
from secondlook.edge.retry import ClientSettings
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import ConnectionLimits, TlsFiles
from secondlook.engine.serve.tls import Handshake, Handshakes, server_context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return certificate(tmp_path_factory.mktemp("tls"))


@contextmanager
def secured(files: TlsFiles, chosen: ConnectionLimits | None = None) -> Iterator[str]:
    with listening(create_app(FakeEngine()), chosen, tls=server_context(files)) as url:
        yield url


@contextmanager
def handshaken(url: str, files: TlsFiles, sent: bytes = b"") -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context(cafile=str(files.certificate))
    with connected(url) as plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(sent)
        yield connection


def test_an_edge_that_trusts_the_certificate_has_both_looks(files: TlsFiles) -> None:
    with secured(files) as url:
        assert url.startswith("https://")
        with EdgeClient(url, settings=ClientSettings(ca=files.certificate)) as client:
            answer = client.ask(jpeg(400, 300), "unsure")
            assert answer.decision == "took_second"
        with (
            EdgeClient(
                url, settings=ClientSettings(ca=certificate(files.key.parent, "other").certificate)
            ) as other,
            pytest.raises(ConnectionFailedError, match=r"is refused.*\(--ca\)"),
        ):
            other.ask(jpeg(400, 300), "unsure")


def test_the_application_knows_that_it_is_asked_over_tls(files: TlsFiles) -> None:
    with (
        secured(files) as url,
        httpx.Client(verify=ssl.create_default_context(cafile=files.certificate)) as client,
    ):
        assert client.get(f"{url}/healthz/", timeout=SECONDS).headers["location"] == f"{url}/healthz"


def test_plain_http_is_ended_and_the_edge_says_what_may_be_wrong(
    files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    with secured(files) as url:
        with connected(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
            assert b"HTTP" not in until_closed(connection)
        patience = ClientSettings(retries=0)
        with (
            EdgeClient(url.replace("https", "http"), settings=patience) as client,
            pytest.raises(ConnectionFailedError, match="begins with https://"),
        ):
            client.ask(jpeg(400, 300), "sure")
        with EdgeClient(url, settings=ClientSettings(ca=files.certificate)) as client:
            assert client.ask(jpeg(400, 300), "sure").text == "first to sure"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_tls_to_a_server_of_plain_http_fails_at_once() -> None:
    with (
        listening(create_app(FakeEngine())) as url,
        EdgeClient(url.replace("http", "https")) as client,
        pytest.raises(ConnectionFailedError, match="does it speak https"),
    ):
        client.ask(jpeg(400, 300), "sure")


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"])
def test_a_handshake_that_does_not_go_on_is_given_up(files: TlsFiles, sent: bytes) -> None:
    with secured(files, limits(header_seconds=0.2)) as url, connected(url, sent) as connection:
        assert until_closed(connection) == b""


def test_handshakes_are_bounded_and_the_oldest_of_the_crowd_goes(files: TlsFiles) -> None:
    context = server_context(files)
    with listening(create_app(FakeEngine()), limits(), tls=context) as url, ExitStack() as stack:
        silent = [stack.enter_context(connected(url)) for _ in range(80)]  # at most 64 are kept
        assert until_closed(silent[0]) == b""
        trusting = ssl.create_default_context(cafile=files.certificate)
        assert httpx.get(f"{url}/healthz", verify=trusting, timeout=SECONDS).status_code == 200


class Talking(asyncio.Protocol):
    """Notes that it was made, and lost."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._notes.append("made")

    def connection_lost(self, exc: Exception | None) -> None:
        self._notes.append("lost")


@asynccontextmanager
async def shaking(
    handshakes: Handshakes, protocol: Callable[[], asyncio.Protocol]
) -> AsyncIterator[tuple[str, int]]:
    """The address of a server of handshakes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Handshake(handshakes, protocol), "127.0.0.1", 0, backlog=8)
    async with server:
        yield server.sockets[0].getsockname()


def test_those_that_are_dropped_before_they_began_make_room(files: TlsFiles) -> None:
    """They come in one turn of the loop."""

    async def scenario() -> None:
        handshakes = Handshakes(server_context(files), 1, PATIENT)
        async with shaking(handshakes, asyncio.Protocol) as address:
            with ExitStack() as stack:
                clients = [stack.enter_context(socket.create_connection(address)) for _ in range(4)]
                for client in clients[:-1]:
                    client.settimeout(SECONDS)
                    assert await asyncio.to_thread(until_closed, client) == b""
                clients[-1].setblocking(False)
                with pytest.raises(BlockingIOError):
                    clients[-1].recv(1)

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


@pytest.mark.parametrize("late", [False, True])
def test_who_goes_while_the_connection_goes_over_leaves_nothing(
    late: bool, files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio tells of it a turn of the loop later, when another protocol may have taken over."""
    notes: list[str] = []

    async def start_tls(
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        handshake: Handshake,
        *_: Any,
        **_k: Any,
    ) -> asyncio.Transport:
        if late:
            loop.call_soon(handshake.connection_lost, None)
        else:
            handshake.connection_lost(None)
        return transport

    monkeypatch.setattr(asyncio.BaseEventLoop, "start_tls", start_tls)

    async def scenario() -> None:
        handshakes = Handshakes(server_context(files), 8, PATIENT)
        async with shaking(handshakes, lambda: Talking(notes)) as address:
            with socket.create_connection(address):
                await asyncio.sleep(0.2)
                assert notes == (["made", "lost"] if late else [])

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_who_goes_at_any_time_leaves_nothing(files: TlsFiles, caplog: pytest.LogCaptureFixture) -> None:
    notes: list[str] = []
    trusting = ssl.create_default_context(cafile=files.certificate)
    hello = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        trusting.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    said = hello.read()

    def come_and_go(address: tuple[str, int]) -> None:
        for reset in (False, True):
            for sent in (b"", said[:3], said[:-1], said):
                with socket.create_connection(address, SECONDS) as plain:
                    plain.sendall(sent)
                    if reset:
                        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with (
                socket.create_connection(address, SECONDS) as plain,
                trusting.wrap_socket(plain, server_hostname="localhost") as secured,
            ):
                if reset:
                    secured.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def scenario() -> None:
        handshakes = Handshakes(server_context(files), 8, PATIENT)
        async with shaking(handshakes, lambda: Talking(notes)) as address:
            ours = len(asyncio.all_tasks())
            for _ in range(5):
                await asyncio.to_thread(come_and_go, address)
            while len(asyncio.all_tasks()) > ours or notes.count("lost") < notes.count("made"):
                await asyncio.sleep(0.01)
        gc.collect()

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
    assert notes.count("made") == notes.count("lost") > 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_connection_that_is_secured_has_its_deadlines(files: TlsFiles) -> None:
    with secured(files, limits(header_seconds=0.2, idle_seconds=0.2)) as url:
        with handshaken(url, files, b"POST /v1/answers HTTP/1.1\r\n") as connection:
            assert until_closed(connection).startswith(b"HTTP/1.1 408 ")
        with handshaken(url, files) as connection:
            assert until_closed(connection) == b""


def test_who_does_not_say_goodbye_is_not_waited_for(files: TlsFiles) -> None:
    with (
        secured(files, limits(idle_seconds=0.2, reading_seconds=0.2)) as url,
        handshaken(url, files, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as connection,
    ):
        plain = socket.socket(fileno=socket.dup(connection.fileno()))
        with plain:
            plain.settimeout(SECONDS)
            assert until_closed(plain), "it is closed, though this side never answers"


def test_many_clients_are_answered_at_once(files: TlsFiles) -> None:
    async def scenario(url: str) -> None:
        form = {"question": "sure", "width": "400", "height": "300"}
        trusting = ssl.create_default_context(cafile=files.certificate)
        async with httpx.AsyncClient(
            base_url=url, verify=trusting, timeout=SECONDS, headers=SPOKEN
        ) as client:
            asked = [client.post("/v1/answers", data=form, files=image_part()) for _ in range(8)]
            assert [reply.status_code for reply in await asyncio.gather(*asked)] == [200] * 8

    with secured(files) as url:
        asyncio.run(asyncio.wait_for(scenario(url), SECONDS))


def test_files_that_cannot_be_used_are_named(files: TlsFiles, tmp_path: Path) -> None:
    other = certificate(tmp_path, "other")
    locked = certificate(tmp_path, "locked", "-passout", "pass:secret")
    empty = tmp_path / "empty"
    empty.touch()
    for certified, key, told in (
        (tmp_path / "no.pem", files.key, "--tls-cert .*no.pem cannot be read: No such file"),
        (files.certificate, tmp_path, "--tls-key .* cannot be read: Is a directory"),
        (files.certificate, other.key, "is not the key of --tls-cert"),
        (empty, files.key, "are not a certificate and its key"),
        (locked.certificate, locked.key, "without a password"),
    ):
        with pytest.raises(SettingsError, match=told):
            server_context(TlsFiles(certified, key))


@pytest.mark.parametrize(
    ("given", "status", "told"),
    [
        (["--tls-cert", "no.pem", "--tls-key", "no.key"], 1, "--tls-cert no.pem cannot be read"),
        (["--tls-cert", "no.pem"], 2, "go together"),
        (["--api-key-file", "no.keys"], 1, "the keys of no.keys cannot be read"),
        (["--key-concurrency", "3"], 2, "--api-key-file"),
        (["--cors-origin", "page"], 1, "'page'"),
    ],
)
def test_the_command_says_so_before_the_model_is_loaded(
    given: list[str], status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("serve", "--port", "0", "--model", "no-such-model", *given) == status
    if status == 1:
        assert told in one_line(capsys)
    else:
        assert told in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_serves_the_embedded_model_to_who_has_a_key(files: TlsFiles, tmp_path: Path) -> None:
    keys = written(tmp_path / "keys", line("ann", "a"))
    options = ["serve", "--port", "0", "--metrics-port", "0", "--api-key-file", str(keys)]
    options += ["--tls-cert", str(files.certificate), "--tls-key", str(files.key)]
    with python(f"from secondlook.engine import cli\ncli.run(cli.command_line(), {options!r})") as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        assert told.startswith("demo answers on https://127.0.0.1:"), told
        assert ", and its metrics on http://127.0.0.1:" in told
        asking = ["ask", str(tmp_path / "sign.jpg"), "What number is on the red sign?", "--json"]
        asking += [
            "--server",
            told.split()[3].rstrip(","),
            "--ca",
            str(files.certificate),
            "--look-twice",
            "always",
        ]
        (tmp_path / "sign.jpg").write_bytes(jpeg(1200, 900))
        replies = [
            subprocess.run(
                [sys.executable, "-m", "secondlook.edge", *asking, "--api-key", key],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            for key in ("a", "b")
        ]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
    assert replies[0].returncode == 0, replies[0].stderr
    assert json.loads(replies[0].stdout)["second"] is not None
    assert replies[1].returncode == 4
    assert "--api-key" in replies[1].stderr
    assert err.endswith("stopped\n")
    assert "Traceback" not in err
