"""A site on the loopback interface that answers frames from a script, and both streams to show it frames."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edge.support import CARD
from secondlook.edge import AsyncEdgeStream, EdgeStream, FrameHeader, FrameReply, StreamCard, StreamSummary

QUESTION = "What number is on the red sign?"
SUMMARY = dict.fromkeys(StreamSummary.model_fields, 0)


@dataclass(frozen=True)
class Shown:
    """A frame as it came: the id of its stream, its header, and its pictures by the names of their parts."""

    stream: str
    header: FrameHeader
    images: dict[str, bytes]


@dataclass
class Site:
    """Opens streams 0, 1, …, forgets those in `forgotten`, and answers frames as `reply` says.

    `reply` is given the frame and returns the fields of a FrameReply that are not the usual, a status to
    refuse it with, or None to break the connection.
    """

    reply: Callable[[Shown], dict[str, Any] | int | None] = lambda shown: {}
    card: dict[str, Any] = field(default_factory=dict)
    refuse_opening: list[int | None] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    options: list[dict[str, Any]] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    bytes_in: int = 0
    bytes_out: int = 0
    address: str = ""

    def answer(self, method: str, path: str, kind: str, body: bytes) -> tuple[int, Any] | None:
        """Status and message; None breaks the connection."""
        self.asked.append(f"{method} {path}")
        self.bytes_in += len(body)
        _, version, streams, *rest = path.split("/")
        assert (version, streams) == ("v1", "streams")
        if not rest:
            return self._open(kind, body)
        stream, *frames = rest
        if stream in self.forgotten:
            return 404, {"error": "unknown_stream", "message": f"there is no stream {stream}"}
        if method == "DELETE":
            return 200, {**SUMMARY, "frames": len(self.shown)}
        assert frames == ["frames"]
        shown = _shown(stream, kind, body)
        self.shown.append(shown)
        reply = self.reply(shown)
        if reply is None or isinstance(reply, int):
            return reply and (
                reply,
                {"error": "refused", "message": f"frame {shown.header.frame} is refused"},
            )
        usual = {"frame": shown.header.frame, "status": "answered", "answer": "75", "source": "picture"}
        return 200, FrameReply.model_validate({**usual, **reply}).model_dump(mode="json")

    def _open(self, kind: str, body: bytes) -> tuple[int, Any] | None:
        assert kind == "application/json"
        self.options.append(json.loads(body))
        refusal = self.refuse_opening.pop(0) if self.refuse_opening else 200
        if refusal != 200:
            return refusal and (refusal, {"error": "refused", "message": "no stream is opened"})
        number = sum(one == "POST /v1/streams" for one in self.asked) - 1
        card = {"id": str(number), "deadline": 0.5, "idle_seconds": 30, "history_seconds": 10, **self.card}
        return 200, StreamCard.model_validate({"model": CARD, **card}).model_dump(mode="json")


def _shown(stream: str, kind: str, body: bytes) -> Shown:
    message = BytesParser().parsebytes(f"content-type: {kind}\r\n\r\n".encode() + body)
    parts = message.get_payload()
    assert isinstance(parts, list)
    named = {part.get_param("name", header="content-disposition"): part for part in parts}
    header = named.pop("frame").get_payload(decode=True)
    assert all(part.get_content_type() == "image/jpeg" for part in named.values())
    images = {name: part.get_payload(decode=True) for name, part in named.items()}
    return Shown(stream, FrameHeader.model_validate_json(header), images)


@contextmanager
def listening(site: Site) -> Iterator[Site]:
    """The site, at its `address`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # a reply travels whole

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            answer = site.answer(self.command, self.path, self.headers.get("content-type", ""), body)
            if answer is None:
                self.close_connection = True
                return
            status, message = answer
            content = json.dumps(message).encode()
            site.bytes_out += len(content)
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        site.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


class Looped:
    """An AsyncEdgeStream that blocks: what EdgeStream does, by another way."""

    def __init__(self, *arguments: Any, sleep: Callable[[float], None] | None = None, **named: Any) -> None:
        async def slept(seconds: float) -> None:
            assert sleep is not None
            sleep(seconds)

        self._stream = AsyncEdgeStream(*arguments, **(named if sleep is None else {**named, "sleep": slept}))
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def show(self, *arguments: Any, **named: Any) -> FrameReply:
        return self._loop.run_until_complete(self._stream.show(*arguments, **named))

    def close(self) -> StreamSummary | None:
        if self._loop.is_closed():
            return self._stream.summary
        try:
            return self._loop.run_until_complete(self._stream.aclose())
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def __enter__(self) -> Looped:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


STREAMS: dict[str, Callable[..., EdgeStream | Looped]] = {"blocking": EdgeStream, "asynchronous": Looped}
