"""An upstream that answers by rule: a server of OpenAI's interface without a model, and with every fault.

Its answers are lists of tokens with ln p of each and of its runner-up. What it was sent it keeps, for tests.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

SECONDS = 60
Token = tuple[str, float, float]
"""Text, ln p, and ln p of the runner-up."""

SURE: list[Token] = [("1", -0.01, -5.0), ("2", -0.03, -4.0), ("</s>", -0.02, -6.0)]
UNSURE: list[Token] = [("1", -1.0, -1.2), ("8", -0.8, -0.9), ("</s>", -0.3, -2.0)]
SURER: list[Token] = [("1", -0.1, -3.0), ("6", -0.2, -2.0), ("</s>", -0.1, -3.0)]
USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 16, "image_tokens": 30},
}


@dataclass
class Upstream:
    """What it answers, and what it was asked.

    Attributes:
        first, second: answers to questions with one picture, and with two.
        box: what it says where to look.
        faults: what is done instead, for the next requests for an answer, in turn.
        asked: bodies of such requests; headers: theirs.
        left: released for each whose client did not wait.
        gate: cleared, every answer waits behind its first token.
        told_end: whether the end token is told, as vLLM does.
        logprobs, runner_up: whether these are told.
        models: their names.
        absent: whether it refuses everything, with 503.
    """

    first: list[Token] = field(default_factory=lambda: list(UNSURE))
    second: list[Token] = field(default_factory=lambda: list(SURER))
    box: str = "```json\n[500, 250, 750, 500]\n```"
    faults: deque[Callable[[], Response]] = field(default_factory=deque)
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    left: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    gate: threading.Event = field(default_factory=threading.Event)
    told_end: bool = True
    logprobs: bool = True
    runner_up: bool = True
    models: list[str] = field(default_factory=lambda: ["scripted"])
    absent: bool = False

    def __post_init__(self) -> None:
        self.gate.set()

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
            ]
        )

    def questions(self) -> list[list[str]]:
        """The texts of what it was asked, by request."""
        return [
            [part["text"] for part in body["messages"][0]["content"] if part["type"] == "text"]
            for body in self.asked
        ]

    async def _models(self, _request: Request) -> Response:
        if self.absent:
            return refused(503, "being restarted")
        return JSONResponse({"object": "list", "data": [{"id": name} for name in self.models]})

    async def _complete(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        self.begun.release()
        if self.faults:
            return self.faults.popleft()()
        parts = body["messages"][0]["content"]
        pictures = sum(part["type"] == "image_url" for part in parts)
        if not body.get("logprobs"):
            return StreamingResponse(self._words(), media_type="text/event-stream")
        tokens = self.first if pictures == 1 else self.second
        return StreamingResponse(self._tokens(tokens[: body["max_tokens"]]), media_type="text/event-stream")

    async def _words(self) -> AsyncIterator[str]:
        yield event({"delta": {"role": "assistant", "content": ""}})
        yield event({"delta": {"content": self.box[:5]}})
        yield event({"delta": {"content": self.box[5:]}, "finish_reason": "stop"})
        yield "data: [DONE]\n\n"

    async def _tokens(self, tokens: list[Token]) -> AsyncIterator[str]:
        try:
            yield event({"delta": {"role": "assistant", "content": ""}, "logprobs": None})
            for at, token in enumerate(tokens):
                end = token[0].startswith("</")
                finish = ("stop" if end else "length") if at == len(tokens) - 1 else None
                told = self.logprobs and (self.told_end or not end)
                yield event(
                    {
                        "delta": {"content": "" if end else token[0]},
                        "logprobs": {"content": [self._told(token)]} if told else None,
                        "finish_reason": finish,
                    }
                )
                while not self.gate.is_set():
                    await asyncio.sleep(0.005)
            yield f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n"
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.left.release()
            raise

    def _told(self, token: Token) -> dict[str, Any]:
        text, logprob, second = token
        likeliest = [{"token": text, "logprob": logprob}]
        if self.runner_up:
            likeliest.append({"token": f"not {text}", "logprob": second})
        return {"token": text, "logprob": logprob, "top_logprobs": likeliest}


def event(choice: dict[str, Any]) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\r\n\r\n"


def refused(status: int, message: str, **headers: str) -> Response:
    return JSONResponse(
        {"error": {"message": message}}, status, {k.replace("_", "-"): v for k, v in headers.items()}
    )


def broken_off() -> Response:
    """A stream that ends behind one token, with its connection."""

    async def parts() -> AsyncIterator[str]:
        token = {"token": "1", "logprob": -0.5, "top_logprobs": [{"token": "1", "logprob": -0.5}] * 2}
        yield event({"delta": {"content": "1"}, "logprobs": {"content": [token]}})
        raise ConnectionError("of the script")

    return StreamingResponse(parts(), media_type="text/event-stream")


def silent() -> Response:
    """A stream that never begins."""

    async def parts() -> AsyncIterator[str]:
        await asyncio.sleep(SECONDS)
        yield ""

    return StreamingResponse(parts(), media_type="text/event-stream")


def saying(text: str, kind: str = "text/event-stream") -> Callable[[], Response]:
    return lambda: Response(text, media_type=kind)


@contextmanager
def running(upstream: Upstream, port: int = 0) -> Iterator[str]:
    """Its address, while it runs."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            upstream.app(), log_config=None, log_level="critical", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield address
        finally:
            upstream.gate.set()
            server.should_exit = True
            thread.join(SECONDS)
    assert not thread.is_alive()
