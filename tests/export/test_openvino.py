"""Exported encoders in OpenVINO: what torch computes, in both precisions, from any thread; clear errors."""

from __future__ import annotations

import asyncio
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.checkpoints import IMAGE_SIZE, Variant, write_checkpoint
from engine.serving_harness import first_look, image_part, serving
from export.support import CPU, GRAPH_FILE, QUICK, Exported, asked, export_small
from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerReply
from secondlook.engine.encoders import EncoderChoice, openvino, with_vision
from secondlook.engine.encoders.manifest import TOLERANCES, file_digest
from secondlook.engine.encoders.openvino import (
    OpenVinoVisionEncoder,
    compile_graph,
    load_openvino,
    open_openvino,
)
from secondlook.engine.engine import Engine
from secondlook.engine.errors import DeviceError, EncoderError, InvalidEncoderError, RuntimeMissingError
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.vision import TensorType
from secondlook.engine.serve.app import create_app
from secondlook.export import verify_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

NARROW = "bfloat16" in openvino.precisions(load_openvino().Core())


def pixels(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(seed))


def opened(exported: Exported, **settings: Any) -> OpenVinoVisionEncoder:
    (encoder,) = open_openvino(exported.folder, exported.manifest, CPU, torch.float32, **settings)
    return encoder


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_it_computes_what_torch_computes(exported: Exported, batch: int) -> None:
    given = pixels(batch)
    assert error(opened(exported)(given), exported.model.vision_module()(given)) <= TOLERANCES["float32"]


def test_bfloat16_is_another_computation_of_the_same_export_within_its_own_tolerance(
    exported: Exported,
) -> None:
    given = pixels(2)
    if not NARROW:
        with pytest.raises(RuntimeMissingError, match="no products in bfloat16 on this processor"):
            opened(exported, precision="bfloat16")
        return
    found = error(opened(exported, precision="bfloat16")(given), exported.model.vision_module()(given))
    assert TOLERANCES["float32"] < found <= TOLERANCES["bfloat16"]


