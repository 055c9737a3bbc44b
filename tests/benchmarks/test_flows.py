"""The flows on one small model: the same tokens, the same region, and times that make sense."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.small_llava import VIEW, tiny_preset, tiny_subject
from secondlook.benchmarks.latency import ours as ours_module
from secondlook.benchmarks.latency.flow import Flow, Request, Stopwatch, synthetic_request
from secondlook.benchmarks.latency.ours import EngineFlow
from secondlook.benchmarks.latency.published import EncodingOnceFlow, ReferenceFlow, StrongFlow
from secondlook.benchmarks.latency.subject import Subject, build_subject, preset, random_model, twin
from secondlook.engine.models.base import Features
from secondlook.engine.models.pictures import Picture

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
NEW_TOKENS = 6


@pytest.fixture(scope="module", params=["tiny", "demo"])
def subject(request: pytest.FixtureRequest) -> Subject:
    return tiny_subject() if request.param == "tiny" else build_subject(preset("demo"), torch.float32, CPU)


@pytest.fixture(scope="module")
def flows(subject: Subject) -> list[Flow]:
    return [ReferenceFlow(subject), StrongFlow(subject), EncodingOnceFlow(subject), EngineFlow(subject)]


def request_of(subject: Subject, seed: int, *, look_twice: bool, new_tokens: int = NEW_TOKENS) -> Request:
    view = subject.engine.model.global_view
    generator = np.random.default_rng(seed)
    return synthetic_request(generator, view, look_twice=look_twice, new_tokens=new_tokens)


def test_unsure_requests_come_to_the_same(subject: Subject, flows: list[Flow]) -> None:
    regions = set()
    for seed in range(4):
        request = request_of(subject, seed, look_twice=True)
        reference, *others = (flow.answer(request) for flow in flows)
        for outcome in others:
            assert outcome.first == reference.first
            assert outcome.region == reference.region
            assert outcome.second == reference.second
            assert outcome.uncertainty == pytest.approx(reference.uncertainty, abs=1e-4)
        assert reference.region is not None
        assert reference.second is not None
        assert len(reference.first) == len(reference.second) == NEW_TOKENS
        regions.add(reference.region)
    assert len(regions) > 1


def test_sure_requests_come_to_the_same(subject: Subject, flows: list[Flow]) -> None:
    request = request_of(subject, 5, look_twice=False)
    outcomes = [flow.answer(request) for flow in flows]
    assert len({outcome.first for outcome in outcomes}) == 1
    for outcome in outcomes:
        assert outcome.region is None
        assert outcome.second is None


def test_a_baseline_tells_all_times_in_their_order(subject: Subject, flows: list[Flow]) -> None:
    for flow in flows[:3]:
        seconds = flow.answer(request_of(subject, 6, look_twice=True)).seconds
        assert set(seconds) == {"first_token", "per_token", "first_answer", "region", "final_answer"}
        assert 0 < seconds["first_token"] < seconds["first_answer"] < seconds["region"]
        assert seconds["region"] < seconds["final_answer"]
        assert set(flow.answer(request_of(subject, 6, look_twice=False)).seconds) == set(seconds) - {"region"}


def test_ours_tells_the_region_before_the_answer(subject: Subject, flows: list[Flow]) -> None:
    seconds = flows[3].answer(request_of(subject, 7, look_twice=True)).seconds
    assert set(seconds) == {"first_token", "per_token", "region", "first_answer", "final_answer"}
    assert 0 < seconds["region"] < seconds["first_answer"] < seconds["final_answer"]
    assert seconds["first_token"] > 0
    short = flows[3].answer(request_of(subject, 10, look_twice=True, new_tokens=5)).seconds
    assert 0 < short["region"] == short["first_answer"] < short["final_answer"]
    sure = flows[3].answer(request_of(subject, 7, look_twice=False)).seconds
    assert set(sure) == {"first_token", "per_token", "first_answer", "final_answer"}
    assert 0 < sure["first_answer"] == sure["final_answer"]


def test_the_second_look_of_ours_begins_before_the_first_answer_is_complete(
    subject: Subject, flows: list[Flow], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, complete = subject.engine, list[bool]()
    start = engine.start_second_look

    def started(*arguments: Any, after: Any, **named: Any) -> Any:
        complete.append(after.future.done())
        return start(*arguments, after=after, **named)

    monkeypatch.setattr(engine, "start_second_look", started)
    flows[3].answer(request_of(subject, 8, look_twice=True, new_tokens=12))
    flows[3].answer(
        request_of(subject, 9, look_twice=True, new_tokens=5)
    )  # no longer than what is decided on
    assert complete == [False, True]


def test_further_tokens_take_what_an_answer_takes_beyond_one_token(
    subject: Subject, flows: list[Flow], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, times = flows[3], iter([0.2, 0.5])
    assert isinstance(ours, EngineFlow)
    monkeypatch.setattr(ours_module.Stopwatch, "read", lambda _watch: next(times))
    seconds = ours._token_seconds(request_of(subject, 11, look_twice=True, new_tokens=3))
    assert seconds == pytest.approx({"first_token": 0.2, "per_token": 0.15})


def test_the_requests_timed_by_the_token_compute_their_picture_anew(
    subject: Subject, flows: list[Flow], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = subject.engine.model.encode

    def noted(pictures: Sequence[Picture]) -> list[Features]:
        encoded.append(len(pictures))
        return encode(pictures)

    monkeypatch.setattr(subject.engine.model, "encode", noted)
    flows[3].answer(request_of(subject, 12, look_twice=False))
    assert encoded == [1, 1, 1]


def test_an_answer_of_one_token_has_no_time_per_token(subject: Subject, flows: list[Flow]) -> None:
    for flow in flows:
        outcome = flow.answer(request_of(subject, 8, look_twice=True, new_tokens=1))
        assert len(outcome.first) == 1
        assert "per_token" not in outcome.seconds


def test_nothing_is_compiled(subject: Subject, flows: list[Flow], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("torch.compile was called")

    monkeypatch.setattr(torch, "compile", refuse)
    for flow in flows:
        flow.answer(request_of(subject, 9, look_twice=True))


def test_the_flows_share_tensors_and_leave_the_model_as_it_is(subject: Subject) -> None:
    config = subject.model.config
    other = twin(subject.model, "eager")
    assert other.config._attn_implementation == "eager"
    assert config._attn_implementation == "sdpa"
    own, others = dict(subject.model.named_parameters()), dict(other.named_parameters())
    assert own.keys() == others.keys()
    assert all(own[name].data_ptr() == others[name].data_ptr() for name in own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_weights_are_made_in_their_dtype(dtype: torch.dtype) -> None:
    model = random_model(tiny_preset().config, dtype, CPU, seed=3)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == dtype, name
        assert parameter.isfinite().all(), name
        if "norm" in name:
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name
    again = random_model(tiny_preset().config, dtype, CPU, seed=3)
    assert torch.equal(model.lm_head.weight, again.lm_head.weight)


def test_every_request_has_a_picture_of_its_own() -> None:
    generator = np.random.default_rng(0)
    made = [synthetic_request(generator, VIEW, look_twice=True, new_tokens=1) for _ in range(3)]
    assert len({request.original.tobytes() for request in made}) == 3
    assert made[0].size.width == 1600
    assert made[0].global_image.size == (84, 84)


def test_a_stopwatch_can_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 12.0, 100.0, 103.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))
    watch = Stopwatch(CPU)
    assert watch.pause() == 2
    watch.go_on()
    assert watch.read() == 5
    assert watch.at(101.5) == 3.5
