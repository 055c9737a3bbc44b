"""The engine, as a flow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from secondlook.benchmarks.latency.flow import Metric, Outcome, Request, Stopwatch
from secondlook.benchmarks.latency.subject import Subject
from secondlook.benchmarks.options import NEVER
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.decode.flows import Request as Asked
from secondlook.engine.engine import Engine
from secondlook.engine.results import FirstLook

ResultT = TypeVar("ResultT")


class EngineFlow:
    """First and second look of an engine that has nothing else to do, see `answered`.

    The engine tells nobody when it knows a token of an answer that may not stand, so time to the first token
    and per token are those of further first looks at the same picture, which find nothing kept.
    """

    name = "ours"

    def __init__(self, subject: Subject) -> None:
        self._engine = subject.engine

    def answer(self, request: Request) -> Outcome:
        outcome = answered(self._engine, request)
        return replace(outcome, seconds=outcome.seconds | self._token_seconds(request))

    def _token_seconds(self, request: Request) -> dict[Metric, float]:
        """Time to the first token, and each further one's: of a first look for one token, and of one for all;
        each another client's, so that no prefix is reused."""
        seconds = []
        for count in (1, request.new_tokens)[: request.new_tokens]:
            watch = Stopwatch(self._engine.model.device)
            asked = replace(request, new_tokens=count)
            first = _start_first_look(self._engine, asked, look_twice=False, client=f"timed with {count}")
            tokens = len(_finished(self._engine, first).tokens)
            seconds.append(watch.read())
        found: dict[Metric, float] = {"first_token": seconds[0]}
        if tokens > 1:
            found["per_token"] = (seconds[1] - seconds[0]) / (tokens - 1)
        return found


def answered(engine: Engine, request: Request) -> Outcome:
    """What an engine that has nothing else to do makes of a request.

    The region is there when the engine calls `on_region`, or with the answer where that is short. The second
    look begins at once, as when a server is sent the local image, so that an unsure request's first answer is
    completed in the decode steps of the second.
    """
    watch = Stopwatch(engine.model.device)
    seconds: dict[Metric, float] = {}
    early: list[FirstLook] = []

    def note(metric: Metric) -> None:
        seconds[metric] = watch.at(time.perf_counter())

    def on_region(found: FirstLook) -> None:
        early.append(found)
        note("region")

    first = _start_first_look(engine, request, look_twice=request.look_twice, on_region=on_region)
    first.future.add_done_callback(lambda _: note("first_answer"))
    while not early and not first.future.done():
        engine.round()
    found = early[0] if early else first.future.result()
    region, second = None, None
    if found.pending is None:
        assert not request.look_twice, f"the engine decided: {found.decision}"
        seconds["final_answer"] = seconds["first_answer"]
    else:
        assert request.look_twice, "no uncertainty reaches the threshold"
        if not early:
            seconds["region"] = seconds["first_answer"]
        watch.pause()
        region = found.pending.region
        local_image = request.local_image(region)
        watch.go_on()
        picture = engine.prepare_local(found.pending, local_image)
        looked = engine.start_second_look(found.pending, picture, after=first)
        looked.future.add_done_callback(lambda _: note("final_answer"))
        second, found = _finished(engine, looked).second.token_ids, _finished(engine, first)
    return Outcome(found.look.token_ids, region, second, found.uncertainty, seconds)


def _start_first_look(
    engine: Engine,
    request: Request,
    *,
    look_twice: bool,
    client: str = "",
    on_region: Callable[[FirstLook], None] | None = None,
) -> Asked[FirstLook]:
    threshold = 0.0 if look_twice else NEVER
    options = AnswerOptions(threshold=threshold, max_new_tokens=request.new_tokens)
    asked = engine.prepare(request.global_image, request.question, request.size, options, client=client)
    return engine.start_first_look(asked, on_region=on_region)


def _finished(engine: Engine, task: Asked[ResultT]) -> ResultT:
    while not task.future.done():
        engine.round()
    return task.future.result()
