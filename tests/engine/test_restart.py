"""A server that is restarted in the middle: a real process is told to stop, and another takes its port."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import openai
import pytest

from engine.chats import about, sign
from engine.crowd import SECONDS, ask_all, check_none_lost, free_ports, start_server, wait_until_ready

pytestmark = pytest.mark.slow

QUESTIONS, EDGES, CHATS = 120, 8, 4
MOST_TRIES = 60


class Server:
    """One that can be restarted."""

    def __init__(self) -> None:
        (self._port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self._port}"
        self.process = start_server(self._port)

    def restart(self) -> None:
        """Told to stop, it ends what it has begun; then another one takes its port."""
        self.process.terminate()
        assert self.process.wait(SECONDS) == -signal.SIGTERM, "orderly, and then by the signal"
        self.process = start_server(self._port)


@contextmanager
def server() -> Iterator[Server]:
    started = Server()
    try:
        wait_until_ready(started.url)
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def chat_on(server: Server, enough: threading.Event) -> list[str]:
    """Answers to one question, asked again and again with the retries of OpenAI's client."""
    answers: list[str] = []
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="any", max_retries=MOST_TRIES, timeout=SECONDS
    ) as client:
        over = False
        while not over:
            over = enough.is_set()
            reply = client.chat.completions.create(model="", messages=about(sign())["messages"])
            answers.append(reply.choices[0].message.content or "")
    return answers


def test_a_restart_in_the_middle_costs_nobody_an_answer() -> None:
    with server() as restarted, ThreadPoolExecutor(CHATS) as pool:
        enough = threading.Event()
        chats = [pool.submit(chat_on, restarted, enough) for _ in range(CHATS)]
        try:
            ended = ask_all(restarted.url, QUESTIONS, EDGES, restarted.restart)
        finally:
            enough.set()
        answers = [chat.result(SECONDS) for chat in chats]
    check_none_lost(ended, QUESTIONS)
    assert sum(one.answer.asked_again for one in ended) == 0, "open sessions have their second looks"
    assert {answer for one in answers for answer in one} == {sign().answer}
    assert min(map(len, answers)) >= 2, "before and after"
