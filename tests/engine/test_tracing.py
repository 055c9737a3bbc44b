"""Spans of a real server's looks: kept in memory, and sent to a real collector's address."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from engine.demo_server import Asked, ask, ask_first, client_of, demo_app, demo_server, look_closer, signs
from engine.fake_engine import ORIGINAL, FakeEngine, jpeg
from engine.serving_harness import SECONDS, first_look, listening, serving
from engine.streaming import opened, shown, site, until
from secondlook.edge.errors import SettingsError
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import ServerSettings
from secondlook.engine.serve.tracing import Joining, Tracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STAGES = ["queue", "decode_image", "encode", "prefill", "decode"]


class Traced:
    """An application's spans, once it has ended."""

    def __init__(self, app: FastAPI) -> None:
        self._exporter = InMemorySpanExporter()
        self._tracing = Tracing(self._exporter, app.state.service)
        app.state.service.observe(self._tracing)
        app.add_middleware(Joining)

    def spans(self) -> list[ReadableSpan]:
        self._tracing.close()
        return list(self._exporter.get_finished_spans())


def looks(spans: list[ReadableSpan]) -> list[ReadableSpan]:
    """Those of looks, in the order in which they began."""
    return sorted((s for s in spans if s.kind is SpanKind.SERVER), key=lambda s: s.start_time or 0)


