"""Exported encoders in the engine: the same answers, and one clear error for each bad folder."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.checkpoints import IMAGE_SIZE
from export.support import CPU, GRAPH_FILE, WEIGHTS_FILE, Exported, small_model
from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine import encoders
from secondlook.engine.encoders import EncoderChoice, with_vision
from secondlook.engine.encoders.manifest import file_digest
from secondlook.engine.encoders.onnx_runtime import OnnxVisionEncoder, open_onnx, open_session
from secondlook.engine.engine import Engine
from secondlook.engine.errors import (
    DeviceError,
    EncoderError,
    EncoderMismatchError,
    InvalidEncoderError,
    RuntimeMissingError,
)
from secondlook.engine.models.vision import TensorType
from secondlook.engine.plugins import PLAN_BUILDERS, plugins
from secondlook.export.plans import open_or_rebuild

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(exported: Exported, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(exported.folder, tmp_path / "encoder"))


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_it_computes_what_torch_computes(exported: Exported, batch: int) -> None:
    pixels = torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(batch))
    (encoder,) = open_onnx(exported.folder, exported.manifest, CPU)
    found = encoder(pixels)
    expected = exported.model.vision_module()(pixels)
    assert float((found - expected).norm() / expected.norm()) <= 1e-5


def test_pixels_may_lie_anywhere_in_memory_and_be_of_any_dtype(exported: Exported) -> None:
    (encoder,) = open_onnx(exported.folder, exported.manifest, CPU)
    pixels = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    turned = pixels.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(encoder(turned), encoder(pixels))
    narrow = encoder(pixels.bfloat16())
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(narrow, encoder(pixels.bfloat16().float()).bfloat16())


def test_an_engine_answers_the_same_through_onnx_runtime(exported: Exported) -> None:
    options = AnswerOptions(second_look="always")
    choice = EncoderChoice("onnx", exported.folder)
    torchs, ours = Engine(exported.model), Engine(with_vision(exported.model, choice))
    for seed in range(4):
        theirs, mine = (
            engine.first_look(picture(seed), "What is on the sign", Size(400, 400), options)
            for engine in (torchs, ours)
        )
        assert mine.look.token_ids == theirs.look.token_ids
        assert mine.region == theirs.region
        assert mine.uncertainty == pytest.approx(theirs.uncertainty, abs=1e-4)
        assert mine.pending is not None
        assert theirs.pending is not None
        region = theirs.pending.region
        crop = picture(seed + 50).resize((region.width, region.height))
        again = torchs.second_look(theirs.pending, crop), ours.second_look(mine.pending, crop)
        assert again[0].second.token_ids == again[1].second.token_ids


def test_the_model_that_was_given_keeps_its_own_encoder(exported: Exported) -> None:
    other = with_vision(exported.model, EncoderChoice("onnx", exported.folder))
    assert isinstance(other._encoder, OnnxVisionEncoder)
    assert exported.model._encoder is exported.model.vision_module()
    assert with_vision(exported.model, EncoderChoice()) is exported.model


def test_threads_follow_torchs(exported: Exported) -> None:
    graph = exported.folder / GRAPH_FILE
    assert open_session(graph, CPU).get_session_options().intra_op_num_threads == torch.get_num_threads() == 1
    assert open_session(graph, CPU, threads=2).get_session_options().intra_op_num_threads == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("jax",), "vision should be 'torch', 'onnx', 'openvino', 'tensorrt' or 'auto', not 'jax'"),
        (("torch", Path("x")), "encoder x is not for torch; add --vision auto, onnx, openvino or tensorrt"),
        (("onnx",), "--vision onnx needs --encoder FOLDER; make one with secondlook export"),
        (("tensorrt", Path("x"), "tensorrt"), "provider 'tensorrt' is ONNX Runtime's; add --vision onnx"),
        (("onnx", Path("x"), "auto", True), "--trust-plan is about TensorRT plans; add --vision tensorrt"),
        (("onnx", Path("x"), "auto", False, True), "--rebuild builds TensorRT plans, and onnx encodes"),
        (("auto",), "--vision auto needs --encoder FOLDER; make one with secondlook export"),
        (
            ("auto", Path("x"), "auto", False, False, "bfloat16"),
            "'bfloat16' is OpenVINO's; add --vision open",
        ),
    ],
)
def test_a_choice_that_contradicts_itself_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        EncoderChoice(*arguments)


@pytest.mark.parametrize("name", [GRAPH_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("damage", ["truncated", "tampered", "missing"])
def test_a_damaged_file_is_named_before_it_is_loaded(
    exported: Exported, folder: Path, name: str, damage: str
) -> None:
    content = bytearray((folder / name).read_bytes())
    if damage == "missing":
        (folder / name).unlink()
    else:
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content if damage == "tampered" else content[:-1])
    with pytest.raises(
        InvalidEncoderError, match=rf"{name} (has SHA-256|cannot be read).*export the encoder again"
    ):
        with_vision(exported.model, EncoderChoice("onnx", folder))


def test_a_graph_that_onnx_runtime_cannot_load_is_one_clear_error(exported: Exported, folder: Path) -> None:
    (folder / GRAPH_FILE).write_bytes(b"no graph")
    forged = replace(
        exported.manifest, files=exported.manifest.files | {GRAPH_FILE: file_digest(folder / GRAPH_FILE)}
    )
    with pytest.raises(InvalidEncoderError, match="ONNX Runtime cannot load") as caught:
        open_onnx(folder, forged, CPU)
    assert "\n" not in str(caught.value)


def test_a_run_that_fails_is_an_error_of_ours(exported: Exported) -> None:
    session, interface = open_session(exported.folder / GRAPH_FILE, CPU), exported.manifest.graphs["encoder"]
    pixels = torch.zeros(1, 3, 80, 80)
    with pytest.raises(EncoderError, match=r"takes pixel_values \[batch, 3, 84, 84\], not \[1, 3, 80, 80\]"):
        OnnxVisionEncoder(session, interface, CPU)(pixels)
    wrong = replace(interface, inputs=(TensorType("pixel_values", ("batch", 3, 80, 80)),))
    with pytest.raises(EncoderError, match=r"ONNX Runtime could not run: .* Expected: 84"):
        OnnxVisionEncoder(session, wrong, CPU)(pixels)


def test_another_models_encoder_is_refused(exported: Exported, tmp_path: Path) -> None:
    other = small_model(tmp_path / "other", seed=4)
    with pytest.raises(EncoderMismatchError, match="does not fit the model"):
        with_vision(other, EncoderChoice("onnx", exported.folder))


def test_bfloat16_is_refused_on_a_cpu(exported: Exported) -> None:
    with pytest.raises(RuntimeMissingError, match="for which ONNX Runtime has no products on CPUs"):
        open_onnx(exported.folder, replace(exported.manifest, dtype="bfloat16"), CPU)


def test_a_provider_that_is_missing_is_never_replaced(exported: Exported) -> None:
    graph = exported.folder / GRAPH_FILE
    with pytest.raises(RuntimeMissingError, match=r"has no CUDAExecutionProvider here, only .*CPU"):
        open_session(graph, torch.device("cuda", 0))
    with pytest.raises(RuntimeMissingError, match="has no TensorrtExecutionProvider here"):
        open_session(graph, torch.device("cuda", 0), provider="tensorrt")
    with pytest.raises(DeviceError, match="TensorRT provider needs a CUDA GPU, not cpu"):
        open_session(graph, CPU, provider="tensorrt")
    with pytest.raises(SettingsError, match="provider must be one of auto, tensorrt, not 'rocm'"):
        open_session(graph, CPU, provider="rocm")  # type: ignore[arg-type]


def test_without_onnx_runtime_the_message_says_what_to_install(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeMissingError, match="pip install onnxruntime"):
        open_onnx(exported.folder, exported.manifest, CPU)


def test_the_tensorrt_branch_opens_a_plan_that_fits_and_builds_it_again_only_when_asked(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[Any, ...]] = []
    right = open_onnx(exported.folder, exported.manifest, CPU)

    plan = SimpleNamespace(manifest=SimpleNamespace(encoder=exported.manifest), encoders=right)

    def opens(*found: Any, trusted: bool) -> SimpleNamespace:
        opened.append((*found, trusted))
        return plan

    def builds(*found: Any, trusted: bool) -> SimpleNamespace:
        opened.append(("built", *found, trusted))
        return plan

    monkeypatch.setattr(encoders, "open_plan", opens)
    monkeypatch.setattr(encoders, "plugins", lambda _group: [SimpleNamespace(load=lambda: builds)])
    choice = EncoderChoice("tensorrt", Path("plan"), trust_plan=True)
    model = with_vision(exported.model, choice)
    with_vision(exported.model, replace(choice, rebuild=True, trust_plan=False))
    assert opened == [(Path("plan"), CPU, True), ("built", Path("plan"), CPU, False)]
    shown = model.picture(picture(0), model.global_view, Size(*picture(0).size))
    mine, theirs = (each.encode([shown])[0].tokens for each in (model, exported.model))
    assert torch.allclose(mine, theirs, atol=1e-4)
    other = replace(exported.manifest, weights={})
    monkeypatch.setattr(plan, "manifest", SimpleNamespace(encoder=other))
    with pytest.raises(EncoderMismatchError, match="weights in float32 None, not"):
        with_vision(exported.model, choice)
    monkeypatch.setattr(encoders, "plugins", lambda _group: [])
    with pytest.raises(RuntimeMissingError, match=r"--rebuild needs .*secondlook\[tensorrt\]"):
        with_vision(exported.model, replace(choice, rebuild=True))


def test_the_installed_builder_of_plans_is_exports() -> None:
    assert [one.load() for one in plugins(PLAN_BUILDERS)] == [open_or_rebuild]
