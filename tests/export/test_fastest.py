"""`--vision auto`: measured once, remembered, and never what the gate would not admit."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.checkpoints import Variant, write_checkpoint
from export.support import Exported, small_model
from secondlook.engine import encoders
from secondlook.engine.encoders import EncoderChoice, fastest, with_vision
from secondlook.engine.encoders.onnx_runtime import OnnxVisionEncoder
from secondlook.engine.encoders.openvino import OpenVinoVisionEncoder
from secondlook.engine.errors import EncoderMismatchError, InvalidEncoderError, RuntimeMissingError
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.checkpoint import load_model

pytestmark = pytest.mark.usefixtures("one_thread")

RUNTIMES = {"onnx": OnnxVisionEncoder, "openvino": OpenVinoVisionEncoder}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SECONDLOOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vision"


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "secondlook.engine.encoders.fastest")
    return caplog


def auto(exported: Exported) -> VisionLanguageModel:
    return with_vision(exported.model, EncoderChoice("auto", exported.folder))


def slowed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have these runtimes take far longer than any noise."""
    for name in names:
        change(monkeypatch, name, lambda features: time.sleep(0.2) or features)


def change(monkeypatch: pytest.MonkeyPatch, name: str, work: Callable[[Tensor], Tensor]) -> None:
    kind, call = RUNTIMES[name], RUNTIMES[name].__call__
    monkeypatch.setattr(kind, "__call__", lambda self, *given: work(call(self, *given)))


def slow_torch(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    module = exported.model.vision_module()
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda *given: time.sleep(0.2) or forward(*given))


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_fastest_encodes_and_the_log_says_what_was_measured(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture, name: str
) -> None:
    slow_torch(exported, monkeypatch)
    slowed(monkeypatch, *(RUNTIMES.keys() - {name}))
    assert isinstance(auto(exported)._encoder, RUNTIMES[name])  # type: ignore[attr-defined]
    (line,) = (one for one in told.messages if "a picture takes" in one)
    assert line.startswith(f"{name} encodes; ")
    for each in ("torch", *RUNTIMES):
        assert f"{each} " in line


def test_torch_stays_where_it_is_the_fastest(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    slowed(monkeypatch, *RUNTIMES)
    assert auto(exported) is exported.model


def test_what_was_measured_is_remembered_for_this_model_and_machine(
    exported: Exported,
    monkeypatch: pytest.MonkeyPatch,
    told: pytest.LogCaptureFixture,
    cache: Path,
) -> None:
    slow_torch(exported, monkeypatch)
    with monkeypatch.context() as patched:
        slowed(patched, "onnx")
        auto(exported)
    (file,) = cache.iterdir()
    kept = json.loads(file.read_text())
    assert kept["fastest"] == "openvino"
    assert kept["milliseconds"].keys() == {"torch", *RUNTIMES}
    assert kept["milliseconds"]["openvino"] == min(kept["milliseconds"].values())

    monkeypatch.setattr(fastest, "_measured", None)  # would be called, if it were measured again
    told.clear()
    with monkeypatch.context() as patched:
        slowed(patched, "openvino")
        assert isinstance(auto(exported)._encoder, OpenVinoVisionEncoder)  # type: ignore[attr-defined]
    assert f"as measured before; to measure again, delete {file}" in told.text


def test_a_winner_that_cannot_be_loaded_any_more_is_measured_anew(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture, cache: Path
) -> None:
    slow_torch(exported, monkeypatch)
    with monkeypatch.context() as patched:
        slowed(patched, "onnx")
        auto(exported)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeMissingError("it is there, but does not load")

    monkeypatch.setattr(OpenVinoVisionEncoder, "__init__", broken)
    assert isinstance(auto(exported)._encoder, OnnxVisionEncoder)  # type: ignore[attr-defined]
    assert "passed over openvino: it is there, but does not load" in told.text
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())["fastest"] == "onnx"


@pytest.mark.parametrize("what", ["processor", "threads", "version"])
def test_another_machine_is_measured_anew(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, cache: Path, what: str
) -> None:
    auto(exported)
    if what == "processor":
        monkeypatch.setattr(fastest, "hardware_name", lambda _device: "Another CPU")
    elif what == "version":
        monkeypatch.setattr(fastest, "installed_version", lambda _name: "99.0")
    else:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    auto(exported)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("content", ["", "{}", '{"fastest": "jax"}', "\0"])
def test_a_damaged_memory_is_measured_anew(exported: Exported, cache: Path, content: str) -> None:
    auto(exported)
    (file,) = cache.iterdir()
    good = json.loads(file.read_text())
    file.write_text(content)
    auto(exported)
    assert json.loads(file.read_text()).keys() == good.keys()


def test_what_cannot_be_remembered_is_used_all_the_same(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture, cache: Path
) -> None:
    slowed(monkeypatch, "onnx", "openvino")
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert auto(exported) is exported.model
    assert "what was measured is forgotten" in told.text


def test_a_wrong_encoder_is_not_admitted_however_fast(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    slow_torch(exported, monkeypatch)
    change(monkeypatch, "onnx", lambda features: features * 1.0001)
    change(monkeypatch, "openvino", lambda features: features * float("nan"))
    assert auto(exported) is exported.model
    assert "passed over onnx: its relative error is 1.0e-04, more than 1e-05" in told.text
    assert "passed over openvino: its relative error is inf" in told.text


def test_what_is_not_installed_is_passed_over(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    slow_torch(exported, monkeypatch)
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert isinstance(auto(exported)._encoder, OnnxVisionEncoder)  # type: ignore[attr-defined]
    assert "passed over openvino: OpenVINO cannot be loaded" in told.text
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(fastest, "installed_version", lambda _name: None)  # nor found by its name
    assert auto(exported) is exported.model


def test_a_model_in_bfloat16_is_measured_by_what_bfloat16_allows(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    model = load_model(str(write_checkpoint(tmp_path / "m", Variant(seed=3))), dtype="bfloat16", device="cpu")
    with_vision(model, EncoderChoice("auto", exported.folder))
    (file,) = cache.iterdir()
    errors = json.loads(file.read_text())["relative_error"]
    assert errors["onnx"] == 0  # the float32 graph, which passed the gate, is what the others are beside
    assert all(1e-5 < errors[name] <= 2e-2 for name in ("torch", "openvino") if errors[name])
    assert errors["torch"] > 0


def test_a_folder_that_does_not_fit_is_refused_not_passed_over(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(EncoderMismatchError, match="does not fit the model"):
        with_vision(small_model(tmp_path, seed=4), EncoderChoice("auto", exported.folder))
    with pytest.raises(InvalidEncoderError, match="is no exported encoder"):
        with_vision(exported.model, EncoderChoice("auto", tmp_path))


@pytest.mark.parametrize(
    ("device", "others"), [("cpu", ["onnx", "openvino"]), ("cuda", ["onnx", "tensorrt"])]
)
def test_on_a_gpu_tensorrt_is_asked_in_place_of_openvino(
    monkeypatch: pytest.MonkeyPatch, device: str, others: list[str]
) -> None:
    monkeypatch.setattr(encoders, "with_fastest", lambda _model, _folder, candidates: list(candidates))
    model: Any = SimpleNamespace(device=torch.device(device))
    assert with_vision(model, EncoderChoice("auto", Path("x"))) == others
