"""FLOPs: what short passes tell equals what torch counts of whole ones, pass by pass and flow by flow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import sdpa_flop_count
from transformers import DynamicCache

from benchmarks.small_llava import tiny_preset, tiny_subject
from engine.toy_model import ToyModel
from secondlook.benchmarks.latency.flow import Flow, Request, synthetic_request
from secondlook.benchmarks.latency.ours import EngineFlow
from secondlook.benchmarks.latency.published import EncodingOnceFlow, ReferenceFlow, StrongFlow
from secondlook.benchmarks.latency.subject import Preset, Subject, preset, random_model
from secondlook.benchmarks.latency.work import (
    TYPICAL_QUESTION,
    FlowName,
    Lengths,
    Pictures,
    Work,
    bench_flops,
    flow_work,
    look_flops,
    work_of,
)
from secondlook.benchmarks.options import FlopsRun
from secondlook.edge.wire import AnswerOptions
from secondlook.engine import flops
from secondlook.engine.decode.cache import KVCache
from secondlook.engine.decode.plans import PrefillPlan, Probe, ProbeReached, Rows, Segment
from secondlook.engine.flops import META, PassFlops
from secondlook.kernels import attention_row, decode_attention
from secondlook.kernels.library import uses_reference

pytestmark = pytest.mark.usefixtures("one_thread", "as_transformers")
NEW_TOKENS = 40  # enough for a static cache to be much longer than the prompt


def counted(work: Callable[[], object]) -> int:
    """With what torch's counter does not know: the CPU's fused attention, and operators of ours. Where these
    run as references, their products are counted as they are computed: over all positions of the cache."""
    aten, ours = torch.ops.aten, torch.ops.secondlook
    return flops.counted(
        work,
        {
            aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
            ours.attention_row: row_flops,
            ours.decode_attention: decode_flops,
        },
    )


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    found: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]  # untyped in torch
    return found


def row_flops(query: Any, keys: Any, *_: Any, **__: Any) -> int:
    """Of [B, H, D] by [B, H_kv, S, D]: a product for each head and key."""
    batch, heads, width = query
    found: int = 2 * batch * heads * width * keys[2]
    return found


def decode_flops(
    query: Tensor, _keys: Tensor, _values: Tensor, _slots: Tensor, lengths: Tensor, *_: Any, **__: Any
) -> int:
    """Of [B, H, D], each row with as many keys and values as its length says."""
    return 4 * query.shape[1] * query.shape[2] * int(lengths.sum())


decode_flops._get_raw = True  # type: ignore[attr-defined]  # torch's word for: give it tensors, not shapes


@pytest.fixture(scope="module")
def subject(as_transformers: None) -> Subject:
    return tiny_subject()


def request_of(subject: Subject, look_twice: bool, seed: int = 1) -> Request:
    generator, view = np.random.default_rng(seed), subject.engine.model.global_view
    return synthetic_request(generator, view, look_twice=look_twice, new_tokens=NEW_TOKENS)


def work_of_request(name: FlowName, subject: Subject, request: Request) -> Work:
    works = work_of(subject.preset, request.question, NEW_TOKENS)
    return works[request.look_twice][name]["final_answer"]


def passes_of(model: Preset, *, masked: bool = True) -> PassFlops:
    return PassFlops(model.shapes, masked=masked)


def prefill(passes: PassFlops, start: int, stop: int, layer: int | None = None, *, row: bool = False) -> int:
    """What torch counts of the engine's own pass, or of one that ends with the attention row of a layer."""
    model = passes.model
    cache = KVCache(model.decoder, 1, stop, torch.float32, META)
    segments = [Segment(0, start, stop - start, (0, 1), kept=not row)]
    plan = PrefillPlan(cache, segments, None if layer is None else Probe({layer: None}), rows_only=row)
    embeddings = torch.empty(stop - start, model.decoder.width, device=META)

    def run() -> None:
        with suppress(ProbeReached):
            model.hidden(Rows(embeddings, torch.arange(start, stop, device=META)[None]), plan)

    return counted(run)


@pytest.mark.parametrize("name", ["tiny", "small", pytest.param("llava-1.5-7b", marks=pytest.mark.slow)])
def test_every_pass_is_what_torch_counts(name: str) -> None:
    model = tiny_preset() if name == "tiny" else preset(name)
    passes, lengths = passes_of(model), Lengths.of(model.shapes, TYPICAL_QUESTION, 4)
    n, g, two, prefix = lengths.question, lengths.generic, lengths.both, lengths.prefix
    layer = model.shapes.localisation.deepest
    assert prefill(passes, 0, n, layer) == passes.decoder(n, n) + passes.row(n)
    assert prefill(passes, prefix, g, layer, row=True) == passes.probe(g - prefix, g)
    assert prefill(passes, prefix, two) == passes.decoder(two - prefix, two)
    assert prefill(passes, two, two + 1) == passes.decoder(1, two + 1)
    theirs = random_model(model.config, torch.float32, META)
    cache = DynamicCache(config=model.config.text_config)
    for tokens, keys in ((n, n), (two - n, two), (1, two + 1)):
        rows = torch.empty(1, tokens, passes.model.decoder.width, device=META)
        inputs = {"inputs_embeds": rows, "past_key_values": cache, "use_cache": True}
        seen = counted(lambda inputs=inputs: theirs.model.language_model(**inputs))
        assert seen == pytest.approx(passes.decoder(tokens, keys), rel=0.01)
    assert counted(lambda: theirs.lm_head(torch.empty(1, n, passes.model.decoder.width, device=META))) == (
        passes.logits(n)
    )


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
    work = work_of_request(name, subject, request)
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
    subject = tiny_subject()
    monkeypatch.setattr(EngineFlow, "_token_seconds", lambda *_: {})  # another request, for its times alone
    # A new picture: of one it knows, the engine keeps what it computed.
    request = request_of(subject, look_twice, seed=2 + look_twice)
    work = work_of_request("ours", subject, request)
    assert work.flops == pytest.approx(counted(lambda: EngineFlow(subject).answer(request)), rel=0.01)


