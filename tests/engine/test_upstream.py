"""An upstream as the engine, through the real server: an edge and OpenAI's client before, a script behind."""

from __future__ import annotations

import base64
import io
import math
import threading
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from engine.chats import data_url
from engine.scripted_upstream import (
    SECONDS,
    SURE,
    UNSURE,
    Upstream,
    running,
)
from engine.serving_harness import SPOKEN
from engine.upstream_harness import KEY, QUESTION, asked_once, picture, serving, serving_gated, settings
from secondlook.edge import AnswerOptions, EdgeClient, RequestRefusedError
from secondlook.edge.errors import GeometryError, SettingsError
from secondlook.edge.geometry import Region, Size, sent_size
from secondlook.edge.imaging import open_picture
from secondlook.edge.wire import Box
from secondlook.engine.method.budget import BudgetedThreshold, BudgetSettings
from secondlook.engine.upstream.engine import UpstreamEngine
from secondlook.engine.upstream.settings import UpstreamSettings, parsed_view


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


def pictures(body: dict[str, Any]) -> list[bytes]:
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"] if "image_url" in part]
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_both_looks_of_an_edge(upstream: Upstream) -> None:
    with serving(upstream) as address, EdgeClient(address) as edge:
        answer = edge.ask(picture(), QUESTION)
        assert edge.model_card is not None
        card = edge.model_card
    assert card.name == "scripted"
    assert (answer.text, answer.decision) == ("16", "took_second")
    assert answer.first.text == "18"
    assert answer.first.uncertainty == pytest.approx((1.0 + 0.8 + 0.3) / 3)
    assert answer.uncertainty == pytest.approx((0.1 + 0.2 + 0.1) / 3)
    assert answer.region == Region(776, 226, 1224, 674)  # (800, 300, 1200, 600), grown to 448 both ways
    assert answer.visual_tokens == (30, 30)
    first, box, second = upstream.asked
    assert first["temperature"] == 0
    assert (first["logprobs"], first["top_logprobs"], first["model"]) == (True, 2, "scripted")
    assert upstream.questions() == [
        [QUESTION],
        [UpstreamSettings.pointing.replace("{question}", QUESTION)],
        ["A part of this picture, closer:", QUESTION],
    ]
    assert {headers["authorization"] for headers in upstream.headers} == {f"Bearer {KEY}"}
    (whole,), (pointed,), (again, closer) = map(pictures, (first, box, second))
    assert whole == pointed == again
    assert opened(whole).size == (504, 364)
    assert opened(closer).size == (448, 448)


def test_a_jpeg_is_sent_on_as_it_came(upstream: Upstream) -> None:
    """Its pixels too: an edge's JPEG has no metadata, and nothing of it is coded anew."""
    view = parsed_view("448")
    jpeg = open_picture(picture()).global_image(view).jpeg
    form = {"question": QUESTION, "width": "1600", "height": "1200"}
    with serving(upstream) as address:
        files = {"image": ("a.jpg", jpeg, "image/jpeg")}
        reply = httpx.post(f"{address}/v1/answers", data=form, files=files, headers=SPOKEN, timeout=SECONDS)
    assert reply.json()["region_source"] == "pointing"
    assert pictures(upstream.asked[0]) == [jpeg]


def test_a_sure_answer_is_final_and_no_box_is_asked_for(upstream: Upstream) -> None:
    upstream.first = SURE
    with serving(upstream) as address, EdgeClient(address) as edge:
        answer = edge.ask(picture(), QUESTION)
    assert (answer.text, answer.decision, len(upstream.asked)) == ("12", "sure", 1)


@pytest.mark.parametrize("box", ["I cannot tell.", "[500, 250, 400, 500]", "[5000, 2500, 7500, 5000]"])
def test_without_a_box_the_first_answer_stands_and_the_reply_says_why(upstream: Upstream, box: str) -> None:
    upstream.box = box
    budget = BudgetedThreshold(BudgetSettings(retransmission_rate=0.5), 0.1)
    jpeg = open_picture(picture()).global_image(parsed_view("448")).jpeg
    form = {"question": QUESTION, "width": "1600", "height": "1200"}
    with serving(upstream, budget) as address:
        files = {"image": ("a.jpg", jpeg, "image/jpeg")}
        reply = httpx.post(f"{address}/v1/answers", data=form, files=files, headers=SPOKEN, timeout=SECONDS)
        metrics = httpx.get(f"{address}/metrics").text
    told = reply.json()
    assert (told["status"], told["decision"], told["region_source"]) == ("final", "unsure", "not_found")
    assert (told["answer"]["text"], told["region"], told["session"]) == ("18", None, None)
    assert (budget.questions, budget.looks) == (1, 0)
    assert 'secondlook:retransmission_ratio{model_name="scripted"} 0.0' in metrics


def test_a_region_of_the_request_is_not_asked_for(upstream: Upstream) -> None:
    box = Box(left=0, top=0, right=600, bottom=600)
    with serving(upstream) as address, EdgeClient(address) as edge:
        answer = edge.ask(picture(), QUESTION, AnswerOptions(region=box))
    assert answer.region == Region(0, 0, 600, 600)
    assert [len(pictures(body)) for body in upstream.asked] == [1, 2]


