"""What a build asks of TensorRT, and every refusal. That the names exist, test_tensorrt_api shows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, call

import pytest

from export.plan_support import INTERFACE, SIDE
from secondlook.engine.encoders.plan_manifest import BuildOptions
from secondlook.engine.encoders.profiles import BatchProfile
from secondlook.export.building import BuiltPlan, build_plan
from secondlook.export.errors import PlanBuildError


@pytest.fixture
def trt() -> MagicMock:
    """A TensorRT that takes everything."""
    module = MagicMock()
    module.ILogger, module.__version__ = type("ILogger", (), {}), "11.4.0"
    module.HardwareCompatibilityLevel = SimpleNamespace(AMPERE_PLUS="ampere and later")
    module.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 1
    config, builder = config_of(module), module.Builder.return_value
    config.add_optimization_profile.return_value = 0
    config.get_timing_cache.return_value.serialize.return_value = b"learnt more"
    builder.build_serialized_network.return_value = b"a plan"
    return module


def config_of(trt: MagicMock) -> MagicMock:
    found: MagicMock = trt.Builder.return_value.create_builder_config.return_value
    return found


def built(trt: MagicMock, folder: Path, **options: object) -> BuiltPlan:
    profiles = (BatchProfile(1, 2, 8), BatchProfile(16, 16, 32))
    return build_plan(
        trt,
        folder / "encoder.onnx",
        INTERFACE,
        profiles,
        BuildOptions(**options),
        b"learnt",  # type: ignore[arg-type]
    )


def test_the_plan_is_strongly_typed_from_the_file_and_for_each_profile(
    trt: MagicMock, tmp_path: Path
) -> None:
    made = built(trt, tmp_path)
    assert (bytes(made.plan), bytes(made.timing)) == (b"a plan", b"learnt more")
    builder, config = trt.Builder.return_value, config_of(trt)
    builder.create_network.assert_called_once_with(1 << 1)
    trt.OnnxParser.return_value.parse_from_file.assert_called_once_with(str(tmp_path / "encoder.onnx"))
    config.create_timing_cache.assert_called_once_with(b"learnt")
    config.clear_flag.assert_called_once_with(trt.BuilderFlag.TF32)
    config.set_flag.assert_not_called()
    config.set_memory_pool_limit.assert_not_called()
    assert builder.create_optimization_profile.return_value.set_shape.call_args_list == [
        call("pixel_values", *((size, 3, SIDE, SIDE) for size in three))
        for three in ((1, 2, 8), (16, 16, 32))
    ]


def test_options_are_told_to_tensorrt(trt: MagicMock, tmp_path: Path) -> None:
    built(
        trt,
        tmp_path,
        workspace_mb=512,
        hardware_compatibility="ampere_plus",
        version_compatible=True,
        detailed=True,
        tf32=True,
    )
    config = config_of(trt)
    config.clear_flag.assert_not_called()
    config.set_flag.assert_called_once_with(trt.BuilderFlag.VERSION_COMPATIBLE)
    config.set_memory_pool_limit.assert_called_once_with(trt.MemoryPoolType.WORKSPACE, 512 * 2**20)
    assert config.hardware_compatibility_level == "ampere and later"
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED


def test_a_timing_cache_of_another_gpu_is_begun_anew(
    trt: MagicMock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config_of(trt).set_timing_cache.side_effect = [False, True]
    built(trt, tmp_path)
    assert config_of(trt).create_timing_cache.call_args_list == [call(b"learnt"), call(b"")]
    assert "the timing cache is of another GPU" in caplog.text


def test_what_tensorrt_refuses_is_one_error(trt: MagicMock, tmp_path: Path) -> None:
    parser, builder = trt.OnnxParser.return_value, trt.Builder.return_value
    parser.num_errors = 1
    parser.get_error.return_value = SimpleNamespace(
        desc=lambda: "no such operator\n", node_name=lambda: "/blocks/3", node_operator=lambda: "Swirl"
    )
    refusals = [
        (builder.build_serialized_network, None, "could not build the plan: no reason given"),
        (config_of(trt).add_optimization_profile, -1, "refuses the profile 1:2:8"),
        (
            parser.parse_from_file,
            False,
            r"does not take .*encoder\.onnx: Swirl '/blocks/3': no such operator$",
        ),
    ]
    for called, result, said in refusals:
        called.return_value = result
        with pytest.raises(PlanBuildError, match=said):
            built(trt, tmp_path)
    trt.Builder.side_effect = TypeError("factory function returned nullptr")
    with pytest.raises(PlanBuildError, match="TensorRT cannot use the GPU: factory"):
        built(trt, tmp_path)


def test_what_only_some_versions_have_is_asked_for_before_it_is_used(trt: MagicMock, tmp_path: Path) -> None:
    with pytest.raises(
        PlanBuildError, match=r"TensorRT 11\.4\.0 has no hardware .* 'same_compute_capability'"
    ):
        built(trt, tmp_path, hardware_compatibility="same_compute_capability")
