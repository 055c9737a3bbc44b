"""What an upstream may lack, refuse and lose, and what a client of the server before it is told of that."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest
from PIL import Image

from engine.chats import data_url
from engine.scripted_upstream import (
    SECONDS,
    Upstream,
    broken_off,
    refused,
    running,
    saying,
    silent,
)
from engine.serving_harness import SPOKEN
from engine.upstream_harness import KEY, ONCE, QUESTION, asked_once, picture, serving, serving_gated, settings
from secondlook.edge import EdgeClient, RequestRefusedError
from secondlook.edge.errors import ConnectionFailedError, SettingsError
from secondlook.edge.geometry import Size
from secondlook.edge.imaging import open_picture
from secondlook.engine.errors import UpstreamAwayError, UpstreamError, UpstreamTimeoutError
from secondlook.engine.upstream.engine import UpstreamEngine
from secondlook.engine.upstream.settings import parsed_view


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


def test_a_client_that_leaves_closes_the_connection_behind_it(upstream: Upstream) -> None:
    with serving_gated(upstream) as address:
        hasty = EdgeClient(address, settings=replace(ONCE, timeout=0.5))
        with hasty as edge, pytest.raises(ConnectionFailedError, match="did not answer in time"):
            edge.ask(picture(), QUESTION)
        assert upstream.left.acquire(timeout=SECONDS)
        upstream.gate.set()
        assert asked_once(address, second_look="never").text == "18"


def test_a_busy_upstream_is_asked_again_when_it_says(upstream: Upstream) -> None:
    upstream.faults.extend(
        [
            lambda: refused(429, "too many", Retry_After="0.2"),
            lambda: refused(503, "being loaded"),
        ]
    )
    began = time.perf_counter()
    with serving(upstream) as address:
        upstream.faults.extend(
            [lambda: refused(429, "too many", Retry_After="0.2"), lambda: refused(502, "?")]
        )
        assert asked_once(address, second_look="never").text == "18"
        assert len(upstream.asked) == 3
    assert time.perf_counter() - began >= 0.4


@pytest.mark.parametrize(
    ("fault", "tries", "status", "name", "said"),
    [
        (lambda: refused(503, "overloaded"), 3, 503, "upstream_away", "busy: (503) overloaded"),
        (lambda: refused(429, "no", Retry_After="90"), 1, 503, "upstream_away", "busy: (429) no"),
        (lambda: refused(400, f"bad key {KEY}"), 1, 502, "upstream_failed", "(400) bad key …"),
        (lambda: refused(401, f"Incorrect API key: {KEY}"), 1, 502, "upstream_failed", "refuses the key"),
        (lambda: refused(504, "slow"), 3, 504, "upstream_timeout", "did not answer in time: (504) slow"),
        (lambda: refused(500, "bug"), 3, 502, "upstream_failed", "(500) bug"),
        (broken_off, 1, 503, "upstream_away", "connection"),
        (saying("data: nonsense\n\n"), 1, 502, "upstream_failed", "no chunk of an answer"),
        (saying('data: {"error": {"message": "boom"}}\n\n'), 1, 502, "upstream_failed", "broke off: boom"),
        (saying("{}", "application/json"), 1, 502, "upstream_failed", "not with a stream"),
        (saying("data: [DONE]\n\n"), 1, 502, "upstream_failed", "without a token"),
        (saying(""), 3, 502, "upstream_failed", "in the middle"),
    ],
)
def test_faults_of_the_upstream_are_told_with_its_name_and_without_its_key(
    upstream: Upstream, fault: Any, tries: int, status: int, name: str, said: str
) -> None:
    jpeg = open_picture(picture(640, 480)).global_image(parsed_view("448")).jpeg
    form = {"question": QUESTION, "width": "640", "height": "480"}
    with serving(upstream) as address:
        upstream.faults.extend([fault] * 9)
        files = {"image": ("a.jpg", jpeg, "image/jpeg")}
        reply = httpx.post(f"{address}/v1/answers", data=form, files=files, headers=SPOKEN, timeout=SECONDS)
        upstream.faults.clear()
        assert asked_once(address, second_look="never").text == "18"  # and the next one is answered
    told = reply.json()
    assert (reply.status_code, told["error"]) == (status, name), told
    assert said in told["message"]
    assert "http://127.0.0.1:" in told["message"]
    assert KEY not in reply.text
    assert len(upstream.asked) == tries + 1


def test_an_upstream_that_is_silent_is_not_waited_for_any_longer(upstream: Upstream) -> None:
    with serving(upstream, client={"timeout": 0.5, "retries": 0}) as address:
        upstream.faults.append(silent)
        with pytest.raises(RequestRefusedError, match=r"504.*sent nothing for 0\.5 s"):
            asked_once(address)


def test_readiness_tells_that_the_upstream_is_away_and_back(upstream: Upstream) -> None:
    with serving(upstream) as address:
        assert httpx.get(f"{address}/readyz").status_code == 200
        upstream.absent = True
        time.sleep(1.1)  # it is asked once a second at most
        for path in ("/readyz", "/health"):
            reply = httpx.get(f"{address}{path}")
            assert reply.status_code == 503
            assert "upstream http://127.0.0.1:" in reply.text
        upstream.absent = False
        time.sleep(1.1)
        assert httpx.get(f"{address}/readyz").json() == {"status": "ready"}


def test_a_second_look_that_fails_leaves_openais_client_the_first_answer(upstream: Upstream) -> None:
    """The first look and the box are answered; what asks with two pictures is refused."""
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG")
    content = [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": data_url(buffer.getvalue())}},
    ]
    upstream.second = []
    with serving(upstream) as address:
        body = {"messages": [{"role": "user", "content": content}]}
        reply = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=SECONDS)
    assert reply.json()["choices"][0]["message"]["content"] == "18"
    assert reply.json()["secondlook"]["decision"] == "unsure"


@pytest.mark.parametrize(
    ("lacks", "error", "said"),
    [
        ({"logprobs": False}, UpstreamError, "gave no logprobs.*--max-logprobs"),
        ({"absent": True}, UpstreamAwayError, "busy: .503. being restarted"),
        ({"models": ["a", "b"]}, SettingsError, "'a', 'b': say which model"),
        ({"models": []}, SettingsError, "none: say which model"),
    ],
)
def test_what_an_upstream_lacks_is_told_when_it_is_first_asked(
    lacks: dict[str, Any], error: type[Exception], said: str
) -> None:
    with running(Upstream(**lacks)) as address, pytest.raises(error, match=said):
        UpstreamEngine(settings(address))


def test_an_upstream_that_takes_no_pictures_says_so_itself(upstream: Upstream) -> None:
    upstream.faults.append(lambda: refused(400, "scripted is not a multimodal model"))
    with (
        running(upstream) as address,
        pytest.raises(UpstreamError, match=r"not a multimodal.*takes? pictures"),
    ):
        UpstreamEngine(settings(address))


def test_an_upstream_that_is_not_there_is_told_at_once() -> None:
    with running(Upstream()) as address:
        pass
    with pytest.raises(UpstreamAwayError, match=f"{address}/v1 is away: cannot connect"):
        UpstreamEngine(settings(address))
    with pytest.raises(SettingsError, match="http://host:port"):
        UpstreamEngine(settings("ftp://upstream.example"))


def test_a_timeout_is_one_of_the_whole_answer_too(upstream: Upstream) -> None:
    with running(upstream) as address:
        engine = UpstreamEngine(settings(address, client={"timeout": 1.0}))
        upstream.gate.clear()
        asked = engine.prepare(Image.new("RGB", (100, 100)), QUESTION, Size(100, 100))
        request = engine.start_first_look(asked)
        while engine.round():
            pass
        with pytest.raises(UpstreamTimeoutError):
            request.future.result(0)
        engine.close()
