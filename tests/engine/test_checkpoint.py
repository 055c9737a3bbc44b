"""Loading: what works, and one clear line for each thing that does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig
from transformers.utils import logging as transformers_logging

from edge.support import square
from engine.checkpoints import GRID, IMAGE_SIZE, Variant, edit_json, write_checkpoint
from secondlook.edge.errors import SettingsError
from secondlook.engine.embedded import EMBEDDED
from secondlook.engine.errors import (
    DeviceError,
    IncompleteModelError,
    InvalidModelError,
    ModelError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from secondlook.engine.models.attention import ATTENTION
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.llava import default_localisation
from secondlook.engine.models.settings import Localisation, LookSettings, read_file


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("written"), Variant(layers=2))


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(written, tmp_path / "model"))


def refusal(kind: type[ModelError], folder: Path | str, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        load_model(str(folder), **options)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_loads(written: Path) -> None:
    model = load_model(str(written))
    assert model.global_view == model.local_view == square(IMAGE_SIZE)
    assert (model.most_visual_tokens, model.device.type) == ((GRID * GRID,) * 2, "cpu")
    assert model.dtype == torch.float32  # "auto" on the CPU, though the files hold float16
    assert model.eos_ids == {2}
    config: Any = model.module.config
    assert config.text_config._attn_implementation == ATTENTION
    assert config.vision_config._attn_implementation == "sdpa"
    assert not model.module.training


@pytest.mark.parametrize(
    "variant", [Variant(shards=3), Variant(template_file="chat_template.jinja", tied=True)]
)
def test_shards_and_tied_weights_load(tmp_path: Path, variant: Variant) -> None:
    assert load_model(str(write_checkpoint(tmp_path, variant))).localisation.crop_size == IMAGE_SIZE


def test_a_template_in_the_tokenizers_file_is_found(folder: Path) -> None:
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.json").unlink()
    edit_json(folder / "tokenizer_config.json", chat_template=template)
    model = load_model(str(folder))
    assert model.prompt(model.tokens("What?"), [(1, 1)]).shared


def test_the_preprocessor_within_the_processors_file_is_found(folder: Path) -> None:
    nested = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    edit_json(folder / "processor_config.json", image_processor=nested)
    assert load_model(str(folder)).normalisation.mean[0] == pytest.approx(0.48145466)


@pytest.mark.parametrize("name", ["demo", "demo-qwen"])
def test_an_embedded_model_is_a_folder_in_the_package(
    written: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(EMBEDDED, name, written)
    assert load_model(name).name == name
    monkeypatch.setitem(EMBEDDED, name, written / "missing")
    assert "install secondlook again" in refusal(ModelNotFoundError, name)


def test_a_hub_name_is_downloaded_without_other_formats(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []
    commit = "0123456789" * 4
    snapshot_folder = shutil.copytree(written, tmp_path / "snapshots" / commit)

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(snapshot_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with caplog.at_level("INFO", logger="secondlook"):
        model = load_model("llava-hf/llava-1.5-7b-hf", revision="main")
    assert (model.name, model.revision) == ("llava-hf/llava-1.5-7b-hf", commit)
    assert caplog.messages == [f"llava-hf/llava-1.5-7b-hf is of commit {commit}"]
    assert asked == [("llava-hf/llava-1.5-7b-hf", "main", ["*.json", "*.jinja", "*.safetensors"])]


def test_a_folder_has_no_revision(written: Path) -> None:
    assert load_model(str(written)).revision is None
    with pytest.raises(SettingsError, match="revision 'main' is for models of the hub"):
        load_model(str(written), revision="main")


def test_what_the_hub_does_not_have_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("no snapshot here\nand offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    message = refusal(ModelNotFoundError, "owner/model")
    assert "no folder 'owner/model'" in message
    assert message.endswith("no snapshot here and offline")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HTTPS_PROXY", "gopher://127.0.0.1:1", "the proxy HTTPS_PROXY=gopher://127.0.0.1:1 cannot be used"),
        ("HF_ENDPOINT", "garbage", "HF_ENDPOINT=garbage: the server's address must look like"),
        ("SSL_CERT_FILE", "/", "the certificates of SSL_CERT_FILE=/ cannot be read"),
    ],
)
def test_the_variable_that_keeps_the_hub_away_is_named(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        raise ValueError("odd")

    for other in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    told = refusal(ModelNotFoundError, "owner/model")
    assert message in told
    assert ("HF_ENDPOINT" in told) == (variable == "HF_ENDPOINT")


def test_a_missing_folder_and_a_file_are_not_found(written: Path) -> None:
    assert "/no/such/folder" in refusal(ModelNotFoundError, "/no/such/folder")
    assert "'demoo'" in refusal(ModelNotFoundError, "demoo")
    assert "is a file" in refusal(ModelNotFoundError, written / "config.json")


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ],
)
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(IncompleteModelError, folder).endswith(f"is incomplete: no {name}")


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    message = refusal(IncompleteModelError, tmp_path)
    for name in (
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "preprocessor_config",
    ):
        assert name in message


def test_missing_shards_are_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, Variant(shards=3))
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert refusal(IncompleteModelError, folder).endswith("no model-00002-of-00003.safetensors")
    edit_json(folder / "model.safetensors.index.json", weight_map=None)
    assert "no weight_map" in refusal(InvalidModelError, folder)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"model_type": "llava_onevision"}, "model_type llava_onevision"),
        ({"model_type": "bert"}, "model_type bert"),
        ({"model_type": ["llava"]}, "model_type ['llava']"),
        ({"model_type": "gemma3"}, "model_type gemma3, which is not served: its decoder lets the tokens"),
        ({"model_type": "gemma4"}, "in both directions"),
        ({"model_type": "qwen3_5"}, "recurrent layers"),
        ({"model_type": "qwen3_vl_moe"}, "mixture of experts"),
        ({"model_type": "mllama"}, "cross attention"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "vision tower siglip_vision_model"),
        ({"text_config": {"model_type": "qwen2"}}, "decoder qwen2"),
    ],
)
def test_other_architectures_are_unsupported(folder: Path, changes: dict[str, Any], found: str) -> None:
    edit_json(folder / "config.json", **changes)
    message = refusal(UnsupportedModelError, folder)
    assert found in message
    assert "supported is LLaVA-1.5" in message


def test_other_layouts_are_unsupported(folder: Path) -> None:
    edit_json(folder / "config.json", vision_feature_select_strategy="full")
    assert "'full'" in refusal(UnsupportedModelError, folder)


def test_the_feature_layer_is_one_that_the_tower_has(folder: Path) -> None:
    edit_json(folder / "config.json", vision_feature_layer=[-2, -1])
    assert "must be one layer, not [-2, -1]" in refusal(UnsupportedModelError, folder)
    for layer in (-5, 4):
        edit_json(folder / "config.json", vision_feature_layer=layer)
        assert f"{layer} does not exist in a vision tower of 3" in refusal(InvalidModelError, folder)


def test_another_image_processor_is_unsupported(folder: Path) -> None:
    edit_json(folder / "preprocessor_config.json", image_processor_type="SiglipImageProcessor")
    assert "SiglipImageProcessor" in refusal(UnsupportedModelError, folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
@pytest.mark.parametrize("text", ["{not json", "[]", ""])
def test_broken_json_is_invalid(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert name in refusal(InvalidModelError, folder)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config.json", {"vision_feature_layer": "last"}, "vision_feature_layer"),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": 3}}, "tokenizer.json cannot be read"),
        (
            "preprocessor_config.json",
            {"crop_size": {"height": 336, "width": 336}},
            "crop_size is {'height': 336, 'width': 336}",
        ),
        (
            "preprocessor_config.json",
            {"image_std": [1.0, 0.0, 1.0]},
            "std.1 should be greater than 0, not 0.0",
        ),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "mean.1 is missing"),
        ("preprocessor_config.json", {"rescale_factor": "half"}, "preprocessor"),
    ],
)
def test_contradicting_files_are_invalid(
    folder: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    edit_json(folder / name, **changes)
    assert message in refusal(InvalidModelError, folder)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("vision_config", {"patch_size": 0}),
        ("vision_config", {"patch_size": -4}),
        ("vision_config", {"hidden_act": "nope"}),
        ("text_config", {"hidden_act": "nope"}),
        ("text_config", {"vocab_size": -5}),
        ("text_config", {"rope_parameters": {"rope_type": "nope", "rope_theta": 1e4}}),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_values_that_no_model_can_have_are_invalid(folder: Path, part: str, changes: dict[str, Any]) -> None:
    values = json.loads((folder / "config.json").read_text())[part]
    edit_json(folder / "config.json", **{part: values | changes})
    assert str(folder) in refusal(InvalidModelError, folder)


def test_truncated_weights_are_invalid(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors cannot be read as safetensors" in refusal(InvalidModelError, folder)


def test_missing_and_misshapen_weights_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    projector = "multi_modal_projector.linear_1.weight"
    save_file({name: tensor for name, tensor in tensors.items() if name != projector}, weights)
    assert projector in refusal(IncompleteModelError, folder)
    save_file({**tensors, projector: torch.zeros(3, 3)}, weights)
    message = refusal(InvalidModelError, folder)
    assert projector in message
    assert "shape" in message


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", "mps", "cpu:x"])
def test_a_device_that_is_not_there_is_an_error(written: Path, device: str) -> None:
    assert f"{device!r}" in refusal(DeviceError, written, device=device)


def test_an_unknown_dtype_is_an_error(written: Path) -> None:
    with pytest.raises(SettingsError, match="'int8'"):
        load_model(str(written), dtype="int8")  # type: ignore[arg-type]


def test_loading_is_silent_and_leaves_transformers_as_it_was(
    written: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    load_model(str(written))
    after = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    assert after == before
    assert capfd.readouterr() == ("", "")


def test_settings_default_to_the_papers(written: Path) -> None:
    for layers, expected in ((32, 14), (40, 17), (2, 0)):
        config = LlavaConfig()
        config.text_config.num_hidden_layers, config.vision_config.image_size = layers, 336
        assert default_localisation(config) == Localisation({expected: None}, crop_size=336)
    model = load_model(str(written))
    assert model.settings == LookSettings(threshold=None, fit="squash", max_new_tokens=20)
    assert model.localisation == Localisation({0: None}, crop_size=IMAGE_SIZE, generic=True)


def test_a_checkpoints_own_settings_are_read(folder: Path) -> None:
    settings = {"threshold": 0.25, "fit": "pad", "question_suffix": "Be short."}
    (folder / "secondlook.json").write_text(json.dumps(settings))
    layers = {"1": {"0": 0.5, "3": 1}, "0": None}
    where = {"layers": layers, "generic": False, "ratios": [1, 3], "min_cells": 2}
    (folder / "localisation.json").write_text(json.dumps(where))
    model = load_model(str(folder))
    assert model.settings == LookSettings(threshold=0.25, fit="pad", question_suffix="Be short.")
    assert model.localisation == Localisation({1: {0: 0.5, 3: 1.0}, 0: None}, IMAGE_SIZE, False, (1, 3), 2)
    assert model.global_view == square(IMAGE_SIZE, "pad")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("localisation.json", '{"layer": 1}', "unknown key layer; known are layers,"),
        ("localisation.json", '{"layers": 1}', "layers should be"),
        ("localisation.json", '{"layers": {}}', "layers: Dictionary should have at least 1 item"),
        (
            "localisation.json",
            '{"layers": {"0": null, "2": null}}',
            "layers.2: the decoder's last layer is 1",
        ),
        ("localisation.json", '{"layers": {"-1": null}}', "layers.-1"),
        ("localisation.json", '{"layers": {"one": null}}', "layers.one"),
        ("localisation.json", '{"layers": {"0": true}}', "layers.0 should be"),
        (
            "localisation.json",
            '{"layers": {"1": {"1": 1, "4": 1}}}',
            "layers.1.4: the decoder's last head is 3",
        ),
        ("localisation.json", '{"layers": {"1": {"-1": 1}}}', "layers.1.-1"),
        ("localisation.json", '{"layers": {"1": {}}}', "layers.1: Dictionary should have at least 1 item"),
        ("localisation.json", '{"layers": {"1": {"1": 0}}}', "layers.1.1 should be greater than 0, not 0"),
        ("localisation.json", '{"layers": {"1": {"1": -2}}}', "layers.1.1 should be greater than 0, not -2"),
        ("localisation.json", '{"layers": {"1": {"1": NaN}}}', "layers.1.1 should be a finite number"),
        ("localisation.json", '{"layers": {"1": {"1": Infinity}}}', "layers.1.1 should be a finite number"),
        ("localisation.json", '{"crop_size": 1.5}', "1.5"),
        ("localisation.json", '{"crop_size": 0}', "crop_size should be greater than or equal to 1, not 0"),
        ("localisation.json", '{"ratios": [2, 1]}', "(2.0, 1.0)"),
        ("secondlook.json", '{"probe_layer": 1}', "unknown key probe_layer; known are threshold,"),
        ("secondlook.json", '{"threshold": NaN}', "threshold"),
        ("secondlook.json", '{"threshold": "low"}', "'low'"),
        ("secondlook.json", '{"fit": "crop"}', "'squash' or 'pad', not 'crop'"),
        ("secondlook.json", '{"max_new_tokens": 0}', "max_new_tokens should be greater than 0, not 0"),
        ("secondlook.json", '{"question_suffix": 3}', "not 3"),
        ("secondlook.json", "[]", "JSON object"),
        ("secondlook.json", "{", "not JSON"),
    ],
)
def test_bad_settings_are_invalid(folder: Path, file: str, text: str, message: str) -> None:
    (folder / file).write_text(text)
    assert message in refusal(InvalidModelError, folder)


def test_without_a_settings_file_the_defaults_stand(tmp_path: Path) -> None:
    defaults = Localisation({3: None}, crop_size=99)
    assert read_file(tmp_path / "localisation.json", defaults) is defaults
