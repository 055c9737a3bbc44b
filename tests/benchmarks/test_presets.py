"""Every architecture's presets: sizes of public checkpoints, flows that agree, FLOPs that torch counts."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from transformers.integrations import sdpa_attention

from benchmarks.small_llava import measure_rates_at_once
from benchmarks.test_flops import counted, skip_with_references
from secondlook.benchmarks.benches import reported
from secondlook.benchmarks.latency.flow import Flow, Outcome, Request, sent_image, synthetic_request
from secondlook.benchmarks.latency.latency import bench_latency
from secondlook.benchmarks.latency.ours import EngineFlow
from secondlook.benchmarks.latency.published import (
    EncodingOnceFlow,
    HighResolutionFlow,
    ReferenceFlow,
    StrongFlow,
)
from secondlook.benchmarks.latency.subject import (
    PRESETS,
    Preset,
    Subject,
    build_subject,
    preset,
    random_preset,
)
from secondlook.benchmarks.latency.work import (
    TYPICAL_QUESTION,
    Lengths,
    bench_flops,
    flows_of,
    look_flops,
    work_of,
)
from secondlook.benchmarks.options import FlopsRun, LatencyRun
from secondlook.benchmarks.report.tables import measured
from secondlook.edge.geometry import Region, Size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.engine import Engine
from secondlook.engine.flops import PassFlops
from secondlook.engine.models.settings import Localisation, Sink

pytestmark = pytest.mark.usefixtures("one_thread")
NEW_TOKENS = 8
PUBLISHED = {name: known["parameters"] for name, known in PRESETS["presets"].items() if "parameters" in known}
DECODER = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 448,
    "max_position_embeddings": 1024,
}
ROTARY = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
QWEN = {**DECODER, "num_key_value_heads": 2, "rope_parameters": ROTARY, "tie_word_embeddings": True}
QWEN_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "depth": 4, "out_hidden_size": 64}
TINY: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "text_config": QWEN,
        "vision_config": {**QWEN_TOWER, "fullatt_block_indexes": [1, 3]},
        "tie_word_embeddings": True,
    },
    "qwen3_vl": {
        "text_config": {**QWEN, "head_dim": 16},
        "vision_config": {**QWEN_TOWER, "deepstack_visual_indexes": [0, 2], "num_position_embeddings": 64},
        "tie_word_embeddings": True,
    },
    "smolvlm": {
        "text_config": {"model_type": "llama", **DECODER},
        "vision_config": {
            "model_type": "smolvlm_vision",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 512,
            "patch_size": 32,
        },
        "tie_word_embeddings": False,
    },
    "instructblip": {
        "text_config": {"model_type": "llama", **DECODER},
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 84,
        },
        "qformer_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 6,
            "vocab_size": 448,
            "num_attention_heads": 2,
            "encoder_hidden_size": 32,
        },
    },
}


NEXT = {
    "text_config": {"model_type": "llama", **DECODER, "max_position_embeddings": 4096},
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 336,
        "patch_size": 28,
        "projection_dim": 32,
    },
}


def tiny(kind: str) -> Preset:
    return random_preset(f"tiny {kind}", {"model_type": kind, **{**TINY, "llava_next": NEXT}[kind]})


@pytest.fixture(scope="module", params=list(TINY))
def subject(request: pytest.FixtureRequest, as_transformers: None) -> Subject:
    return build_subject(tiny(request.param), torch.float32, torch.device("cpu"))


def flows_on(subject: Subject) -> list[Flow]:
    kinds = (ReferenceFlow, StrongFlow, EncodingOnceFlow, EngineFlow)
    return [kind(subject) for kind in kinds if kind.name in flows_of(subject.preset)]


def request_of(subject: Subject, seed: int, *, look_twice: bool = True) -> Request:
    generator, view = np.random.default_rng(seed), subject.engine.model.global_view
    return synthetic_request(generator, view, look_twice=look_twice, new_tokens=NEW_TOKENS)


def test_the_flows_come_to_the_same(subject: Subject) -> None:
    flows, regions = flows_on(subject), set()
    for seed in range(3):
        request = request_of(subject, seed)
        reference, *others = (flow.answer(request) for flow in flows)
        for outcome in others:
            assert outcome.first == reference.first
            assert outcome.region == reference.region
            assert outcome.second == reference.second
            assert outcome.uncertainty == pytest.approx(reference.uncertainty, abs=1e-4)
        assert reference.second is not None
        assert len(reference.first) == len(reference.second) == NEW_TOKENS
        regions.add(reference.region)
    assert len(regions) > 1


def looking(subject: Subject, **where: Any) -> Subject:
    """The same model, where it looks closer by two layers, some heads of one."""
    shapes = tiny(subject.preset.config.model_type).shapes
    own = subject.engine.model.localisation
    shapes.localisation = Localisation({1: {0: 1.0, 3: 0.5}, 2: None}, own.crop_size, **where)
    return build_subject(Preset("profiled", shapes), torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("generic", [True, False])
def test_the_flows_read_the_same_heads_and_leave_out_the_same_sinks(subject: Subject, generic: bool) -> None:
    regions = list[list[Region | None]]()
    for sink in (None, Sink({0: {1: 1.0}, 1: {3: 1.0}}, 0.004)):
        flows = flows_on(looking(subject, generic=generic, sink=sink))
        requests = [request_of(subject, seed) for seed in range(5, 8)]
        reference, *others = ([flow.answer(one).region for one in requests] for flow in flows)
        assert others == [reference] * len(others)
        regions.append(reference)
    assert regions[0] != regions[1]  # the sinks make a difference


@pytest.mark.parametrize("look_twice", [False, True])
def test_the_flows_compute_what_is_counted(
    subject: Subject, look_twice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_counts(subject, monkeypatch, look_twice=look_twice)


def test_a_generic_question_that_is_not_asked_is_not_counted(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_counts(looking(subject, generic=False), monkeypatch, look_twice=True)


def check_counts(subject: Subject, monkeypatch: pytest.MonkeyPatch, *, look_twice: bool) -> None:
    skip_with_references()
    monkeypatch.setattr(EngineFlow, "_token_seconds", lambda *_: {})  # another request, for its times alone
    for seed, flow in enumerate(flows_on(subject)):
        request, found = request_of(subject, 10 + 2 * seed + look_twice, look_twice=look_twice), []
        seen = counted(lambda flow=flow, request=request, found=found: found.append(flow.answer(request)))
        region = found[0].region
        works = work_of(
            subject.preset, request.question, NEW_TOKENS, region=None if region is None else region.size
        )
        # Windows at the edges of pictures are padded in our own tower, which stands for transformers'.
        padded = flow.name != "ours" and subject.preset.config.model_type == "qwen2_5_vl"
        near = 0.02 if padded else 1e-3
        assert works[look_twice][flow.name]["final_answer"].flops == pytest.approx(seen, rel=near), flow.name


@pytest.mark.parametrize(
    "size", [Size(1600, 1200), Size(1900, 470), Size(500, 1200), Size(641, 479)], ids=str
)
def test_the_looks_of_an_engine_are_counted_whatever_the_pictures_shape(subject: Subject, size: Size) -> None:
    skip_with_references()
    engine, request = subject.engine, request_of(subject, size.pixels)
    original, view = request.original.resize((size.width, size.height)), engine.model.global_view
    options, found = AnswerOptions(second_look="always", max_new_tokens=3), list[Any]()

    def first_look() -> None:
        found.append(engine.first_look(sent_image(original, view), request.question, size, options))

    def second_look() -> None:
        local = sent_image(original.crop(found[0].pending.region.as_tuple()), engine.model.local_view)
        found.append(engine.second_look(found[0].pending, local))

    seen = [counted(first_look), counted(second_look)]
    shapes = engine.model.shapes()
    assert shapes is not None
    once, again = look_flops(PassFlops(shapes), size, request.question, found[0], found[1].second)
    assert again is not None
    assert once + again == pytest.approx(sum(seen), rel=1e-3)


@pytest.mark.usefixtures("as_transformers")
def test_beside_two_looks_at_one_square_stands_one_look_in_tiles() -> None:
    skip_with_references()
    next_ = tiny("llava_next")
    subject = build_subject(next_, torch.float32, torch.device("cpu"))
    request, found = request_of(subject, 1), list[Outcome]()
    flow = HighResolutionFlow(subject)
    seen = counted(lambda: found.append(flow.answer(request)))
    model = subject.engine.model.high_resolution()
    image = sent_image(request.original, model.global_view)
    only = AnswerOptions(second_look="never", max_new_tokens=NEW_TOKENS)
    look = Engine(model).first_look(image, request.question, request.size, only).look
    assert found[0].first == look.token_ids
    works = work_of(next_, request.question, NEW_TOKENS)
    assert works[True].keys() == {"high_resolution", "ours"}
    counts = {name: work["final_answer"].flops for name, work in works[True].items()}
    assert counts["high_resolution"] == pytest.approx(seen, rel=1e-3)
    assert counts["ours"] < counts["high_resolution"]


@pytest.mark.parametrize(
    ("kind", "flows", "columns"),
    [
        ("llava_next", ["high_resolution", "ours"], "in tiles, ms | secondlook, ms"),
        ("instructblip", ["reference", "strong", "ours"], "reference, ms | stronger, ms | secondlook, ms"),
    ],
)
def test_latency_is_measured_and_told_where_flows_are_left_out(
    kind: str, flows: list[str], columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_rates_at_once(monkeypatch)
    warned = list[str]()
    monkeypatch.setattr(sdpa_attention.logger, "warning_once", warned.append)
    run = LatencyRun(device="cpu", repeats=1, warmups=0, new_tokens=2)
    report = json.loads(json.dumps(reported(run, partial(bench_latency, tiny(kind)))))
    assert [name.removeprefix("speedup_") for name in report if name.startswith("speedup_")] == flows[:-1]
    finals = {row["flow"]: row["p50_ms"] for row in report["rows"] if row["metric"] == "final_answer"}
    assert list(finals) == [row["flow"] for row in report["memory"][: len(flows)]] == flows
    agreeing = {} if kind == "llava_next" else dict.fromkeys(("first_tokens", "region", "second_tokens"), 1.0)
    assert report["agreement"].get("ours", {}) == agreeing
    shown = measured("latency", report)
    assert f"| request | until | {columns} | 90 % | slowest | ceiling, ms |" in shown
    assert f"{report[f'speedup_{flows[0]}']:.2f} times as fast as " in shown
    assert warned == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_as_many_parameters_as_what_it_stands_for(name: str) -> None:
    module = preset(name).shapes.module
    count = sum(parameter.numel() for parameter in module.parameters())
    assert count == pytest.approx(PUBLISHED[name], rel=0.005)


def test_every_preset_is_offered() -> None:
    offered = get_args(get_args(get_type_hints(LatencyRun, include_extras=True)["preset"])[0])
    assert set(offered) == {*PRESETS["presets"], "demo"}


@pytest.mark.parametrize(
    ("name", "prefix", "behind"),
    [("qwen2.5-vl-3b", 15, 13), ("qwen3-vl-4b", 4, 13), ("instructblip-7b", 0, 15)],
)
def test_prompts_are_about_as_long_as_the_public_ones(name: str, prefix: int, behind: int) -> None:
    model = preset(name).shapes
    lengths = Lengths.of(model, TYPICAL_QUESTION, 4)
    pictures = 32 if name == "instructblip-7b" else lengths.prefix - prefix
    assert lengths.prefix == prefix + pictures
    assert lengths.question - lengths.prefix == pytest.approx(behind, abs=1)
    assert pictures <= model.most_visual_tokens[0]


@pytest.mark.parametrize("name", ["qwen2.5-vl-3b", "qwen3-vl-4b", "instructblip-7b"])
def test_two_looks_of_ours_compute_less_than_the_published_way(name: str) -> None:
    report = bench_flops(preset(name), FlopsRun(preset=name))  # type: ignore[arg-type]
    flows = [row["flow"] for row in report["rows"]]
    assert flows == list(flows_of(preset(name)))
    assert report["flops_ratio"] < 0.6
    assert report["rows"][0]["ratio"] == 1


def test_only_instructblips_prompt_asks_for_a_short_answer_itself() -> None:
    models = {kind: tiny(kind).shapes for kind in TINY}
    assert [kind for kind, model in models.items() if model.brief] == ["instructblip"]
    tokens = models["instructblip"].tokens("What is it?").one
    assert models["instructblip"].text(tokens).endswith("Short answer:")
