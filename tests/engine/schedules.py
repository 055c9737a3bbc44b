"""Schedules of looks on one engine, and what each look must come to."""

from __future__ import annotations

import functools
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from edge.support import square
from engine.checkpoints import IMAGE_SIZE, Variant, write_checkpoint
from engine.test_engine import picture
from secondlook.edge.geometry import Size, sent_size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.decode.flows import Request
from secondlook.engine.engine import Engine
from secondlook.engine.method.policy import Policy
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.llava import Llava
from secondlook.engine.results import FinalAnswer, FirstLook, Pending

QUESTIONS = ("What is the number on the sign?", "Is it a sign?")
LARGE = Size(1000, 800)
MOST = 8
ENDS = (2, 168)  # with the second, every third answer ends early
# More than half of the first tokens are surer; none within 0.05 of it.
THRESHOLD = 0.6


@dataclass(frozen=True)
class First:
    """Start a first look."""

    picture: int = 1
    question: str = QUESTIONS[0]
    options: AnswerOptions = field(default_factory=lambda: AnswerOptions(max_new_tokens=MOST))
    client: str = ""


ALWAYS = AnswerOptions(second_look="always", max_new_tokens=4, decide_after=2)
THREE = [First(1, options=ALWAYS), First(2, QUESTIONS[1], options=ALWAYS), First(3, options=ALWAYS)]


@dataclass(frozen=True)
class Second:
    """Start a second look of one of the regions told."""

    of: int
    local: int


@dataclass(frozen=True)
class Cancel:
    """Cancel one of the looks started, done or not."""

    of: int


@dataclass(frozen=True)
class Rounds:
    """Let the engine compute."""

    count: int


class Expected:
    """What each look comes to: tokens from `generate`, decision and region from an engine of its own."""

    def __init__(self, folder: Path) -> None:
        self.adapter = load_model(str(folder))
        self._model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self._alone: dict[tuple[int, str, str], FirstLook] = {}

    @functools.cache  # noqa: B019 -- lives as long as the module's tests
    def tokens(self, seed: int, question: str, local: tuple[int, tuple[int, int]] | None) -> tuple[int, ...]:
        """Greedily, with the local image drawn from a seed at a size, if there is one."""
        images = [picture(seed)] if local is None else [picture(seed), picture(*local)]
        view = self.adapter.global_view
        pictures = [self.adapter.picture(image, view, Size(*image.size)) for image in images]
        ids = torch.tensor(
            [self.adapter.prompt(self.adapter.tokens(question), [one.grid for one in pictures]).ids]
        )
        found = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=self.adapter.normalisation.on(torch.device("cpu"))(pictures),
            max_new_tokens=MOST,
            do_sample=False,
        )
        return tuple(found[0, ids.shape[1] :].tolist())

    def alone(self, first: First) -> FirstLook:
        key = (first.picture, first.question, first.options.model_dump_json())
        if key not in self._alone:
            self._alone[key] = engine_of(self.adapter, 1).first_look(
                picture(first.picture), first.question, LARGE, first.options
            )
        return self._alone[key]


def write_expected(folder: Path) -> Expected:
    """For a checkpoint of random weights in a folder."""
    # The two likeliest tokens of every logit row computed here are at least 0.01 apart.
    return Expected(write_checkpoint(folder, Variant(seed=11, kv_heads=2, eos=ENDS)))


def engine_of(adapter: Llava, slots: int) -> Engine:
    policy = Policy(threshold=THRESHOLD)
    return Engine(adapter, policy, cache=CacheSettings(most_slots=slots))


