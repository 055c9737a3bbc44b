"""The encoder around a plan: batches, buffers, dtypes, refusals. What TensorRT computes, a GPU must show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from export.plan_support import CPU, INTERFACE, L4, SIDE, TOKENS, WIDTH, PlanOnCpu, features_of, write_graph
from secondlook.edge.errors import SettingsError
from secondlook.engine.encoders import tensorrt
from secondlook.engine.encoders.manifest import GraphDType
from secondlook.engine.encoders.plan_manifest import BuildOptions, PlanManifest
from secondlook.engine.encoders.profiles import BatchProfile, Run, parse_profiles, runs_of
from secondlook.engine.encoders.tensorrt import LoadedPlan, TensorRtVisionEncoder, deserialize
from secondlook.engine.errors import EncoderError, InvalidEncoderError
from secondlook.engine.models.vision import TensorType


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "capture", lambda work, _pool: work)
    monkeypatch.setattr(tensorrt, "current_stream", lambda _device: 77)


def a_manifest(folder: Path, *profiles: str, dtype: GraphDType = "float32", **options: Any) -> PlanManifest:
    return PlanManifest(
        write_graph(folder, dtype),
        "11.4.0.106",
        L4,
        parse_profiles(profiles or ("1:2:8",)),
        BuildOptions(**options),
        {"encoder.plan": "0"},
    )


def opened(manifest: PlanManifest, plan: PlanOnCpu | None = None) -> tuple[TensorRtVisionEncoder, PlanOnCpu]:
    plan = plan or PlanOnCpu(manifest.profiles, manifest.encoder.dtype)
    whole: Any = (plan, None, SimpleNamespace(last_error="TensorRT's reason"))
    graph = manifest.encoder.graphs["encoder"]
    return TensorRtVisionEncoder(LoadedPlan(*whole), graph, manifest.profiles, CPU), plan


def pictures(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, 3, SIDE, SIDE, generator=generator).to(dtype)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 21])
def test_features_are_those_of_each_picture_whatever_the_batch(tmp_path: Path, count: int) -> None:
    encoder, _ = opened(a_manifest(tmp_path))
    first, second = pictures(count), pictures(count) + 1
    before = encoder(first)
    assert encoder(second).equal(features_of(second))
    assert before.equal(features_of(first))  # not overwritten by the second call
    assert before.shape == (count, TOKENS, WIDTH)


def test_more_pictures_than_the_largest_profile_are_several_runs(tmp_path: Path) -> None:
    encoder, plan = opened(a_manifest(tmp_path, "1:1:2", "4:4:6"))
    expected = {1: [(1, 0)], 2: [(2, 0)], 3: [(2, 0), (1, 0)], 5: [(5, 1)], 13: [(6, 1), (6, 1), (1, 0)]}
    for count, runs in expected.items():
        plan.runs.clear()
        assert encoder(pictures(count)).equal(features_of(pictures(count)))
        assert plan.runs == runs


@pytest.mark.parametrize("asked", [torch.float32, torch.float16, torch.bfloat16])
def test_pixels_of_another_dtype_are_converted_and_features_to_theirs(
    tmp_path: Path, asked: torch.dtype
) -> None:
    encoder, _ = opened(a_manifest(tmp_path, dtype="float16"))
    found = encoder(pictures(3, asked))
    assert found.dtype == asked
    assert found.equal(features_of(pictures(3, asked).half()).to(asked))


def test_pictures_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"pixel_values \[batch, 3, 4, 4\], not \[1, 3, 8, 8\]"):
        opened(a_manifest(tmp_path))[0](torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("execute_async_v3", "could not run"),
        ("set_input_shape", r"refuses the shape \[2, 3, 4, 4\] of 'pixel_values'"),
        ("set_tensor_address", "refuses the address of 'pixel_values'"),
        ("create_execution_context", "cannot make a context"),
        ("set_optimization_profile_async", "refuses its profile 0"),
    ],
)
def test_what_tensorrt_refuses_is_one_error(tmp_path: Path, call: str, said: str) -> None:
    manifest = a_manifest(tmp_path)
    plan = PlanOnCpu(manifest.profiles)
    plan.fails.add(call)
    with pytest.raises(EncoderError, match=f"{said}.*: TensorRT's reason"):
        opened(manifest, plan)[0](pictures(2))


def test_a_failure_while_a_graph_is_captured_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_work: object, _pool: object) -> None:
        raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(tensorrt, "capture", fails)
    with pytest.raises(EncoderError, match="could not be captured in a CUDA graph"):
        opened(a_manifest(tmp_path))


def test_a_plan_with_other_tensors_than_its_manifest_is_refused(tmp_path: Path) -> None:
    manifest = a_manifest(tmp_path)
    plan = PlanOnCpu(manifest.profiles)
    graph = replace(INTERFACE, outputs=(TensorType("features", ("batch", TOKENS, 5)),))
    wider = replace(manifest, encoder=replace(manifest.encoder, graphs={"encoder": graph}))
    with pytest.raises(InvalidEncoderError, match=r"has the tensors .*3, 2\).* its manifest says .*3, 5\)"):
        opened(wider, plan)
    fewer = replace(manifest, profiles=(BatchProfile(1, 2, 4),))
    with pytest.raises(InvalidEncoderError, match=r"\(8, 3, 4, 4\).* its manifest says .*\(4, 3, 4, 4\)"):
        opened(fewer, plan)


@pytest.mark.parametrize("compatible", [False, True])
def test_version_compatible_plans_alone_may_bring_code_of_the_host(tmp_path: Path, compatible: bool) -> None:
    runtime = SimpleNamespace(engine_host_code_allowed=None, deserialize_cuda_engine=lambda plan: plan)
    logger = type("ILogger", (), {})
    trt: Any = SimpleNamespace(__version__="11", ILogger=logger, Runtime=lambda _logger: runtime)
    manifest = a_manifest(tmp_path, version_compatible=compatible)
    whole: Any = deserialize(trt, manifest, b"plan").plan
    assert (whole, runtime.engine_host_code_allowed) == (b"plan", compatible)
    runtime.deserialize_cuda_engine = lambda _plan: None
    with pytest.raises(InvalidEncoderError, match="does not take the plan of 'demo': it gave no reason"):
        deserialize(trt, manifest, b"plan")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1:2:8"], (BatchProfile(1, 2, 8),)),
        (["1:1:1", " 4:8:16 "], (BatchProfile(1, 1, 1), BatchProfile(4, 8, 16))),
    ],
)
def test_profiles_are_read(texts: list[str], expected: tuple[BatchProfile, ...]) -> None:
    assert parse_profiles(texts) == expected
    assert [str(profile) for profile in expected] == [text.strip() for text in texts]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "at least one profile"),
        (["8"], "MIN:OPT:MAX, such as 1:2:8, not '8'"),
        (["1:2:-8"], "not '1:2:-8'"),
        (["0:1:2"], "from at least 1, .* not 0:1:2"),
        (["1:8:2"], "MIN <= OPT <= MAX, not 1:8:2"),
        (["1:2:8", "1:2:8"], "1:2:8 is given twice"),
    ],
)
def test_profiles_that_cannot_be_are_refused(texts: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse_profiles(texts)


def test_runs_are_as_few_as_can_be_and_take_the_profile_tuned_nearest() -> None:
    small, large = BatchProfile(1, 2, 8), BatchProfile(4, 8, 8)
    assert runs_of(3, (small, large)) == (Run(3, 0),)
    assert runs_of(7, (small, large)) == (Run(7, 1),)
    assert runs_of(9, (BatchProfile(4, 4, 8),)) == (Run(5, 0), Run(4, 0))  # not 8 and 1
    assert runs_of(0, (small,)) == ()
    with pytest.raises(EncoderError, match=r"batch of 3: it was built for 4:4:8; .*--batch 1:2:3"):
        runs_of(3, (BatchProfile(4, 4, 8),))
