"""Edges that ask servers, real processes, one of which goes away in the middle."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass

import httpx
from PIL import Image

from secondlook.edge import AsyncEdgeClient, ClientSettings, EdgeAnswer
from secondlook.edge.wire import AnswerOptions

ALWAYS = AnswerOptions(second_look="always", arbitration=False)
QUESTION = "What number is on the red sign?"
SETTINGS = ClientSettings(timeout=120, wait_budget=120)
SECONDS = 120
SERVE = "from secondlook.engine.cli import main; main()"


@dataclass(frozen=True)
class Ended:
    """A question that was answered, `at` seconds after the first was asked."""

    at: float
    answer: EdgeAnswer


def ask_all(url: str, questions: int, edges: int, in_the_middle: Callable[[], None]) -> list[Ended]:
    """The answers to so many two-look questions, each about a picture of its own; an error raises.

    Args:
        in_the_middle: called, on a thread, once half of them are answered.
    """
    return asyncio.run(_ask_all(url, questions, edges, in_the_middle))


async def _ask_all(url: str, questions: int, edges: int, in_the_middle: Callable[[], None]) -> list[Ended]:
    numbers, ended, started = iter(range(questions)), list[Ended](), time.perf_counter()
    half = asyncio.Event()

    async def edge() -> None:
        async with AsyncEdgeClient(url, settings=SETTINGS) as client:
            for number in numbers:
                answer = await client.ask(_picture(number), QUESTION, ALWAYS)
                ended.append(Ended(time.perf_counter() - started, answer))
                if len(ended) >= questions // 2:
                    half.set()

    async def trouble() -> None:
        await half.wait()
        await asyncio.to_thread(in_the_middle)

    await asyncio.gather(trouble(), *(edge() for _ in range(edges)))
    return ended


def _picture(number: int) -> Image.Image:
    coarse = random.Random(number).randbytes(3 * 32 * 24)
    return Image.frombytes("RGB", (32, 24), coarse).resize((800, 600), Image.Resampling.NEAREST)


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(closing(socket.socket())) for _ in range(number)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]


def start_server(port: int, *options: str) -> subprocess.Popen[bytes]:
    """`secondlook serve`, of the embedded model, in a process of its own."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-c", SERVE, "serve", f"--port={port}", "--kv-cache-gb=0.1", *options],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_until_ready(url: str) -> None:
    """Until a server that is starting takes questions."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz").is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(0.1)
    raise AssertionError(f"{url} is not ready after {SECONDS} seconds")


def check_none_lost(ended: list[Ended], questions: int) -> None:
    assert len(ended) == questions
    failed = [one.answer.second_look_failed for one in ended if not one.answer.looked_twice]
    assert failed == []
