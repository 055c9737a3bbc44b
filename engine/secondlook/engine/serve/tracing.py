"""Looks as OpenTelemetry's spans: both looks at a question in one trace, and the stages of each.

A look joins the trace that its client tells of (`traceparent`, W3C Trace Context). Where a client tells of
none, its second look is a child of its first. Attributes are those of the semantic conventions for generative
AI, 1.37, as far as these have them, and our own beside. Questions, answers and pictures are never among them,
nor messages of errors, which may quote them.

The SDK's environment variables hold here too: OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS and so on.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from secondlook.edge.versions import installed_version
from secondlook.engine.results import FinalAnswer
from secondlook.engine.serve.observing import Observation
from secondlook.engine.serve.requests import request_id
from secondlook.engine.serve.served import Served

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from secondlook.engine.serve.service import TwoLookService

__all__ = ["Joining", "Tracing", "exporter_to"]

_CONVENTIONS: Final = "https://opentelemetry.io/schemas/1.37.0"
_HEADERS: Final = (b"traceparent", b"tracestate")


def exporter_to(endpoint: str) -> SpanExporter:
    """Sends spans to a collector's OTLP over HTTP.

    Args:
        endpoint: its URL, without `/v1/traces`.
    """
    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")


class Tracing:
    """Makes spans of looks; an `Observer`.

    Args:
        exporter: where they go, in batches, from a thread of their own.
        service: whose looks.
    """

    def __init__(self, exporter: SpanExporter, service: TwoLookService) -> None:
        version = installed_version("secondlook") or ""
        own = Resource({"service.name": "secondlook", "service.version": version}, _CONVENTIONS)
        # Not the process's: what else traces in it has a provider of its own.
        self._provider = TracerProvider(
            resource=own.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("secondlook", version, schema_url=_CONVENTIONS)
        self._service = service
        self._spans = WeakKeyDictionary[Observation, Span]()

    def close(self) -> None:
        """Send what there is; blocks."""
        self._provider.shutdown()

    def began(self, look: Observation) -> None:
        """See `Observer`."""
        around, links = context.get_current(), list[Link]()
        first = None if look.after is None else self._spans.get(look.after)
        if first is not None:
            if trace.get_current_span(around).get_span_context().is_valid:
                links.append(Link(first.get_span_context()))
            else:
                around = trace.set_span_in_context(first, around)
        attributes = {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "secondlook",
            "gen_ai.request.model": self._service.loaded.result().card.name,
            "secondlook.request_id": request_id.get(),
        }
        self._spans[look] = self._tracer.start_span(
            f"{look.look}_look", around, SpanKind.SERVER, attributes, links, time.time_ns()
        )

    def ended(self, look: Observation, served: Served) -> None:
        """See `Observer`."""
        span, found, seconds = self._spans[look], served.found, served.found.seconds
        answer = found.second if isinstance(found, FinalAnswer) else found.look
        span.set_attributes(
            {
                "gen_ai.response.finish_reasons": ["stop" if answer.ended else "length"],
                "gen_ai.usage.input_tokens": answer.prompt_tokens,
                "gen_ai.usage.output_tokens": len(answer.tokens),
                "secondlook.decision": found.decision,
                "secondlook.uncertainty": answer.uncertainty,
                "secondlook.visual_tokens": answer.visual_tokens,
                "secondlook.image_bytes": served.received_bytes,
                "secondlook.first_token_seconds": served.first_token_seconds,
            }
        )
        stages = {
            "queue": served.queue_seconds + seconds.queue,
            "decode_image": served.decode_seconds,
            "encode": seconds.encode,
            "prefill": seconds.prefill,
            "decode": seconds.decode,
        }
        inside, now = trace.set_span_in_context(span), time.time_ns()
        # One behind the other, up to now: how long each took is known, and not how they took turns.
        at = now - sum(map(_nanoseconds, stages.values()))
        for name, lasted in stages.items():
            stage = self._tracer.start_span(name, inside, start_time=at)
            at += _nanoseconds(lasted)
            stage.end(at)
        span.end(now)

    def failed(self, look: Observation, error: BaseException) -> None:
        """See `Observer`."""
        span = self._spans[look]
        if isinstance(error, asyncio.CancelledError):
            span.set_attribute("gen_ai.response.finish_reasons", ["abort"])
        else:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
        span.end()


class Joining:
    """ASGI middleware: what is done for a request is part of the trace that its client tells of."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = {
            name.decode("ascii"): value.decode("latin-1")
            for name, value in scope.get("headers", ())
            if name in _HEADERS
        }
        token = context.attach(self._propagator.extract(told, context.Context()))
        try:
            await self._app(scope, receive, send)
        finally:
            context.detach(token)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