def ids(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def asked_with(*headers: dict[str, str] | None) -> tuple[Asked, list[ReadableSpan]]:
    """One question, looked at twice, with headers for each look."""
    app, (picture, question) = demo_app(), signs(1)[0]
    traced = Traced(app)
    with listening(app) as url, client_of(url) as client:
        asked = ask_first(client, picture, question, headers[0], second_look="always")
        look_closer(client, picture, asked, headers[1])
    return asked, traced.spans()


def test_both_looks_are_one_trace_though_the_client_tells_of_none() -> None:
    asked, spans = asked_with(None, None)
    assert asked.final is not None
    first, second = looks(spans)
    assert (first.name, second.name) == ("first_look", "second_look")
    assert ids(first)[0] == ids(second)[0]
    assert (parent_of(first), parent_of(second)) == (None, ids(first)[1])
    for span, reply, answer in zip((first, second), (asked.first, asked.final), asked.answers, strict=True):
        attributes = dict(span.attributes or {})
        assert attributes["secondlook.decision"] == reply.decision
        assert attributes["secondlook.uncertainty"] == answer.uncertainty
        assert attributes["secondlook.visual_tokens"] == answer.visual_tokens
        assert attributes["gen_ai.usage.output_tokens"] == answer.tokens
        assert attributes["gen_ai.request.model"] == "demo"
        assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
        stages = [stage for stage in spans if parent_of(stage) == ids(span)[1] and stage.name in STAGES]
        stages.sort(key=lambda stage: stage.start_time or 0)
        assert sorted(STAGES) == sorted(stage.name for stage in stages)
        for stage in stages:
            assert stage.start_time is not None
            assert stage.end_time is not None
            lasted, told = (stage.end_time - stage.start_time) / 1e9, reply.seconds.model_dump()[stage.name]
            if span is second or stage.name != "decode":  # the first answer goes on after its region is told
                assert lasted == pytest.approx(told, abs=1e-6)


def test_nothing_of_what_was_asked_and_answered_is_told() -> None:
    asked, spans = asked_with(None, None)
    text = " ".join(span.to_json() for span in spans)
    assert signs(1)[0][1] not in text
    told = {key for span in spans for key in (span.attributes or {})}
    assert told == {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.response.finish_reasons",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "secondlook.decision",
        "secondlook.first_token_seconds",
        "secondlook.image_bytes",
        "secondlook.request_id",
        "secondlook.uncertainty",
        "secondlook.visual_tokens",
    }
    assert asked.answers[0].text not in {str(v) for s in spans for v in (s.attributes or {}).values()}


def test_looks_join_the_trace_that_their_client_tells_of() -> None:
    told = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    first, second = looks(asked_with(told, None)[1])
    assert (ids(first)[0], ids(second)[0]) == (TRACE, TRACE)
    assert (parent_of(first), parent_of(second)) == (SPAN, ids(first)[1])


def test_a_second_look_told_to_join_another_trace_links_to_its_first() -> None:
    first, second = looks(asked_with(None, {"traceparent": f"00-{TRACE}-{SPAN}-01"})[1])
    assert ids(first)[0] != TRACE
    assert (ids(second)[0], parent_of(second)) == (TRACE, SPAN)
    (link,) = second.links
    assert f"{link.context.span_id:016x}" == ids(first)[1]


def test_what_is_not_to_be_sampled_is_not() -> None:
    unsampled = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
    assert asked_with(unsampled, unsampled)[1] == []


def test_failures_are_told_without_their_messages() -> None:
    engine = FakeEngine()

    async def main() -> list[ReadableSpan]:
        app = create_app(engine)
        traced = Traced(app)
        async with serving(app) as client:
            await first_look(client, "broken")
            await first_look(client, "endless")
            engine.gate.clear()
            service = app.state.service
            leaving = asyncio.create_task(service.first_look(jpeg(), "left", ORIGINAL, AnswerOptions()))
            await until(lambda: service.running == 1)
            leaving.cancel()
            await asyncio.wait({leaving})
            engine.gate.set()
        return traced.spans()

    broken, endless, left = looks(asyncio.run(main()))
    errors = [(span.attributes or {}).get("error.type") for span in (broken, endless, left)]
    assert errors == ["EngineFailedError", "QuestionTooLongError", None]
    statuses = [span.status.status_code for span in (broken, endless, left)]
    assert statuses == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert (left.attributes or {})["gen_ai.response.finish_reasons"] == ("abort",)
    assert {span.status.description for span in (broken, endless, left)} == {None}


def test_every_frame_of_a_stream_joins_its_own_requests_trace() -> None:
    traces = [f"{number:032x}" for number in (1, 2)]

    async def main() -> list[ReadableSpan]:
        engine = FakeEngine()
        app = site(engine)
        traced = Traced(app)
        async with serving(app) as client:
            name = await opened(client, "sure")
            engine.gate.clear()  # so that the second comes while the first is computed, in the same task

            async def frame(number: int) -> None:
                client.headers["traceparent"] = f"00-{traces[number]}-{SPAN}-01"
                await shown(client, name, number)

            first = asyncio.create_task(frame(0))
            await until(lambda: app.state.service.running == 1)
            second = asyncio.create_task(frame(1))
            await until(lambda: app.state.streams.totals.bytes_from_camera > len(jpeg()))
            engine.gate.set()
            await asyncio.gather(first, second)
        return traced.spans()

    assert [ids(span)[0] for span in looks(asyncio.run(main()))] == traces


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An address that takes OTLP over HTTP, and the spans that have come."""
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
                spans = [span for scope in resource.scope_spans for span in scope.spans]
                received.extend((service["service.name"], span) for span in spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join(SECONDS)


def test_a_collector_is_sent_both_looks() -> None:
    picture, question = signs(1)[0]
    with collector() as (url, received):
        with demo_server(ServerSettings(otlp_endpoint=url)) as client:
            ask(client, picture, question, second_look="always")
        assert {service for service, _ in received} == {"secondlook"}
        assert sorted(span.name for _, span in received) == sorted([*STAGES * 2, "first_look", "second_look"])
        assert len({span.trace_id for _, span in received}) == 1


def test_without_an_endpoint_nothing_of_it_is_imported() -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}\n"
    code += "from secondlook.engine.serve.app import create_loading_app\n"
    code += "create_loading_app(lambda: None)\n"
    # FastAPI itself takes the interface's package where that is there.
    code += "print({'opentelemetry.sdk', 'opentelemetry.exporter', 'requests'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("endpoint", ["localhost:4318", "grpc://localhost:4317", "http://", "http:///v1"])
def test_what_is_no_collectors_address_is_refused(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="collector's URL") as refused:
        ServerSettings(otlp_endpoint=endpoint)
    assert repr(endpoint) in str(refused.value)
