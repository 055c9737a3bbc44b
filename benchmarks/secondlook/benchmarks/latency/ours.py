"""The engine, as a flow."""

from __future__ import annotations

from typing import Final

from secondlook.benchmarks.latency.flow import Metric, Outcome, Request, Stopwatch
from secondlook.benchmarks.latency.subject import Subject
from secondlook.edge.wire import AnswerOptions

__all__ = ["EngineFlow"]

_NEVER: Final = 1e9
"""A threshold in nats that no uncertainty reaches."""


class EngineFlow:
    """`Engine.first_look` and `second_look`, through their public interface.

    The first look hands out answer and region together, and its time per stage. So time to the first token
    and to the first answer are only known for sure requests, where no stage holds work for the region; for
    unsure ones the engine does the same work up to there.
    """

    name = "ours"

    def __init__(self, subject: Subject) -> None:
        self._engine = subject.engine

    def answer(self, request: Request) -> Outcome:
        options = AnswerOptions(
            threshold=0.0 if request.look_twice else _NEVER, max_new_tokens=request.new_tokens
        )
        watch = Stopwatch(self._engine.model.device)
        first = self._engine.first_look(request.global_image, request.question, request.size, options)
        elapsed = watch.pause()
        seconds: dict[Metric, float] = {}
        if len(first.tokens) > 1:
            seconds["per_token"] = first.seconds.decode / (len(first.tokens) - 1)
        if not request.look_twice:
            seconds |= {
                "first_token": first.seconds.encode + first.seconds.prefill,
                "first_answer": elapsed,
                "final_answer": elapsed,
            }
            return Outcome(first.look.token_ids, None, None, first.uncertainty, seconds)
        assert first.pending is not None, f"no second look: {first.decision}"
        region = first.pending.region
        local_image = request.local_image(region)
        watch.go_on()
        final = self._engine.second_look(first.pending, local_image)
        seconds |= {"region": elapsed, "final_answer": watch.read()}
        return Outcome(first.look.token_ids, region, final.second.token_ids, first.uncertainty, seconds)
