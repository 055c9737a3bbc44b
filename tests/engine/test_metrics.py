"""The metrics of a real server on the embedded model, read as Prometheus reads them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from engine.demo_server import Asked, ask, ask_first, demo_app, demo_server, signs
from engine.fake_engine import ORIGINAL, FakeEngine, jpeg
from engine.serving_harness import SECONDS, first_look, served, serving, visitor
from engine.streaming import ScriptedCloud, method, opened, shown, site, until
from secondlook.edge.wire import AnswerOptions, ModelCard
from secondlook.engine.serve.app import create_app, create_loading_app
from secondlook.engine.serve.settings import ServerSettings, SessionLimits
from secondlook.engine.stream.keyframes import KeyFrames

QUESTIONS = 12


class Scraped:
    """Samples by name; of each, labels and value."""

    def __init__(self, text: str, parse: Callable[[str], Any] = text_string_to_metric_families) -> None:
        self.samples = [sample for family in parse(text) for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        found = [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]
        assert found, f"there is no {name} of {labels}"
        return float(sum(found))

    def by(self, name: str, label: str) -> dict[str, float]:
        return {s.labels[label]: s.value for s in self.samples if s.name == name}

    @property
    def series(self) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return {(sample.name, frozenset(sample.labels.items())) for sample in self.samples}


def scraped(client: httpx.Client) -> Scraped:
    reply = client.get("/metrics")
    assert reply.status_code == 200
    return Scraped(reply.text)


def eventually(client: httpx.Client, condition: Callable[[Scraped], bool]) -> Scraped:
    """What is exposed once it is so: an answer goes on after its region was told."""
    deadline = time.monotonic() + SECONDS
    while not condition(found := scraped(client)):
        assert time.monotonic() < deadline
    return found


@dataclass
class Session:
    asked: list[Asked]
    before: Scraped
    metrics: Scraped
    client: httpx.Client


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """A dozen questions, half of them with a threshold of their own, asked of a server of their own."""
    with demo_server() as client:
        before = scraped(client)
        asked = [
            ask(client, picture, question, **({"threshold": 0.01} if index % 2 else {}))
            for index, (picture, question) in enumerate(signs(QUESTIONS))
        ]
        metrics = eventually(client, lambda seen: seen.sum("secondlook:num_requests_running") == 0)
        yield Session(asked, before, metrics, client)


def test_looks_are_counted_by_what_was_decided(session: Session) -> None:
    first = Counter(asked.first.decision for asked in session.asked)
    second = Counter(asked.final.decision for asked in session.asked if asked.final is not None)
    assert {"sure", "unsure"} <= first.keys()
    for look, counted in (("first", first), ("second", second)):
        found = {
            s.labels["decision"]: s.value
            for s in session.metrics.samples
            if s.name == "secondlook:looks_total" and s.labels["look"] == look
        }
        assert {name: value for name, value in found.items() if value} == counted
    assert session.metrics.sum("secondlook:looks_total", look="first") == QUESTIONS
    assert session.before.sum("secondlook:looks_total") == 0  # there from the beginning, for rates


def test_every_look_ended_and_has_its_times(session: Session) -> None:
    answers = [answer for asked in session.asked for answer in asked.answers]
    metrics = session.metrics
    reasons = metrics.by("secondlook:request_success_total", "finished_reason")
    assert sum(reasons.values()) == len(answers)
    assert (reasons["abort"], reasons["error"]) == (0, 0)
    for name in (
        "time_to_first_token",
        "e2e_request_latency",
        "request_queue_time",
        "request_decode_image_time",
        "request_encode_time",
        "request_prefill_time",
        "request_decode_time",
    ):
        assert metrics.sum(f"secondlook:{name}_seconds_count") == len(answers)
    several = sum(answer.tokens > 1 for answer in answers)
    assert metrics.sum("secondlook:request_time_per_output_token_seconds_count") == several
    first_token = metrics.sum("secondlook:time_to_first_token_seconds_sum")
    stages = sum(
        metrics.sum(f"secondlook:request_{stage}_time_seconds_sum")
        for stage in ("queue", "decode_image", "encode", "prefill")
    )
    assert 0 < first_token <= stages * (1 + 1e-9)
    assert first_token < metrics.sum("secondlook:e2e_request_latency_seconds_sum")


def test_tokens_bytes_and_doubts_are_those_of_the_answers(session: Session) -> None:
    metrics, asked = session.metrics, session.asked
    answers = [answer for one in asked for answer in one.answers]
    assert metrics.sum("secondlook:generation_tokens_total") == sum(answer.tokens for answer in answers)
    visual = sum(answer.visual_tokens for answer in answers)
    assert metrics.sum("secondlook:prompt_tokens_total") > visual
    sent = {"first": sum(a.bytes_first for a in asked), "second": sum(a.bytes_second for a in asked)}
    assert metrics.by("secondlook:image_bytes_total", "look") == sent
    doubts = sum(answer.uncertainty for answer in answers)
    assert metrics.sum("secondlook:uncertainty_nats_sum") == pytest.approx(doubts)
    assert metrics.sum("secondlook:uncertainty_nats_count") == len(answers)


def test_the_method_is_told(session: Session) -> None:
    metrics, card = session.metrics, session.client.get("/v1/model").json()
    twice = [asked for asked in session.asked if asked.final is not None]
    assert metrics.sum("secondlook:threshold_nats") == card["threshold"]
    assert metrics.sum("secondlook:retransmission_ratio") == len(twice) / QUESTIONS
    assert metrics.sum("secondlook:region_area_ratio_count") == len(twice)
    shares = [
        (box.right - box.left) * (box.bottom - box.top) / (picture.width * picture.height)
        for asked, (picture, _) in zip(session.asked, signs(QUESTIONS), strict=True)
        if (box := asked.first.region) is not None
    ]
    assert metrics.sum("secondlook:region_area_ratio_sum") == pytest.approx(sum(shares))
    assert metrics.by("secondlook:sessions_ended_total", "reason") == {
        "answered": len(twice),
        "expired": 0,
        "given_up": 0,
        "too_many": 0,
    }


def test_gauges_return_to_zero_and_second_looks_found_their_prefixes(session: Session) -> None:
    metrics = session.metrics
    for name in ("num_requests_running", "num_requests_waiting", "sessions_waiting", "kv_cache_usage_perc"):
        assert metrics.sum(f"secondlook:{name}") == 0
    slots = metrics.by("secondlook:slots", "state")
    assert slots["used"] == 0
    assert slots["kept"] > 0
    assert metrics.sum("secondlook:prefix_cache_hits_total") > 0
    assert metrics.sum("secondlook:prefix_cache_queries_total") == metrics.sum(
        "secondlook:prompt_tokens_total"
    )
    assert metrics.sum("secondlook:recomputed_prefixes_total") == 0


def test_what_runs_is_told(session: Session) -> None:
    (build,) = [s for s in session.metrics.samples if s.name == "secondlook:build_info"]
    assert build.value == 1
    assert build.labels["torch"].count(".") >= 2
    (answers,) = [s for s in session.metrics.samples if s.name == "secondlook:model_info"]
    assert answers.labels == {"model_name": "demo", "precision": "float32"}
    models = {sample.labels.get("model_name", "demo") for sample in session.metrics.samples}
    assert models == {"demo"}


def test_probes_and_both_formats_are_answered(session: Session) -> None:
    assert session.client.head("/metrics").status_code == 200
    wanted = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    reply = session.client.get("/metrics", headers={"Accept": wanted})
    assert reply.headers["Content-Type"].startswith("application/openmetrics-text")
    assert reply.text.endswith("# EOF\n")
    read = Scraped(reply.text, openmetrics)
    assert read.sum("secondlook:looks_total", look="first") == QUESTIONS
    assert session.client.get("/metrics").headers["Content-Type"].startswith("text/plain")


def test_two_applications_in_one_process_have_a_registry_each() -> None:
    async def main() -> None:
        one, other = demo_app(), create_app(FakeEngine())
        async with serving(one), serving(other) as client:
            await first_look(client, "sure")
            texts = {app: app.state.metrics.exposed("")[0].decode() for app in (one, other)}
        assert Scraped(texts[one]).sum("secondlook:looks_total") == 0
        assert Scraped(texts[other]).sum("secondlook:looks_total") == 1
        assert Scraped(texts[other]).sum("secondlook:looks_total", model_name="fake") == 1

    asyncio.run(main())


class Gated(FakeEngine):
    """Whose threshold is a gate's."""

    @property
    def card(self) -> ModelCard:
        return super().card.model_copy(update={"gated": True, "threshold": 0.25})


