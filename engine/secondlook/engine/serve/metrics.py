"""What the server measures of itself, for Prometheus.

Names that vLLM has too are vLLM's, with `secondlook:` before them: those of its v1/metrics/loggers.py as of
2026, where `request_time_per_output_token_seconds` has the place of `time_per_output_token_seconds`. A
request of vLLM's is a look here, and its times have a label `look` more. Buckets are our own, for small
models answer in milliseconds.

Labels come from the server alone, never from what clients send. Nothing here touches the model's device.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import ALLOWUTF8
from prometheus_client.registry import Collector

from secondlook.edge.versions import installed_version
from secondlook.edge.wire import PROTOCOL
from secondlook.engine.errors import EngineFailedError, ModelError, OutOfMemoryError, UpstreamError
from secondlook.engine.method.decision import FinalDecision, FirstDecision
from secondlook.engine.results import FinalAnswer
from secondlook.engine.serve.observing import Observation
from secondlook.engine.serve.served import Served

if TYPE_CHECKING:
    from secondlook.engine.serve.service import TwoLookService
    from secondlook.engine.stream.service import StreamService

__all__ = ["Metrics"]

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_NATS: Final = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
_SHARES: Final = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)

_RECENT: Final = 256
"""Questions that the gauge of the retransmission rate is of."""

_REASONS: Final = ("stop", "length", "abort", "error")
"""How a look ended: at the end token, at the most tokens asked for, left by its client, failed."""

_OURS: Final = (EngineFailedError, ModelError, OutOfMemoryError, UpstreamError)
"""Failures of the server's; of those that a client can help, the statuses of replies tell."""

_TIMES: Final = {
    "time_to_first_token": "From a look's coming to its first token.",
    "request_time_per_output_token": "Mean time of an answer's tokens after the first.",
    "e2e_request_latency": "From a look's coming to its whole answer.",
    "request_queue_time": "Waiting for a turn, a thread or a slot.",
    "request_decode_image_time": "Decoding the picture and tokenising the question.",
    "request_encode_time": "Encoding the picture.",
    "request_prefill_time": "Computing the prompt, and seeking the region.",
    "request_decode_time": "Computing the answer's tokens.",
}
"""Histograms of seconds."""


class Metrics:
    """An application's metrics, in a registry of their own; an `Observer` of its looks.

    Args:
        service: what is asked how things are, whenever the metrics are asked for.
    """

    def __init__(self, service: TwoLookService) -> None:
        self.registry = CollectorRegistry()
        self.streams: StreamService | None = None
        """A site's, which are told of too."""
        self._service = service
        ProcessCollector(registry=self.registry)
        build = {
            "version": installed_version("secondlook") or "",
            "protocol": PROTOCOL,
            "python": platform.python_version(),
            "torch": installed_version("torch") or "",
            "transformers": installed_version("transformers") or "",
        }
        Info("secondlook:build", "What runs.", registry=self.registry).info(build)
        self._responses = Counter(
            "secondlook:http_responses", "Replies of any kind.", ["status"], registry=self.registry
        )

    def exposed(self, accept: str) -> tuple[bytes, str]:
        """All of it as text, and the text's type: OpenMetrics where an Accept header asks for that.

        Until the model is loaded there is nothing about looks.
        """
        loaded = self._service.loaded
        if loaded.done() and loaded.exception() is None:
            _ = self._looks  # counters are 0 before they first count, else that were no increase
        chosen: tuple[Callable[..., bytes], str] = choose_encoder(accept)
        encode, kind = chosen
        # No name here needs escaping, and with the default the library's OpenMetrics has underscores for the
        # colons of samples, and colons in their types (prometheus/client_python issue 1177, as of 0.26).
        return encode(self.registry, escaping=ALLOWUTF8), kind

    def responded(self, status: int) -> None:
        """A reply went out."""
        self._responses.labels(status).inc()

    def began(self, look: Observation) -> None:
        """See `Observer`."""

    def ended(self, look: Observation, served: Served) -> None:
        """See `Observer`."""
        self._looks.ended(look, served)

    def failed(self, look: Observation, error: BaseException) -> None:
        """See `Observer`."""
        if isinstance(error, asyncio.CancelledError):
            self._looks.success["abort"].inc()
        elif isinstance(error, _OURS):
            self._looks.success["error"].inc()

    @cached_property
    def _looks(self) -> _Looks:
        card = self._service.loaded.result().card
        told = Info("secondlook:model", "What answers.", ["model_name"], registry=self.registry)
        told.labels(card.name).info({"precision": card.precision})
        looks = _Looks(self.registry, card.name)
        self.registry.register(_State(self, self._service, looks))
        return looks


