"""Two servers, each a process of its own, and a small balancer before them that goes by `x-session-id`."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from subprocess import Popen
from typing import ClassVar
from zlib import crc32

from engine.commands import python
from secondlook.edge.wire import SESSION_HEADER

REPLICA = """
from engine.fake_engine import FakeEngine
from engine.serving_harness import listening
from secondlook.engine.serve.app import create_app
with listening(create_app(FakeEngine())) as url:
    print(url, flush=True)
    input()
"""


class Balancer(BaseHTTPRequestHandler):
    """Sends a request to the replica of its session that is alive.

    Attributes:
        replicas: addresses, host:port.
        served: of each request the session and the replica.
        last: after so many requests the replica of the latest is gone; 0: never.
    """

    protocol_version = "HTTP/1.1"
    replicas: ClassVar[list[str]]
    served: ClassVar[list[tuple[str, str]]]
    last: ClassVar[int]

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def do_DELETE(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        name = self.headers.get(SESSION_HEADER, "")
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        for replica in sorted(self.replicas, key=lambda each: crc32(f"{name} {each}".encode())):
            with closing(http.client.HTTPConnection(replica)) as upstream:
                try:
                    upstream.connect()
                except OSError:
                    continue  # it is gone: the next one, as nothing was sent yet
                self.served.append((name, replica))
                if len(self.served) == self.last:
                    self.replicas.remove(replica)
                try:
                    upstream.request(self.command, self.path, body, dict(self.headers))
                    reply = upstream.getresponse()
                    self._reply(reply.status, reply.headers["content-type"], reply.read())
                except (OSError, http.client.HTTPException):
                    self._reply(502, "text/html", b"<html>the upstream was lost</html>")
                return
        self._reply(502, "text/html", b"<html>no upstream</html>")

    def _reply(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Stay silent."""


@contextmanager
def balanced(*replicas: str, last: int = 0) -> Iterator[tuple[str, type[Balancer]]]:
    """A balancer's address, and what it does."""
    handler = type("Fresh", (Balancer,), {"replicas": list(replicas), "served": [], "last": last})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler
        finally:
            server.shutdown()


@contextmanager
def two_replicas() -> Iterator[dict[str, Popen[str]]]:
    """Servers without a model, by their addresses."""
    processes = [python(REPLICA), python(REPLICA)]
    try:
        yield {_address(process): process for process in processes}
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _address(process: Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip().removeprefix("http://")
