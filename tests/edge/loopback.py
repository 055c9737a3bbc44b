"""A server of answers on the loopback interface."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any

from edge.support import CARD, final, refined, wants_region


class Handler(BaseHTTPRequestHandler):
    """A server that always wants a second look, unless asked never to; drops connections on demand."""

    protocol_version = "HTTP/1.1"
    bodies: list[bytes]
    drop: list[str]

    def do_GET(self) -> None:
        self.reply(200, CARD)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.bodies.append(body)
        if self.path in self.drop:
            self.drop.remove(self.path)
            self.close_connection = True
            return  # the request was received, but is never answered
        if b"refuse" in body:
            self.reply(422, {"error": "question_empty", "message": "the question is empty; ask something"})
        elif self.path == "/v1/answers":
            self.reply(200, final() if b"never" in body else wants_region())
        elif self.path == "/v1/answers/abc/local":
            self.reply(200, refined())
        else:
            self.reply(404, {"error": "not_found", "message": f"there is no {self.path}"})

    def reply(self, status: int, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Stay silent."""
