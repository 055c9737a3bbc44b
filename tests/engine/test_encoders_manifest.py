"""The manifest: what it holds survives, and nothing else is taken for one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoints import GRID, IMAGE_SIZE, Variant, edit_json, write_checkpoint
from secondlook.edge.errors import SettingsError
from secondlook.engine.encoders.manifest import (
    MANIFEST_FILE,
    EncoderManifest,
    Parity,
    file_digest,
    graph_file,
    read_manifest,
    weights_file,
)
from secondlook.engine.errors import EncoderMismatchError, InvalidEncoderError
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.vision import Axis, Interface, TensorType

GRAPH_FILE, WEIGHTS_FILE = graph_file("encoder"), weights_file("encoder")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return load_model(
        str(write_checkpoint(tmp_path_factory.mktemp("model"), Variant(layers=2))), device="cpu"
    )


def interface(width: int) -> Interface:
    return Interface(
        (TensorType("pixel_values", ("batch", 3, IMAGE_SIZE, IMAGE_SIZE)),),
        (TensorType("features", ("batch", GRID**2, width)),),
        {"batch": Axis(1, 1)},
    )


@pytest.fixture
def manifest(model: VisionLanguageModel, tmp_path: Path) -> EncoderManifest:
    """As the folder `tmp_path` has it."""
    for name in (GRAPH_FILE, WEIGHTS_FILE):
        (tmp_path / name).write_bytes(name.encode())
    made = EncoderManifest(
        model=model.name,
        weights={"float32": model.encoder_digest(), "float16": model.encoder_digest(torch.float16)},
        dtype="float32",
        opset=18,
        graphs={"encoder": interface(64)},
        normalisation=model.normalisation,
        views=(model.global_view, model.local_view),
        tools={"torch": "2.13.0"},
        parity=Parity(1e-6, 1e-5, 16, 200, 400, 399, 1, 0.001, 200, 199),
        files={name: file_digest(tmp_path / name) for name in (GRAPH_FILE, WEIGHTS_FILE)},
    )
    made.write(tmp_path)
    return made


def test_it_is_read_as_it_was_written(manifest: EncoderManifest, tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == manifest


@pytest.mark.parametrize("name", ["../x", "/dev/zero", "sub/x", "..", ""])
def test_files_are_plain_names(manifest: EncoderManifest, name: str) -> None:
    with pytest.raises(SettingsError, match=f"plain names in the manifest's folder, not '{name}'"):
        replace(manifest, files={**manifest.files, name: "0"})


def test_files_are_regular(manifest: EncoderManifest, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS_FILE).unlink()
    (tmp_path / WEIGHTS_FILE).symlink_to("/dev/zero")
    with pytest.raises(InvalidEncoderError, match=f"{WEIGHTS_FILE} is no regular file"):
        manifest.check_files(tmp_path)


def test_a_folder_without_one_is_no_export(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InvalidEncoderError, match=r"is no exported encoder: it has no manifest\.json"):
            read_manifest(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "fp8"}, "dtype"),
        ({"colour": "red"}, "colour"),
        ({"graphs": {}}, "names no graph"),
        ({"graphs": {"../x": {"inputs": [], "outputs": [], "axes": {}}}}, r"no digest of \.\./x"),
        (
            {"normalisation": {"mean": [0, 0, 0], "std": [1, 1, 1], "scale": 0}},
            "scale should be greater than 0, not 0",
        ),
    ],
)
@pytest.mark.usefixtures("manifest")
def test_another_manifest_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    edit_json(tmp_path / MANIFEST_FILE, **changes)
    with pytest.raises(InvalidEncoderError, match=f"is no manifest of this version: .*{message}") as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("manifest")
def test_a_truncated_manifest_is_refused(tmp_path: Path) -> None:
    content = (tmp_path / MANIFEST_FILE).read_text()
    (tmp_path / MANIFEST_FILE).write_text(content[:100])
    with pytest.raises(InvalidEncoderError, match="Invalid JSON"):
        read_manifest(tmp_path)


def test_every_digest_must_be_there(manifest: EncoderManifest) -> None:
    with pytest.raises(SettingsError, match=r"has no digest of encoder\.onnx, encoder\.onnx\.data"):
        replace(manifest, files={})


def test_every_file_that_is_another_is_named(manifest: EncoderManifest, tmp_path: Path) -> None:
    manifest.check_files(tmp_path)
    two = replace(manifest, files=manifest.files | {"missing.data": "0" * 64})
    (tmp_path / GRAPH_FILE).write_bytes(b"a grapH")
    with pytest.raises(InvalidEncoderError) as caught:
        two.check_files(tmp_path)
    message = str(caught.value)
    assert f"{GRAPH_FILE} has SHA-256" in message
    assert f"the manifest says {manifest.files[GRAPH_FILE][:16]}" in message
    assert "missing.data cannot be read" in message
    assert "export the encoder again" in message


def test_it_fits_the_model_it_was_made_from(
    manifest: EncoderManifest, model: VisionLanguageModel, tmp_path: Path
) -> None:
    manifest.check_fits(tmp_path, model)
    manifest.check_fits(tmp_path, load_model(model.name, dtype="float16", device="cpu"))


def test_what_differs_is_named_on_both_sides(
    manifest: EncoderManifest, model: VisionLanguageModel, tmp_path: Path
) -> None:
    other = load_model(str(write_checkpoint(tmp_path / "other", Variant(seed=1, layers=2))), device="cpu")
    wider = replace(
        manifest,
        graphs={"encoder": interface(128)},
        normalisation=replace(manifest.normalisation, scale=1.0),
    )
    with pytest.raises(EncoderMismatchError) as caught:
        wider.check_fits(tmp_path, other)
    message = str(caught.value)
    assert f"exported from {model.name!r} and does not fit the model {other.name!r}" in message
    assert f"weights in float32 {model.encoder_digest()}, not {other.encoder_digest()}" in message
    assert "outputs of encoder features [batch, 36, 128], not features [batch, 36, 64]" in message
    assert "inputs" not in message
    assert "scale 1.0, not 0.00392" in message
    assert "std" not in message


def test_axes_that_get_too_short_do_not_fit(
    manifest: EncoderManifest, model: VisionLanguageModel, tmp_path: Path
) -> None:
    axes = {axis: Axis(2, 3) for axis in manifest.graphs["encoder"].axes}
    short = replace(manifest, graphs={"encoder": replace(manifest.graphs["encoder"], axes=axes)})
    with pytest.raises(EncoderMismatchError, match="it has batch of encoder 2 to 3, not 1 to 1; export"):
        short.check_fits(tmp_path, model)


def test_another_format_says_what_to_do(manifest: EncoderManifest, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "side": 336}))
    with pytest.raises(InvalidEncoderError, match="of format 1, and this version reads 2: make it again"):
        read_manifest(tmp_path)


def test_a_dtype_without_a_digest_does_not_fit(
    manifest: EncoderManifest, model: VisionLanguageModel, tmp_path: Path
) -> None:
    narrow = load_model(model.name, dtype="bfloat16", device="cpu")
    with pytest.raises(EncoderMismatchError, match="weights in bfloat16 None, not"):
        manifest.check_fits(tmp_path, narrow)


def test_what_no_weight_tells_is_in_the_digest(model: VisionLanguageModel, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", Variant(layers=2))
    values = json.loads((folder / "config.json").read_text())
    values["vision_config"]["num_attention_heads"] = 4
    edit_json(folder / "config.json", **values)
    other = load_model(str(folder), device="cpu")
    assert other.digest() == model.digest()
    assert other.encoder_digest() != model.encoder_digest()