class Session:
    """An engine with few slots, and all that was asked of it."""

    def __init__(self, adapter: Llava, slots: int) -> None:
        self.engine = engine_of(adapter, slots)
        self.firsts: list[tuple[First, Request[FirstLook], list[FirstLook]]] = []
        self.seconds: list[
            tuple[First, Second, Pending, Request[FirstLook] | None, Request[FinalAnswer]]
        ] = []
        self.cancelled: list[Request[Any]] = []

    def first(self, first: First) -> Request[FirstLook]:
        told: list[FirstLook] = []
        asked = self.engine.prepare(
            picture(first.picture), first.question, LARGE, first.options, client=first.client
        )
        task = self.engine.start_first_look(asked, on_region=told.append)
        self.firsts.append((first, task, told))
        return task

    def second(self, second: Second) -> Any:
        known: list[Any] = [(one, task, pending_of(task, told)) for one, task, told in self.firsts]
        known = [one for one in known if one[2] is not None]
        if not known:
            return None
        first, task, pending = known[second.of % len(known)]
        local, after = picture(second.local, size_of(pending)), None if task.future.done() else task
        shown = self.engine.prepare_local(pending, local)
        begun = self.engine.start_second_look(pending, shown, after=after)
        self.seconds.append((first, second, pending, after, begun))
        return begun

    def cancel(self, task: Request[Any]) -> None:
        self.cancelled += [] if task.future.done() else [task]
        self.engine.cancel(task)
        assert task.future.done()

    def do(self, action: First | Second | Cancel | Rounds) -> None:
        tasks: list[Request[Any]] = [one[1] for one in self.firsts]
        tasks += [one[-1] for one in self.seconds]
        if isinstance(action, First):
            self.first(action)
        elif isinstance(action, Second):
            self.second(action)
        elif isinstance(action, Cancel) and tasks:
            self.cancel(tasks[action.of % len(tasks)])
        elif isinstance(action, Rounds):
            for _ in range(action.count):
                self.engine.round()
        used = self.engine._pool.used
        assert used <= self.engine.slots
        assert used <= len(self.engine._flows._requests)

    def finish(self) -> None:
        """To the end, which must come; nothing is left."""
        for _ in range(100 * (1 + len(self.firsts) + len(self.seconds))):
            if not self.engine.round():
                break
        assert len(self.engine._flows._requests) == 0
        assert self.engine._pool.used == 0

    def check(self, expected: Expected) -> None:
        """Everything came to what it comes to alone."""
        for task in self.cancelled:
            assert task.future.cancelled()
        for first, task, told in self.firsts:
            if task in self.cancelled:
                continue
            look, limit = task.future.result(), first.options.max_new_tokens
            assert look.look.token_ids == expected.tokens(first.picture, first.question, None)[:limit]
            alone = expected.alone(first)
            assert (look.decision, look.region) == (alone.decision, alone.region)
            assert look.uncertainty == pytest.approx(alone.uncertainty, rel=1e-4, abs=1e-5)
            for name in ("question", "generic") if alone.maps is not None else ():
                maps, alone_maps = getattr(look.maps, name), getattr(alone.maps, name)
                torch.testing.assert_close(maps, alone_maps, atol=1e-5, rtol=0)
            early = alone.decision == "unsure" and len(look.tokens) > (first.options.decide_after or MOST)
            assert [one.region for one in told] == [alone.region] * early
        for first, second, pending, after, final_task in self.seconds:
            if final_task in self.cancelled:
                continue
            if after in self.cancelled:
                assert isinstance(final_task.future.exception(), CancelledError)
                continue
            final, limit = final_task.future.result(), first.options.max_new_tokens
            local = (second.local, size_of(pending))
            assert final.second.token_ids == expected.tokens(first.picture, first.question, local)[:limit]
            assert final.first.token_ids == expected.tokens(first.picture, first.question, None)[:limit]
            assert final.region == expected.alone(first).region


def pending_of(task: Request[FirstLook], told: list[FirstLook]) -> Pending | None:
    """What a second look can be started with by now."""
    if task.future.done():
        return None if task.future.cancelled() else task.future.result().pending
    return told[0].pending if told else None


def size_of(pending: Pending) -> tuple[int, int]:
    """Of a local image as an edge sends it."""
    size = sent_size(square(IMAGE_SIZE), pending.region.size)
    return size.width, size.height