def test_a_region_outside_the_original_is_refused(upstream: Upstream) -> None:
    outside = AnswerOptions(region=Box(left=0, top=0, right=601, bottom=600))
    with running(upstream) as address:
        engine = UpstreamEngine(settings(address))
        with pytest.raises(GeometryError, match="reaches outside the original of 600x600 pixels"):
            engine.prepare(Image.new("RGB", (9, 9)), QUESTION, Size(600, 600), outside)
        engine.close()


def test_openais_client_gets_both_looks_in_one_reply(upstream: Upstream) -> None:
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG", quality=95)
    content = [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": data_url(buffer.getvalue())}},
    ]
    with serving(upstream) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        reply = client.chat.completions.create(
            model="scripted",
            messages=[{"role": "user", "content": content}],  # type: ignore[misc,list-item]
            logprobs=True,
            top_logprobs=1,
            max_tokens=9,
        )
    told = reply.model_dump()
    assert told["choices"][0]["message"]["content"] == "16"
    assert told["choices"][0]["finish_reason"] == "stop"
    logprobs = told["choices"][0]["logprobs"]["content"]
    assert [(each["token"], each["logprob"]) for each in logprobs] == [("1", -0.1), ("6", -0.2)]
    assert [each["top_logprobs"][0]["token"] for each in logprobs] == ["1", "6"]
    assert told["secondlook"]["region_source"] == "pointing"
    assert told["usage"]["prompt_tokens"] == 80
    details = told["usage"]["prompt_tokens_details"]
    assert (details["cached_tokens"], details["text_tokens"], details["image_tokens"]) == (32, 20, 60)
    assert {body["max_tokens"] for body in upstream.asked} == {9, 128}
    whole, _ = pictures(upstream.asked[2])
    shrunk = open_picture(buffer.getvalue()).shrunk(parsed_view("448"))
    assert np.array_equal(np.array(opened(whole)), np.array(shrunk))  # a PNG: not compressed a second time


def test_tokens_are_streamed_where_the_answer_stands(upstream: Upstream) -> None:
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    content = [
        {"type": "image_url", "image_url": {"url": data_url(buffer.getvalue(), "image/png")}},
        {"type": "text", "text": QUESTION},
    ]
    upstream.gate.clear()
    with serving_gated(upstream) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        chunks = client.chat.completions.create(
            model="scripted",
            messages=[{"role": "user", "content": content}],  # type: ignore[misc,list-item]
            stream=True,
            extra_body={"secondlook": {"second_look": "never"}},
        )
        texts = []
        for each in chunks:
            texts += [choice.delta.content for choice in each.choices if choice.delta.content]
            if texts == ["1"]:  # while the upstream has not said more
                upstream.gate.set()
    assert texts == ["1", "8"]


def test_looks_are_under_way_at_once(upstream: Upstream) -> None:
    with serving_gated(upstream) as address:
        threads = [threading.Thread(target=asked_once, args=(address,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert upstream.begun.acquire(timeout=SECONDS)  # each has come before any is answered
        upstream.gate.set()
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive()


def test_shannon_entropy_is_refused_and_the_margin_is_exact(upstream: Upstream) -> None:
    with serving(upstream) as address:
        with pytest.raises(RequestRefusedError, match="Shannon entropy does not follow"):
            asked_once(address, measure="shannon_entropy", threshold=0.5)
        answer = asked_once(address, measure="margin", second_look="never")
    expected = [1 - (math.exp(first) - math.exp(second)) for _, first, second in UNSURE]
    assert answer.uncertainty == pytest.approx(sum(expected) / 3)


def test_without_runners_up_there_is_no_margin(upstream: Upstream) -> None:
    upstream.runner_up = False
    with serving(upstream) as address:
        assert asked_once(address, second_look="never").text == "18"
        with pytest.raises(RequestRefusedError, match="no token beside the one chosen"):
            asked_once(address, measure="margin", threshold=0.5)


def test_a_model_is_chosen_by_its_name(upstream: Upstream) -> None:
    upstream.models = ["a", "b"]
    with running(upstream) as address:
        engine = UpstreamEngine(settings(f"{address}/v1", model="b"))
        assert engine.card.name == "b"
        engine.close()
        with pytest.raises(SettingsError, match="no model 'c', but 'a', 'b'"):
            UpstreamEngine(settings(address, model="c"))


def test_an_end_token_that_is_not_told_does_not_count(upstream: Upstream) -> None:
    upstream.told_end = False
    with serving(upstream) as address:
        answer = asked_once(address, second_look="never")
    assert (answer.text, answer.first.tokens) == ("18", 2)
    assert answer.uncertainty == pytest.approx(0.9)


def test_a_long_answer_is_decided_on_by_its_beginning(upstream: Upstream) -> None:
    """The region is told while the first answer is still being written."""
    upstream.first = [("a", -2.0, -2.1), *[("b", -0.001, -9.0)] * 40, ("</s>", -0.001, -9.0)]
    with serving(upstream) as address, EdgeClient(address) as edge:
        answer = edge.ask(picture(), QUESTION, AnswerOptions(decide_after=1))
    assert answer.looked_twice
    assert answer.first.text == "a" + 40 * "b"
    assert answer.decision == "kept_first"  # the whole of it is surer than its beginning


def test_its_card_says_the_views_that_were_set() -> None:
    with running(Upstream()) as address:
        engine = UpstreamEngine(settings(address, global_view=parsed_view("640x480"), crop_size=300))
        assert sent_size(engine.card.global_view, Size(4000, 3000)) == Size(640, 480)
        assert (engine.card.crop_size, engine.card.threshold) == (300, 0.5)
        engine.close()