def test_attention_may_be_counted_without_what_causality_hides() -> None:
    everything, seen = passes_of(tiny_preset()), passes_of(tiny_preset(), masked=False)
    assert seen.decoder(1, 50) == everything.decoder(1, 50)
    # Four layers, all heads 64 wide: 4 FLOPs each for the 3 + 2 + 1 keys hidden from the first three rows.
    assert everything.decoder(4, 50) - seen.decoder(4, 50) == 4 * 4 * 64 * 6


def test_the_region_is_there_after_the_first_tokens() -> None:
    model = tiny_preset()
    passes = passes_of(model)
    lengths = Lengths.of(model.shapes, TYPICAL_QUESTION, 20)
    assert lengths.decided == 5
    ours = flow_work("ours", passes, lengths, Pictures(), unsure=True)
    assert (ours["region"].steps, ours["first_answer"].steps, ours["final_answer"].steps) == (4, 19, 23)
    assert ours["region"].parallel == ours["first_answer"].parallel
    assert "region" not in flow_work("ours", passes, lengths, Pictures(), unsure=False)


def test_one_second_look_costs_less_than_the_published_two_passes() -> None:
    report = bench_flops(preset("small"), FlopsRun(retransmission_rate=0.25))
    rows = {row["flow"]: row for row in report["rows"]}
    assert report["flops_ratio"] == rows["ours"]["ratio"] < 0.45
    assert rows["reference"]["ratio"] == rows["reference"]["relative_computation_sure"] == 1
    for row in report["rows"]:
        assert row["first_token"] < row["first_answer"] <= row["final_answer"]
        assert row["first_token"] < row["region"] < row["final_answer"]
        sure, unsure = row["relative_computation_sure"], row["relative_computation_unsure"]
        assert row["relative_computation"] == pytest.approx(0.75 * sure + 0.25 * unsure)
    assert report["relative_computation"] == rows["ours"]["relative_computation"]
    order = [rows[flow]["ratio"] for flow in rows]
    assert order == sorted(order, reverse=True)


def test_a_sequence_of_one_token_decodes_nothing() -> None:
    model = tiny_preset()
    flows = work_of(model, TYPICAL_QUESTION, 1)
    for flow in flows[False]:
        work = flows[False][flow]
        assert work["first_answer"] == work["first_token"] == work["final_answer"]
        assert flows[True][flow]["final_answer"].steps == 0


def test_the_second_answer_may_be_of_another_length() -> None:
    passes = passes_of(tiny_preset())
    short, long, same = (
        flow_work("ours", passes, Lengths(40, 50, 51, 90, 4, 4, again), Pictures(7, 7), unsure=True)[
            "final_answer"
        ].flops
        for again in (4, 9, None)
    )
    assert short == same
    assert long - short == sum(passes.decoder(1, 90 + step) + passes.logits() for step in range(4, 9))


def test_the_looks_of_an_engine_cost_what_the_benchmark_counts() -> None:
    subject = tiny_subject()
    engine, request = subject.engine, request_of(subject, look_twice=True)
    options = AnswerOptions(second_look="always", max_new_tokens=3)
    first = engine.first_look(request.global_image, request.question, request.size, options)
    assert first.pending is not None
    final = engine.second_look(first.pending, request.local_image(first.pending.region))
    shapes = engine.model.shapes()
    assert shapes is not None
    once, again = look_flops(PassFlops(shapes), request.size, request.question, first, final.second)
    work = work_of(subject.preset, request.question, 3)
    assert again is not None
    assert once == work[False]["ours"]["final_answer"].flops
    assert once + again == work[True]["ours"]["final_answer"].flops
    assert look_flops(
        PassFlops(shapes), request.size, request.question, replace(first, pending=None), None
    ) == (once, None)


def test_what_has_no_shapes_is_not_counted() -> None:
    assert ToyModel().shapes() is None


def test_work_adds_up() -> None:
    assert Work(1, 2, 3) + Work(10, 20, 30) == Work(11, 22, 33)
    assert Work(1, 2, 3).flops == 3


def test_prompts_are_as_long_as_llavas() -> None:
    # The public tokenizer's: <s>USER:▁ and 576 image tokens, then ↵ and 10 tokens through ASSISTANT:
    lengths = Lengths.of(preset("llava-1.5-7b").shapes, TYPICAL_QUESTION, 4)
    assert lengths.prefix == 580
    assert 10 <= lengths.question - lengths.prefix <= 20
    assert lengths.both - lengths.question == 577  # the second image, and the line break behind it
