"""What is told of a plan: from its manifest, and from the inspector's JSON of TensorRT 10 and 11."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.plan_support import CPU, Installed, write_graph
from secondlook.engine.encoders.plan_store import UntrustedPlanError
from secondlook.engine.errors import EncoderError
from secondlook.export.inspecting import (
    Layer,
    attention_of,
    inspect_plan,
    layers_of,
    layers_text,
    plan_text,
)
from secondlook.export.plans import PlanRequest, make_plan


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


def test_a_plan_is_described_from_its_manifest_and_executed_only_when_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDLOOK_CACHE", str(tmp_path / "cache"))
    trt = Installed(monkeypatch)
    write_graph(tmp_path / "onnx")
    make_plan(PlanRequest(tmp_path / "onnx", output=tmp_path / "plan"), CPU)
    told = plan_text(tmp_path / "plan")
    for part in (
        "NVIDIA L4 (compute capability 8.9), driver 580.65.06",
        "tensorrt   11.4.0.106",
        "batches    1:2:8",
        "file       encoder.plan SHA-256 ",
    ):
        assert part in told
    with pytest.raises(UntrustedPlanError):
        inspect_plan(tmp_path / "plan", CPU)
    assert trt.opened == []
