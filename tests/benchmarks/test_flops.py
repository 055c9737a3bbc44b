"""FLOPs: what short passes tell equals what torch counts of whole ones, pass by pass and flow by flow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.small_llava import tiny_preset, tiny_subject
from secondlook.benchmarks.latency.computation import bench_flops, count_passes
from secondlook.benchmarks.latency.flops import PassFlops, counted
from secondlook.benchmarks.latency.flow import Flow, Metric, Request, synthetic_request
from secondlook.benchmarks.latency.ours import EngineFlow
from secondlook.benchmarks.latency.published import EncodingOnceFlow, ReferenceFlow, StrongFlow
from secondlook.benchmarks.latency.subject import Subject, preset
from secondlook.benchmarks.latency.work import FLOWS, TYPICAL_QUESTION, FlowName, Lengths, Work, flow_work
from secondlook.edge.errors import SettingsError
from secondlook.kernels import attention_row, decode_attention
from secondlook.kernels.library import uses_reference

pytestmark = pytest.mark.usefixtures("one_thread")
NEW_TOKENS = 40  # enough for a static cache to be much longer than the prompt


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny_subject()


def request_of(subject: Subject, look_twice: bool, seed: int = 1) -> Request:
    generator, side = np.random.default_rng(seed), subject.preset.preprocessing.side
    return synthetic_request(generator, side, look_twice=look_twice, new_tokens=NEW_TOKENS)


def work_of(name: FlowName, subject: Subject, request: Request) -> dict[Metric, Work]:
    lengths, layer = (
        Lengths.of(subject.preset, request.question, NEW_TOKENS),
        subject.preset.localisation.deepest,
    )
    return flow_work(name, PassFlops(subject.preset.config), lengths, layer, unsure=request.look_twice)


@pytest.mark.parametrize("name", ["tiny", "small", "llava-1.5-7b"])
def test_every_pass_is_what_torch_counts(name: str) -> None:
    model = tiny_preset() if name == "tiny" else preset(name)
    for row in count_passes(model, Lengths.of(model, TYPICAL_QUESTION, 4)):
        assert row["analytic"] == pytest.approx(row["counted"], rel=0.01), row["name"]


@pytest.mark.parametrize("look_twice", [False, True])
@pytest.mark.parametrize(
    ("name", "make"),
    [("reference", ReferenceFlow), ("strong", StrongFlow), ("encoding_once", EncodingOnceFlow)],
)
def test_the_whole_baseline_is_what_torch_counts(
    subject: Subject, name: FlowName, make: type[ReferenceFlow], look_twice: bool
) -> None:
    flow: Flow = make(subject)
    request = request_of(subject, look_twice)
    work = work_of(name, subject, request)["final_answer"]
    assert work.flops == pytest.approx(counted(lambda: flow.answer(request)), rel=0.01)


def skip_with_references() -> None:
    if uses_reference(torch.device("cpu")):
        pytest.skip("references compute with all of a slot, not only with what it holds")


def test_operators_of_our_own_are_counted() -> None:
    skip_with_references()
    query, keys = torch.ones(2, 4, 16), torch.ones(3, 2, 30, 16)
    lengths = torch.tensor([7, 20])
    row = counted(lambda: attention_row(query, keys[:2], torch.tensor([30, 30]), 0, 5, 1.0))
    assert row == 2 * 4 * 16 * (30 + 30)
    seen = counted(lambda: decode_attention(query, keys, keys, torch.tensor([0, 2]), lengths, 1.0))
    assert seen == 4 * 4 * 16 * (7 + 20)


@pytest.mark.parametrize("look_twice", [False, True])
def test_the_whole_engine_is_what_torch_counts(look_twice: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_with_references()
    monkeypatch.setattr("secondlook.benchmarks.latency.subject.pack_linear_layers", lambda _: None)
    subject = tiny_subject()
    monkeypatch.setattr(EngineFlow, "_token_seconds", lambda *_: {})  # another request, for its times alone
    # A new picture: of one it knows, the engine keeps what it computed.
    request = request_of(subject, look_twice, seed=2 + look_twice)
    work = work_of("ours", subject, request)["final_answer"]
    assert work.flops == pytest.approx(counted(lambda: EngineFlow(subject).answer(request)), rel=0.01)


def test_attention_may_be_counted_without_what_causality_hides() -> None:
    config = tiny_preset().config
    everything, seen = PassFlops(config), PassFlops(config, masked=False)
    assert seen.decoder(1, 50) == everything.decoder(1, 50)
    assert seen.encode() == everything.encode()
    # Four layers, all heads 64 wide: 4 FLOPs each for the 3 + 2 + 1 keys hidden from the first three rows.
    assert everything.decoder(4, 50) - seen.decoder(4, 50) == 4 * 4 * 64 * 6


def test_the_region_is_there_after_the_first_tokens() -> None:
    model = tiny_preset()
    passes = PassFlops(model.config)
    lengths = Lengths.of(model, TYPICAL_QUESTION, 20)
    assert lengths.decided == 5
    ours = flow_work("ours", passes, lengths, 1, unsure=True)
    assert (ours["region"].steps, ours["first_answer"].steps, ours["final_answer"].steps) == (4, 19, 23)
    assert ours["region"].parallel == ours["first_answer"].parallel
    assert "region" not in flow_work("ours", passes, lengths, 1, unsure=False)


def test_one_second_look_costs_less_than_the_published_two_passes() -> None:
    report = bench_flops(preset("small"), 4, 0.25)
    rows = {row["flow"]: row for row in report["rows"]}
    assert report["flops_ratio"] == rows["ours"]["ratio"] < 0.45
    assert rows["reference"]["ratio"] == rows["reference"]["relative_computation_sure"] == 1
    for row in report["rows"]:
        assert row["first_token"] < row["first_answer"] <= row["final_answer"]
        assert row["first_token"] < row["region"] < row["final_answer"]
        sure, unsure = row["relative_computation_sure"], row["relative_computation_unsure"]
        assert row["relative_computation"] == pytest.approx(0.75 * sure + 0.25 * unsure)
    assert report["relative_computation"] == rows["ours"]["relative_computation"]
    order = [rows[flow]["ratio"] for flow in FLOWS]
    assert order == sorted(order, reverse=True)


def test_a_sequence_of_one_token_decodes_nothing() -> None:
    model = tiny_preset()
    lengths = Lengths.of(model, TYPICAL_QUESTION, 1)
    for flow in FLOWS:
        work = flow_work(flow, PassFlops(model.config), lengths, 1, unsure=False)
        assert work["first_answer"] == work["first_token"] == work["final_answer"]
        assert flow_work(flow, PassFlops(model.config), lengths, 1, unsure=True)["final_answer"].steps == 0


def test_work_adds_up() -> None:
    assert Work(1, 2, 3) + Work(10, 20, 30) == Work(11, 22, 33)
    assert Work(1, 2, 3).flops == 3


def test_prompts_are_as_long_as_llavas() -> None:
    # The public tokenizer's: <s>USER:▁ and 576 image tokens, then ↵ and 10 tokens through ASSISTANT:
    lengths = Lengths.of(preset("llava-1.5-7b"), TYPICAL_QUESTION, 4)
    assert lengths.prefix == 580
    assert 10 <= lengths.question - lengths.prefix <= 20
    assert lengths.both - lengths.question == 577  # the second image, and the line break behind it


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"preset must be one of small, .*, not 'large'"):
        preset("large")
