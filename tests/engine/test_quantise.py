"""`--quantise`: what becomes of few bits, what stays, where it cannot be, and who tells of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import torch
from torch import nn

from engine.checkpoints import Variant, edit_json, write_checkpoint
from engine.commands import exit_status, one_line
from secondlook.edge.errors import SettingsError
from secondlook.engine.cli import ask
from secondlook.engine.engine import Engine
from secondlook.engine.errors import UnsupportedModelError
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.low_bit import LowBitLinear
from secondlook.engine.models.quantisation_config import chosen_packing
from secondlook.engine.models.rounding import Quantise
from secondlook.kernels import multiplies_bytes

PICTURE = Path(__file__).parents[2] / "docs" / "two-looks.jpg"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), Variant(seed=1, layers=2))


@pytest.mark.parametrize(("quantise", "bits"), [("int8", 8), ("int4", 4)])
def test_the_decoder_and_its_head_are_rounded_and_nothing_else(
    folder: Path, quantise: Literal["int8", "int4"], bits: int
) -> None:
    full = load_model(str(folder), device="cpu", dtype="float32")
    model = load_model(str(folder), device="cpu", dtype="float32", quantise=quantise)
    module: Any = model.module
    low = {name: part for name, part in module.named_modules() if isinstance(part, LowBitLinear)}
    head = low.pop("lm_head")
    assert head.weights.bits == 8
    assert len(low) == 2 * 7
    assert {part.weights.bits for part in low.values()} == {bits}
    assert all("language_model.layers" in name for name in low)
    assert model.encoder_digest() == full.encoder_digest()
    assert model.digest() != full.digest()
    assert isinstance(module.get_input_embeddings(), nn.Embedding)
    assert torch.equal(module.get_input_embeddings().weight, full.module.get_input_embeddings().weight)
    assert (full.quantised, model.quantised) == (None, quantise)
    assert full.precision == Engine(full).card.precision == "float32"
    assert model.precision == Engine(model).card.precision == f"float32 with {quantise} weights"


def test_unknown_bits_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match="one of int8, int8-dynamic, int4, fp8, not 'int3'"):
        load_model("demo", quantise="int3")  # type: ignore[arg-type]
    for command in (("ask", str(PICTURE), "what?"), ("serve",), ("eval", "signs"), ("verify-bits",)):
        assert exit_status(*command, "--quantise", "int3") != 0
        told = capsys.readouterr().err
        assert "int3" in told
        assert re.search(r"(?s)int8.*int4", told)


def test_where_nothing_multiplies_with_them_they_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = json.loads((folder / "config.json").read_text())
    with pytest.raises(SettingsError, match="fp8 weights are multiplied with on CUDA alone, not on a CPU"):
        load_model(str(folder), device="cpu", quantise="fp8")
    with pytest.raises(SettingsError, match="int4 weights go with dtype float32 or bfloat16 on a CPU"):
        load_model(str(folder), device="cpu", dtype="float16", quantise="int4")
    for quantise in set(get_args(Quantise)) - {"int8-dynamic"}:
        assert chosen_packing(folder, values, quantise, "float16", torch.device("cuda")) is None
    with pytest.raises(SettingsError, match="int8-dynamic is for CPUs alone"):
        chosen_packing(folder, values, "int8-dynamic", "bfloat16", torch.device("cuda"))
    monkeypatch.setattr("secondlook.engine.models.quantisation_config.multiplies_bytes", lambda: False)
    with pytest.raises(SettingsError, match=r"VNNI or AMX.*take int8"):
        load_model(str(folder), device="cpu", quantise="int8-dynamic")


@pytest.mark.skipif(not multiplies_bytes(), reason="this processor has neither VNNI nor AMX")
def test_prompts_are_rounded_where_that_is_asked_for(folder: Path) -> None:
    """And steps are not: they have the weights of int8 alone."""
    found = {}
    for quantise in get_args(Literal[None, "int8", "int8-dynamic"]):
        model = load_model(str(folder), device="cpu", dtype="float32", quantise=quantise)
        assert model.quantised == quantise
        module: Any = model.module
        layer = module.get_decoder().layers[0].mlp.up_proj
        values = torch.randn(40, layer.in_features, generator=torch.Generator().manual_seed(3))
        with torch.inference_mode():
            found[quantise] = layer(values), layer(values[:4])
    (full, _), (low, step), (dynamic, same) = found.values()
    assert torch.equal(step, same)
    assert not torch.equal(low, dynamic)
    assert (dynamic - full).norm() < 0.02 * full.norm()


def test_layers_that_no_groups_fit_are_told(folder: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "model", Variant(layers=2))
    values = json.loads((other / "config.json").read_text())["text_config"]
    from safetensors.torch import load_file, save_file

    tensors = {
        name: tensor[:, :72] if "mlp.down_proj" in name and "vision" not in name else tensor
        for name, tensor in load_file(other / "model.safetensors").items()
    }
    tensors = {
        name: tensor[:72] if re.search(r"language.*mlp\.(gate|up)_proj", name) else tensor
        for name, tensor in tensors.items()
    }
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    edit_json(other / "config.json", text_config={**values, "intermediate_size": 72})
    with pytest.raises(UnsupportedModelError, match=r"int4: .*mlp\.down_proj: .*groups of 32"):
        load_model(str(other), device="cpu", quantise="int4")
    load_model(str(other), device="cpu", quantise="int8")


def test_an_answer_tells_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ask, "configure_logging", lambda *_settings: None)
    question = ("ask", str(PICTURE), "What is on the sign?", "--model", str(folder), "--dtype", "bfloat16")
    assert exit_status(*question, "--json") == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "bfloat16"
    assert exit_status(*question, "--quantise", "int8", "--json") == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "bfloat16 with int8 weights"
    assert exit_status(*question, "--quantise", "int8") == 0
    assert capsys.readouterr().out.rstrip().endswith(" with int8 weights")


def test_a_policy_of_full_precision_is_not_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from engine.calibrated import a_policy_file
    from secondlook.engine.method.policy_file import write_policy

    monkeypatch.setattr(ask, "configure_logging", lambda *_settings: None)
    full = load_model(str(folder), device="cpu", dtype="float32")
    write_policy(a_policy_file(weights=full.digest()), tmp_path / "policy.json")
    question = ("ask", str(PICTURE), "What is it?", "--model", str(folder), "--device", "cpu")
    policy = ("--policy", str(tmp_path / "policy.json"))
    assert exit_status(*question, *policy) == 0
    capsys.readouterr()
    assert exit_status(*question, *policy, "--quantise", "int8") == 1
    assert "calibrated on demo in float32, and not on" in one_line(capsys)
