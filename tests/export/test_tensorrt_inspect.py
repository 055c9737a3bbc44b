"""What is told of an engine: from its manifest, and from the inspector's JSON of TensorRT 10 and 11."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.tensorrt_stand_in import CPU, StandIn, use, write_graph
from secondlook.engine.encoders.engine_store import UntrustedEngineError
from secondlook.engine.errors import EncoderError
from secondlook.export.tensorrt.cli import tell_engine
from secondlook.export.tensorrt.engines import EngineRequest, make_engine
from secondlook.export.tensorrt.inspect import (
    Layer,
    attention_of,
    inspect_engine,
    layers_of,
    layers_text,
    manifest_text,
)


def layer(
    name: str, kind: str = "kgen", new: bool = True, origin: str = "", precision: str = "Half"
) -> dict[str, object]:
    types = (
        {"DataType": precision, "Format": "Row major"} if new else {"Format/Datatype": f"{precision}(1,2,3)"}
    )
    return {
        "Name": name,
        "LayerType": kind,
        "Outputs": [{"Name": "out", "Location": "Device", "Dimensions": [1, 2, 3], **types}],
        "TacticName": f"tactic of {name}",
        "Metadata": origin,
    }


@pytest.mark.parametrize("new", [True, False])
def test_layers_of_both_generations_are_read(new: bool) -> None:
    found = layers_of(
        json.dumps({"Layers": [layer("gemm_1", "gemm", new), layer("norm", new=new, precision="Float")]})
    )
    assert found == (
        Layer("gemm_1", "gemm", "Half", "tactic of gemm_1"),
        Layer("norm", "kgen", "Float", "tactic of norm"),
    )


def test_without_details_a_layer_is_a_name() -> None:
    assert layers_of('{"Layers": ["a", "b"], "Bindings": []}') == (Layer("a"), Layer("b"))


@pytest.mark.parametrize("text", ["", "not JSON", "[]", "{}", '{"Layers": [{"LayerType": "gemm"}]}'])
def test_an_answer_that_is_not_understood_is_an_error(text: str) -> None:
    with pytest.raises(EncoderError, match="is not understood"):
        layers_of(text)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([layer("_gemm_mha_v2_myl0_7", origin="[ONNX Layer: /attn/Softmax]")], "fused"),
        ([layer("__mye8037_gemm_mha_v2")], "fused"),
        ([layer("_gemm_mha_v2_myl0_7"), layer("x", origin="[ONNX Layer: /attn/Softmax]")], "partly fused"),
        ([layer("x", origin="[ONNX Layer: /attn/Softmax]"), layer("gemm", "gemm")], "not fused"),
        ([layer("comhare_gemm")], "not fused"),
        (["{ForeignNode[/tower/Cast.../projector/Add]}"], "unknown"),
        (["_gemm_mha_v2_myl0_7"], "fused"),
    ],
)
def test_whether_attention_was_fused(layers: list[object], expected: str) -> None:
    assert attention_of(layers_of(json.dumps({"Layers": layers}))) == expected


def test_layers_are_counted_by_precision() -> None:
    layers = layers_of(
        json.dumps({"Layers": [layer("a"), layer("_gemm_mha_v2"), layer("c", precision="Float")]})
    )
    assert layers_text(layers).splitlines() == [
        "layers     3: 2 Half, 1 Float",
        "attention  fused (1 fused kernels)",
    ]


def test_inspecting_prints_the_manifest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECONDLOOK_CACHE", str(tmp_path / "cache"))
    use(StandIn(), monkeypatch)
    write_graph(tmp_path / "onnx")
    out = tmp_path / "engine"
    cached = make_engine(EngineRequest(tmp_path / "onnx", output=out), CPU)
    assert inspect_engine(cached, CPU) == (Layer("a"), Layer("b"))
    with pytest.raises(UntrustedEngineError):
        tell_engine(out, "cuda", trusted=False)
    told = capsys.readouterr().out
    assert told == manifest_text(out) + "\n"
    for part in (
        "NVIDIA L4 (compute capability 8.9), driver 580.65.06",
        "tensorrt   11.4.0.106",
        "1:2:8",
    ):
        assert part in told
    tell_engine(out, "cuda", trusted=True)
    assert capsys.readouterr().out.endswith("2: 2 not told\nattention  unknown (0 fused kernels)\n")