def test_a_gates_threshold_is_a_probability() -> None:
    async def main() -> None:
        app = create_app(Gated())
        async with serving(app) as client:
            card = (await client.get("/v1/model")).json()
            found = Scraped((await client.get("/metrics")).text)
        assert card["gated"]
        assert found.sum("secondlook:threshold_probability") == card["threshold"] == 0.25
        assert "secondlook:threshold_nats" not in {sample.name for sample in found.samples}

    asyncio.run(main())


def test_labels_are_as_many_whatever_clients_send(session: Session) -> None:
    before = scraped(session.client).series
    client, (picture, question) = session.client, signs(QUESTIONS)[0]
    for index in range(20):
        headers = {
            "X-Request-Id": f"id-{index}",
            "User-Agent": f"agent {index}",
            "X-Forwarded-For": "1.2.3.4",
        }
        ask_first(client, picture, f"{question} {index}", headers, second_look="never")
        client.get(f"/nowhere/{index}", headers=headers)
        client.request(f"WHAT{index}", "/v1/model")
        client.post("/v1/answers", content=b"{}", headers={"Content-Type": f"text/{index}"})
    after = scraped(session.client).series
    replies = {labels for name, labels in after - before if name.startswith("secondlook:http_responses")}
    assert {name for name, _ in after - before} <= {
        "secondlook:http_responses_total",
        "secondlook:http_responses_created",
    }
    assert replies <= {frozenset({("status", status)}) for status in ("400", "404", "405", "415")}