def test_without_a_wish_products_are_in_the_models_dtype_where_the_processor_has_such(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = list[str]()
    monkeypatch.setattr(openvino, "compile_graph", lambda *given: chosen.append(given[-1]))
    monkeypatch.setattr(openvino, "OpenVinoVisionEncoder", lambda *_: None)
    for narrow in (True, False):
        has = ["float32", "bfloat16"] if narrow else ["float32"]
        monkeypatch.setattr(openvino, "precisions", lambda _core, has=has: has)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            open_openvino(exported.folder, exported.manifest, CPU, dtype)
    assert chosen == ["float32", "float32", "bfloat16"] + ["float32"] * 3


def test_a_model_in_bfloat16_is_given_features_in_bfloat16(exported: Exported, tmp_path: Path) -> None:
    model = load_model(str(write_checkpoint(tmp_path, Variant(seed=3))), dtype="bfloat16", device="cpu")
    other = with_vision(model, EncoderChoice("openvino", exported.folder))
    picture = noise()
    shown = [each.picture(picture, each.global_view, Size(*picture.size)) for each in (model, exported.model)]
    (mine,), (theirs,) = other.encode(shown[:1]), exported.model.encode(shown[1:])
    assert mine.tokens.dtype == torch.bfloat16
    assert error(mine.tokens.float(), theirs.tokens) <= TOLERANCES["bfloat16"]


def noise() -> Image.Image:
    return Image.effect_noise((IMAGE_SIZE, IMAGE_SIZE), 80).convert("RGB")


def test_pixels_may_lie_anywhere_in_memory_and_be_of_any_dtype(exported: Exported) -> None:
    encoder, given = opened(exported), pixels(2)
    turned = given.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(encoder(turned), encoder(given))
    narrow = encoder(given.bfloat16())
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(narrow, encoder(given.bfloat16().float()).bfloat16())


def test_a_result_stays_as_it_is_when_the_next_is_computed(exported: Exported) -> None:
    encoder = opened(exported)
    first = encoder(pixels(1, seed=1))
    before = first.clone()
    assert not torch.equal(encoder(pixels(1, seed=2)), first)
    assert torch.equal(first, before)


def test_threads_at_once_get_each_their_own(exported: Exported) -> None:
    encoder = opened(exported)
    given = [pixels(1 + seed % 3, seed) for seed in range(24)]
    alone = [encoder(one) for one in given]
    with ThreadPoolExecutor(8) as pool:
        for found, expected in zip(pool.map(encoder, given), alone, strict=True):
            assert torch.equal(found, expected)


def test_a_server_answers_many_at_once_as_with_torch(exported: Exported) -> None:
    pictures = [noise() for _ in range(12)]

    async def replies(model: VisionLanguageModel) -> list[AnswerReply]:
        async with serving(create_app(Engine(model))) as client:
            asked = [
                first_look(
                    client, "What is on the sign", width=400, height=400, files=image_part(jpeg_of(one))
                )
                for one in pictures
            ]
            return [AnswerReply.model_validate_json(each.content) for each in await asyncio.gather(*asked)]

    choice = EncoderChoice("openvino", exported.folder)
    theirs = asyncio.run(replies(exported.model))
    mine = asyncio.run(replies(with_vision(exported.model, choice)))
    assert [each.first.text for each in mine] == [each.first.text for each in theirs]
    for one, other in zip(mine, theirs, strict=True):
        assert one.first.uncertainty == pytest.approx(other.first.uncertainty, abs=1e-4)


def jpeg_of(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


def test_threads_are_torchs(exported: Exported) -> None:
    core = load_openvino().Core()
    compiled = compile_graph(core, exported.folder / GRAPH_FILE, "float32")
    assert compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads() == 1
    assert not compiled.get_property("ENABLE_CPU_PINNING")


def test_int8_is_what_the_int8_graph_says(exported: Exported, tmp_path: Path) -> None:
    small = export_small(exported.model, tmp_path / "int8", "int8")
    given = pixels(2)
    assert error(opened(small)(given), exported.model.vision_module()(given)) <= TOLERANCES["int8"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_narrow_export_is_refused_with_what_to_do(exported: Exported, dtype: Any) -> None:
    narrow = replace(exported, manifest=replace(exported.manifest, dtype=dtype))
    with pytest.raises(RuntimeMissingError, match=rf"computes in {dtype}.*--dtype float32; --precision bfl"):
        opened(narrow)


def test_the_gate_is_passed_in_both_precisions(exported: Exported) -> None:
    choice = EncoderChoice("openvino", exported.folder)
    parity = verify_encoder(exported.model, choice, exported.folder, QUICK, asked())
    assert 0 < parity.relative_error <= parity.tolerance == TOLERANCES["float32"]
    if NARROW:
        choice = replace(choice, precision="bfloat16")
        parity = verify_encoder(exported.model, choice, exported.folder, QUICK, asked())
        assert TOLERANCES["float32"] < parity.relative_error <= parity.tolerance == TOLERANCES["bfloat16"]


def test_without_openvino_the_message_names_the_extra(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'secondlook\[openvino\]'"):
        with_vision(exported.model, EncoderChoice("openvino", exported.folder))


def test_what_it_cannot_do_is_one_clear_error(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="OpenVINO encodes on the CPU, and the device is cuda:0"):
        open_openvino(exported.folder, exported.manifest, torch.device("cuda", 0), torch.float32)
    with pytest.raises(EncoderError, match=r"takes pixel_values \[batch, 3, 84, 84\], not \[1, 3, 80, 80\]"):
        opened(exported)(torch.zeros(1, 3, 80, 80))
    core = load_openvino().Core()
    compiled = compile_graph(core, exported.folder / GRAPH_FILE, "float32")
    interface = exported.manifest.graphs["encoder"]
    wrong = replace(interface, inputs=(TensorType("pixel_values", ("batch", 3, 80, 80)),))
    with pytest.raises(EncoderError, match="OpenVINO could not run: Can't set the input tensor"):
        OpenVinoVisionEncoder(load_openvino(), compiled, wrong)(torch.zeros(1, 3, 80, 80))


def test_a_graph_that_openvino_cannot_load_is_one_clear_error(exported: Exported, tmp_path: Path) -> None:
    graph = tmp_path / GRAPH_FILE
    graph.write_bytes(b"no graph")
    files = exported.manifest.files | {GRAPH_FILE: file_digest(graph)}
    for name in files.keys() - {GRAPH_FILE}:
        (tmp_path / name).write_bytes((exported.folder / name).read_bytes())
    forged = replace(exported, folder=tmp_path, manifest=replace(exported.manifest, files=files))
    with pytest.raises(InvalidEncoderError, match="OpenVINO cannot load") as caught:
        opened(forged)
    assert "\n" not in str(caught.value)
    files = exported.manifest.files | {GRAPH_FILE: "0" * 64}
    with pytest.raises(InvalidEncoderError, match="is not as it was exported"):
        opened(replace(forged, manifest=replace(exported.manifest, files=files)))
