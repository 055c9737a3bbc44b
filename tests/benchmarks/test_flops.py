"""FLOPs: the formulas equal what torch counts, pass by pass and flow by flow."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.small_llava import tiny_preset, tiny_subject
from secondlook.benchmarks.latency.computation import bench_flops
from secondlook.benchmarks.latency.counting import count_passes, counted
from secondlook.benchmarks.latency.flops import PassFlops
from secondlook.benchmarks.latency.flow import Flow, Metric, Request, synthetic_request
from secondlook.benchmarks.latency.ours import EngineFlow
from secondlook.benchmarks.latency.presets import preset
from secondlook.benchmarks.latency.reference import ReferenceFlow
from secondlook.benchmarks.latency.strong import StrongFlow
from secondlook.benchmarks.latency.subject import Subject
from secondlook.benchmarks.latency.work import FLOWS, TYPICAL_QUESTION, FlowName, Lengths, Work, flow_work
from secondlook.edge.errors import SettingsError

pytestmark = pytest.mark.usefixtures("one_thread")
NEW_TOKENS = 3


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny_subject()


def request_of(subject: Subject, look_twice: bool) -> Request:
    side = subject.preset.preprocessing.side
    return synthetic_request(np.random.default_rng(1), side, look_twice=look_twice, new_tokens=NEW_TOKENS)


def work_of(name: FlowName, subject: Subject, request: Request) -> dict[Metric, Work]:
    lengths = Lengths.of(subject.preset.layout, request.question, NEW_TOKENS)
    return flow_work(name, PassFlops(subject.preset.config), lengths, subject.preset.settings.probe_layer)


@pytest.mark.parametrize("name", ["tiny", "small", "llava-1.5-7b"])
def test_every_pass_is_what_torch_counts(name: str) -> None:
    model = tiny_preset() if name == "tiny" else preset(name)
    for row in count_passes(model, Lengths.of(model.layout, TYPICAL_QUESTION, 4)):
        assert row.analytic == pytest.approx(row.counted, rel=0.01), row.name


@pytest.mark.parametrize("look_twice", [False, True])
@pytest.mark.parametrize(("name", "make"), [("reference", ReferenceFlow), ("strong", StrongFlow)])
def test_the_whole_baseline_is_what_torch_counts(
    subject: Subject, name: FlowName, make: type[ReferenceFlow], look_twice: bool
) -> None:
    flow: Flow = make(subject)
    request = request_of(subject, look_twice)
    work = work_of(name, subject, request)["final_answer" if look_twice else "first_answer"]
    assert work.flops == pytest.approx(counted(lambda: flow.answer(request)), rel=0.01)


@pytest.mark.parametrize("look_twice", [False, True])
def test_ours_is_nearly_what_torch_counts(subject: Subject, look_twice: bool) -> None:
    # Nearly: operators of our own are not counted. The picture is a new one: of one it knows, the engine
    # keeps what it computed.
    request = synthetic_request(
        np.random.default_rng(2 + look_twice),
        subject.preset.preprocessing.side,
        look_twice=look_twice,
        new_tokens=NEW_TOKENS,
    )
    work = work_of("ours", subject, request)["final_answer" if look_twice else "first_answer"]
    assert work.flops == pytest.approx(counted(lambda: EngineFlow(subject).answer(request)), rel=0.05)


def test_one_second_look_costs_less_than_the_published_two_passes() -> None:
    report = bench_flops(preset("small"), 4)
    rows = {row["flow"]: row for row in report["rows"]}
    assert report["flops_ratio"] == rows["ours"]["ratio"] < 0.45
    assert rows["reference"]["ratio"] == rows["reference"]["relative_computation_sure"] == 1
    for row in report["rows"]:
        assert row["first_token"] < row["first_answer"] < row["region"] < row["final_answer"]
    assert rows["ours"]["relative_computation_unsure"] < rows["strong"]["relative_computation_unsure"]


def test_a_sequence_of_one_token_decodes_nothing() -> None:
    model = tiny_preset()
    lengths = Lengths.of(model.layout, TYPICAL_QUESTION, 1)
    for flow in FLOWS:
        work = flow_work(flow, PassFlops(model.config), lengths, 1)
        assert work["first_answer"] == work["first_token"]
        assert work["final_answer"].steps == 0


def test_work_adds_up() -> None:
    assert Work(1, 2, 3) + Work(10, 20, 30) == Work(11, 22, 33)
    assert Work(1, 2, 3).flops == 3


def test_prompts_are_as_long_as_llavas() -> None:
    # The public tokenizer's: <s>USER:▁ and 576 image tokens, then ↵ and 10 tokens through ASSISTANT:
    lengths = Lengths.of(preset("llava-1.5-7b").layout, TYPICAL_QUESTION, 4)
    assert lengths.prefix == 580
    assert 10 <= lengths.question - lengths.prefix <= 20
    assert lengths.both - lengths.question == 577  # the second image, and the line break behind it


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"preset must be one of small, .*, not 'large'"):
        preset("large")