class _Looks:
    """What is measured of looks, for one model.

    Attributes:
        recent: whether the latest questions were to be looked at twice.
        success: by how a look ended.
    """

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self.model = model
        self.recent: deque[bool] = deque(maxlen=_RECENT)
        looks = {"first": get_args(FirstDecision), "second": get_args(FinalDecision)}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"secondlook:{name}", text, ["model_name", *labels], registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> dict[str, Histogram]:
            made = Histogram(
                f"secondlook:{name}", text, ["model_name", "look"], registry=registry, buckets=buckets
            )
            return {look: made.labels(model, look) for look in looks}

        self._prompt = counter("prompt_tokens", "Tokens of prompts, kept ones included.").labels(model)
        self._generated = counter("generation_tokens", "Tokens of answers.").labels(model)
        success = counter("request_success", "Looks that ended, by how.", "finished_reason")
        self.success = {reason: success.labels(model, reason) for reason in _REASONS}
        decisions = counter("looks", "Looks that were answered, by what was decided.", "look", "decision")
        self._decisions = {
            (look, decision): decisions.labels(model, look, decision)
            for look, known in looks.items()
            for decision in known
        }
        received = counter("image_bytes", "Bytes of pictures received.", "look")
        self._bytes = {look: received.labels(model, look) for look in looks}
        self._doubt = histogram("uncertainty_nats", "Uncertainty of answers.", _NATS)
        area = "Regions asked for, as shares of their originals."
        self._area = histogram("region_area_ratio", area, _SHARES)["first"]
        self._times = {name: histogram(f"{name}_seconds", text, _SECONDS) for name, text in _TIMES.items()}

    def ended(self, observed: Observation, served: Served) -> None:
        """Count a look."""
        which, found, seconds = observed.look, served.found, served.found.seconds
        answer = found.second if isinstance(found, FinalAnswer) else found.look
        tokens = len(answer.tokens)
        self.success["stop" if answer.ended else "length"].inc()
        self._decisions[which, found.decision].inc()
        self._prompt.inc(answer.prompt_tokens)
        self._generated.inc(tokens)
        self._bytes[which].inc(served.received_bytes)
        self._doubt[which].observe(answer.uncertainty)
        times = {
            "time_to_first_token": served.first_token_seconds,
            "e2e_request_latency": time.perf_counter() - observed.started,
            "request_queue_time": served.queue_seconds + seconds.queue,
            "request_decode_image_time": served.decode_seconds,
            "request_encode_time": seconds.encode,
            "request_prefill_time": seconds.prefill,
            "request_decode_time": seconds.decode,
        }
        if tokens > 1:
            times["request_time_per_output_token"] = seconds.decode / (tokens - 1)
        for name, value in times.items():
            self._times[name][which].observe(value)
        if isinstance(found, FinalAnswer):
            return
        self.recent.append(found.pending is not None)
        if found.pending is not None:
            region = found.pending.region
            self._area.observe(region.size.pixels / found.pending.question.original.pixels)


class _State(Collector):
    """How things are whenever they are asked for, and what others count."""

    def __init__(self, metrics: Metrics, service: TwoLookService, looks: _Looks) -> None:
        self._metrics = metrics
        self._service = service
        self._looks = looks

    def collect(self) -> Iterator[Metric]:
        service, streams, recent = self._service, self._metrics.streams, self._looks.recent
        engine = service.loaded.result()
        usage, sessions = engine.usage, service.sessions
        yield self._gauge("num_requests_running", "Looks that the model may work on.", service.running)
        yield self._gauge("num_requests_waiting", "Looks that wait for that.", service.waiting)
        yield self._gauge("kv_cache_usage_perc", "Slots in use; 1 is all.", usage.used / usage.slots)
        slots = {"used": usage.used, "kept": usage.kept, "free": usage.slots - usage.used - usage.kept}
        yield self._gauge("slots", "Slots of the cache.", slots, "state")
        text = "Tokens of prompts that were begun."
        yield self._counter("prefix_cache_queries", text, usage.prefix_queries)
        text = "Tokens of these that were in the cache."
        yield self._counter("prefix_cache_hits", text, usage.prefix_hits)
        text = "Prefixes that were given up, and computed again for a second look."
        yield self._counter("recomputed_prefixes", text, usage.recomputed)
        card = engine.card
        of, unit = ("Gain expected", "probability") if card.gated else ("Doubt", "nats")
        text = f"{of} from which on a question is looked at twice."
        yield self._gauge(f"threshold_{unit}", text, card.threshold)
        text = f"Of the latest {_RECENT} questions, those that were to be looked at twice."
        yield self._gauge("retransmission_ratio", text, sum(recent) / max(1, len(recent)))
        yield self._gauge("sessions_waiting", "Sessions that wait for their local image.", sessions.waiting)
        yield self._counter("sessions_ended", "Sessions that ended, by why.", sessions.ended, "reason")
        if streams is None:
            return
        totals = streams.totals
        yield self._gauge("streams_open", "Streams that are open.", len(streams))
        frames = {name: getattr(totals, name) for name in ("answered", "held", "superseded")}
        yield self._counter("frames", "Frames that were replied to.", frames, "status")
        text = "Frames whose reply came at their deadline, before their answer."
        yield self._counter("frame_deadline_misses", text, totals.deadline_misses)
        yield self._counter("key_frames_asked", "Frames that the cloud was asked about.", totals.cloud_calls)
        fates = {
            "counted": totals.cloud_counted,
            "doubtful": totals.cloud_answers - totals.cloud_counted,
            "lost": totals.cloud_lost,
        }
        yield self._counter("key_frames", "What came of them.", fates, "fate")

    def _gauge(
        self, name: str, text: str, values: float | Mapping[Any, float], label: str | None = None
    ) -> Metric:
        family = GaugeMetricFamily(f"secondlook:{name}", text, labels=_labels(label))
        for labels, value in self._labelled(values):
            family.add_metric(labels, value)
        return family

    def _counter(
        self, name: str, text: str, values: float | Mapping[Any, float], label: str | None = None
    ) -> Metric:
        family = CounterMetricFamily(f"secondlook:{name}", text, labels=_labels(label))
        for labels, value in self._labelled(values):
            family.add_metric(labels, value)
        return family

    def _labelled(self, values: float | Mapping[Any, float]) -> Iterator[tuple[list[str], float]]:
        if isinstance(values, Mapping):
            for name, value in values.items():
                yield [self._looks.model, name], value
        else:
            yield [self._looks.model], values


def _labels(more: str | None) -> list[str]:
    return ["model_name"] if more is None else ["model_name", more]