def test_failures_and_clients_that_leave_are_told_apart() -> None:
    engine = FakeEngine()

    async def main() -> None:
        app = create_app(engine)
        async with serving(app) as client:
            await first_look(client, "broken")
            await first_look(client, "")  # of the client's making
            engine.gate.clear()
            service = app.state.service
            leaving = asyncio.create_task(service.first_look(jpeg(), "left", ORIGINAL, AnswerOptions()))
            await until(lambda: service.running == 1)
            found = Scraped((await client.get("/metrics")).text)
            assert found.sum("secondlook:num_requests_running") == 1
            leaving.cancel()
            await asyncio.wait({leaving})
            engine.gate.set()
            metrics = Scraped((await client.get("/metrics")).text)
        reasons = metrics.by("secondlook:request_success_total", "finished_reason")
        assert reasons == {"stop": 0, "length": 0, "abort": 1, "error": 1}
        statuses = metrics.by("secondlook:http_responses_total", "status")
        assert (statuses["500"], statuses["422"]) == (1, 1)

    asyncio.run(main())


def test_sessions_are_told_by_how_they_ended() -> None:
    limits = SessionLimits(max_waiting=2, seconds=1000)

    async def scenario(client: httpx.AsyncClient) -> None:
        names = [(await first_look(client)).json()["session"]["id"] for _ in range(4)]
        await client.delete(f"/v1/answers/{names[-1]}")
        metrics = Scraped((await client.get("/metrics")).text)
        ended = metrics.by("secondlook:sessions_ended_total", "reason")
        assert ended == {"answered": 0, "expired": 0, "given_up": 1, "too_many": 2}
        assert metrics.sum("secondlook:sessions_waiting") == 1

    served(scenario, settings=ServerSettings(sessions=limits))


def test_before_the_model_is_loaded_there_is_nothing_about_looks() -> None:
    def load() -> FakeEngine:
        raise RuntimeError("no such model")

    async def main() -> None:
        app = create_loading_app(load)
        async with app.router.lifespan_context(app), visitor(app) as client:
            await asyncio.wait({asyncio.wrap_future(app.state.service.loaded)})
            reply = await client.get("/metrics")
        names = {sample.name for sample in Scraped(reply.text).samples}
        assert "secondlook:build_info" in names
        assert "secondlook:looks_total" not in names

    asyncio.run(main())


def test_a_site_tells_of_its_streams() -> None:
    cloud = ScriptedCloud()

    async def main() -> None:
        app = site(FakeEngine(), cloud, method=method(key_frames=KeyFrames("busy")))
        async with serving(app) as client:
            name = await opened(client)
            for number in range(3):
                await shown(client, name, number)
            await until(lambda: 0 in cloud.asked)
            cloud.answer(0, "a sure answer")
            await until(lambda: app.state.streams.totals.cloud_answers == 1)
            open_now = Scraped((await client.get("/metrics")).text)
            await client.delete(f"/v1/streams/{name}")
            metrics = Scraped((await client.get("/metrics")).text)
        assert open_now.sum("secondlook:streams_open") == 1
        assert metrics.sum("secondlook:streams_open") == 0
        frames = metrics.by("secondlook:frames_total", "status")
        assert frames == {"answered": 3, "held": 0, "superseded": 0}
        assert metrics.by("secondlook:key_frames_total", "fate")["counted"] == 1
        assert metrics.sum("secondlook:key_frames_asked_total") >= 1

    asyncio.run(main())
