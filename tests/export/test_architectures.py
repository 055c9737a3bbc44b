"""Vision encoders of all shapes, exported: the gate, the answers in other runtimes, the plans' shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import onnx
import pytest
import torch

from engine import qwen, test_instructblip, unsplit
from engine.llava_next import write_next
from engine.looks import drawn
from export.plan_support import CPU, PlanOnCpu
from export.support import Exported, asked
from export.test_tensorrt_operators import TAKEN
from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.encoders import EncoderChoice, Vision, tensorrt, with_vision
from secondlook.engine.encoders.manifest import GraphDType, graph_file
from secondlook.engine.encoders.profiles import BatchProfile, lengths_of
from secondlook.engine.encoders.tensorrt import LoadedPlan, TensorRtVisionEncoder
from secondlook.engine.engine import Engine
from secondlook.engine.errors import EncoderError
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.qwen import Qwen
from secondlook.export import ExportSettings, GatePicture, GateSettings, export_encoder
from secondlook.export.gate import _compare_features
from secondlook.export.graph import DEFAULT_OPSET, write_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK: Final = GateSettings(pictures=3, questions=3)
SIZES: Final = ((300, 120), (90, 500), (40, 40), (640, 480))
QUESTIONS: Final = {
    "instructblip": "What number is on red sign?",
    **dict.fromkeys(qwen.FAMILIES, qwen.words([40, 41])),
    **dict.fromkeys(("smolvlm", "idefics3", "internvl", "llava_next"), "What is on the sign?"),
}


# Idefics3 and SmolVLM are one module of ours.
FAMILIES: Final = [
    pytest.param(family, marks=pytest.mark.slow) if family == "idefics3" else family for family in QUESTIONS
]


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    family, folder = request.param, tmp_path_factory.mktemp("exported")
    if family == "instructblip":
        test_instructblip.write_folder(folder / "model")
    elif family in unsplit.FAMILIES:
        unsplit.write_folder(folder / "model", unsplit.FAMILIES[family])
    elif family == "llava_next":
        write_next(folder / "model")
    else:
        qwen.write_folder(folder / "model", family)
    model = load_model(str(folder / "model"), dtype="float32", device="cpu")
    pictures: Iterator[GatePicture] = (replace(one, questions=(QUESTIONS[family],)) for one in asked())
    settings = ExportSettings(gate=QUICK)
    return Exported(model, folder / "encoder", export_encoder(model, folder / "encoder", settings, pictures))


def question(exported: Exported) -> str:
    return QUESTIONS[exported.model.module.config.model_type]


def test_it_passes_the_gate_of_float32(exported: Exported) -> None:
    assert 0 < exported.manifest.parity.relative_error <= 1e-5
    assert exported.manifest.parity.same_regions == 3
    assert exported.manifest.views == (exported.model.global_view, exported.model.local_view)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_pictures_of_all_sizes_are_encoded_as_torch_encodes_them(exported: Exported, runtime: Vision) -> None:
    model, other = exported.model, with_vision(exported.model, EncoderChoice(runtime, exported.folder))
    pictures = [model.picture(drawn(size, 1), model.global_view, Size(*size)) for size in SIZES]
    tokens = model.tokens(question(exported))
    for some in (pictures, pictures[:1], pictures[2:3], pictures[:2] * 3):
        for mine, theirs in zip(other.encode(some), model.encode(some), strict=True):
            (rows, looked), (their_rows, seen) = (
                each.condition(features, tokens) for each, features in ((other, mine), (model, theirs))
            )
            pairs = [(mine.tokens, theirs.tokens), (rows.tokens, their_rows.tokens)]
            pairs += zip(mine.deep, theirs.deep, strict=True)
            if looked is not None and seen is not None:
                pairs.append((looked, seen))
            for found, expected in pairs:
                assert float((found - expected).norm() / expected.norm()) <= 1e-5


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_both_looks_in_another_runtime_have_torchs_tokens(exported: Exported, runtime: Vision) -> None:
    options = AnswerOptions(second_look="always", arbitration=False)
    other = with_vision(exported.model, EncoderChoice(runtime, exported.folder))
    for seed, size in enumerate(SIZES[:2]):
        answers = []
        for model in (exported.model, other):
            engine, original = Engine(model), drawn((size[0] * 2, size[1] * 2), seed)
            shown = original.copy()
            shown.thumbnail((24, 24))  # an edge may send less than a view takes
            first = engine.first_look(shown, question(exported), Size(*original.size), options)
            assert first.pending is not None
            box = first.pending.region
            crop = original.crop((box.left, box.top, box.right, box.bottom))
            crop.thumbnail((24, 24))
            final = engine.second_look(first.pending, crop)
            answers.append((first.look.token_ids, box, final.second.token_ids))
        assert answers[0] == answers[1]


def test_no_pictures_are_longer_than_a_plans_axes(exported: Exported) -> None:
    model, random = exported.model, np.random.default_rng(0)
    if not isinstance(model, Qwen):
        return
    for count, profile in (
        (1, BatchProfile(1, 1, 1)),
        (3, BatchProfile(1, 2, 8)),
        (8, BatchProfile(2, 4, 8)),
    ):
        sizes = [tuple(map(int, random.integers(8, 2000, 2))) for _ in range(count)]
        pictures = [model.picture(drawn((8, 8), 1), model.global_view, Size(*size)) for size in sizes]
        patches = torch.cat([model.patches(picture) for picture in pictures])
        places = model._vision.places([picture.grid for picture in pictures], model.device)
        interface = exported.manifest.graphs["encoder"]
        low, _, high = lengths_of(interface, profile)
        for name, length in interface.lengths(model._graph.inputs(patches, places)).items():
            assert low[name] <= length <= high[name]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_less_precision_is_within_its_bounds(exported: Exported, dtype: GraphDType, tmp_path: Path) -> None:
    model = exported.model
    written = write_encoder(model, dtype, DEFAULT_OPSET, tmp_path)
    assert not written.check()
    pictures = [model.picture(drawn(size, 1), model.global_view, Size(*size)) for size in SIZES]
    compared = [(picture, question(exported)) for picture in pictures]
    _, failures = _compare_features(model, model.with_encoder(*written.open()), compared, dtype)
    # Of int8 answers decide, which random weights do not keep.
    assert {failure.check for failure in failures} <= ({"features"} if dtype == "int8" else set())


def on_plans(model: VisionLanguageModel, *profiles: BatchProfile) -> tuple[VisionLanguageModel, PlanOnCpu]:
    """The model with a stand-in for TensorRT's plans, which computes what torch does; the first plan."""
    stand_ins, encoders = list[PlanOnCpu](), list[TensorRtVisionEncoder]()
    for graph in model.vision_graphs().values():
        stand_ins.append(PlanOnCpu(profiles, "float32", graph.interface, graph.module))
        whole: Any = (stand_ins[-1], None, SimpleNamespace(last_error=""))
        encoders.append(TensorRtVisionEncoder(LoadedPlan(*whole), graph.interface, profiles, CPU))
    return model.with_encoder(*encoders), stand_ins[0]


def test_pictures_of_all_sizes_pass_through_plans(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "capture", lambda work, _pool: work)
    monkeypatch.setattr(tensorrt, "current_stream", lambda _device: 77)
    model, one, more = exported.model, BatchProfile(1, 1, 1), BatchProfile(4, 6, 8)
    other, plan = on_plans(model, one, more)
    tokens = model.tokens(question(exported))
    pictures = [model.picture(drawn(size, 1), model.global_view, Size(*size)) for size in SIZES] * 2
    expected = model.encode(pictures)
    for count in (1, 3, 6, 8):
        plan.runs.clear()
        for mine, theirs in zip(other.encode(pictures[:count]), expected[:count], strict=True):
            pairs = zip((mine.tokens, *mine.deep), (theirs.tokens, *theirs.deep), strict=True)
            made, due = (each.condition(mine, tokens)[0].tokens for each in (other, model))
            for found, wanted in (*pairs, (made, due)):
                assert float((found - wanted).norm() / wanted.norm()) <= 1e-5
        assert [profile for _, profile in plan.runs] == {1: [0], 3: [0, 0, 0]}.get(count, [1])
    with pytest.raises(
        EncoderError, match="no profile for a batch of 1: it was built for 4:6:8; build it with"
    ):
        on_plans(model, more)[0].encode(pictures[:1])


def test_other_inputs_are_refused_by_name(exported: Exported) -> None:
    other = with_vision(exported.model, EncoderChoice("onnx", exported.folder))
    with pytest.raises(EncoderError, match=r"the encoder takes (pixel_values|patches) \[.*, not \[1\]$"):
        other._encoder(torch.zeros(1))  # type: ignore[attr-defined]


def test_operators_are_those_that_tensorrt_takes_and_nothing_is_sorted(exported: Exported) -> None:
    for name in exported.manifest.graphs:
        graph = onnx.load(exported.folder / graph_file(name), load_external_data=False).graph
        assert {node.op_type for node in graph.node} <= set(TAKEN.split()) - {"TopK", "NonZero"}
