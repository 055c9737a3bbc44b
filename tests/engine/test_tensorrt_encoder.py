"""Running engines: batches, buffers, graphs, and every refusal, on a stand-in for TensorRT. GPUs: the end."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
import torch

from export.tensorrt_stand_in import (
    CPU,
    L4,
    SIDE,
    STREAM,
    TOKENS,
    WIDTH,
    StandIn,
    features_of,
    use,
    write_graph,
)
from secondlook.engine.encoders.engine_manifest import BuildOptions, Machine, read_engine_manifest
from secondlook.engine.encoders.engine_store import (
    RebuildNeededError,
    UntrustedEngineError,
    check_runs_here,
)
from secondlook.engine.encoders.manifest import GraphDType
from secondlook.engine.encoders.profiles import BatchProfile
from secondlook.engine.encoders.tensorrt import TensorRtVisionEncoder, open_engine
from secondlook.engine.errors import EncoderError, InvalidEncoderError, RuntimeMissingError
from secondlook.export.tensorrt.engines import EngineRequest, make_engine, open_or_rebuild

A100 = Machine("NVIDIA A100-SXM4-80GB", "8.0", "580.65.06")
JETSON = Machine("Orin", "8.7", "540.4.0")


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """The stand-in as the installed TensorRT of a machine with an L4, and an empty cache."""
    monkeypatch.setenv("SECONDLOOK_CACHE", str(tmp_path / "cache"))
    module = StandIn()
    use(module, monkeypatch)
    return module


def built(folder: Path, *profiles: str, dtype: GraphDType = "float32", **options: object) -> Path:
    """An engine in the cache."""
    write_graph(folder, dtype)
    found = tuple(BatchProfile(*map(int, text.split(":"))) for text in profiles or ("1:2:8",))
    return make_engine(EngineRequest(folder, found, BuildOptions(**options)), CPU)  # type: ignore[arg-type]


def pictures(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, 3, SIDE, SIDE, generator=generator).to(dtype)


def batches(trt: StandIn) -> list[tuple[int, int]]:
    """Pictures and profile of each execution since the last look."""
    found = [call[1:3] for call in trt.calls if call[0] == "execute_async_v3"]
    trt.calls.clear()
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 21])
def test_features_are_those_of_each_picture_whatever_the_batch(
    trt: StandIn, tmp_path: Path, count: int
) -> None:
    encoder = open_engine(built(tmp_path / "onnx"), CPU)
    first, second = pictures(count), pictures(count) + 1
    before = encoder(first)
    assert encoder(second).equal(features_of(second))
    assert before.equal(features_of(first))  # not overwritten by the second call
    assert before.shape == (count, TOKENS, WIDTH)


def test_more_pictures_than_the_largest_profile_are_several_runs(trt: StandIn, tmp_path: Path) -> None:
    encoder = open_engine(built(tmp_path / "onnx", "1:1:2", "4:4:6"), CPU)
    batches(trt)
    expected = {1: [(1, 0)], 2: [(2, 0)], 3: [(2, 0), (1, 0)], 5: [(5, 1)], 13: [(6, 1), (6, 1), (1, 0)]}
    for count, runs in expected.items():
        assert encoder(pictures(count)).equal(features_of(pictures(count)))
        assert batches(trt) == runs


def test_a_batch_that_the_profiles_cannot_make_up_is_named(trt: StandIn, tmp_path: Path) -> None:
    encoder = open_engine(built(tmp_path / "onnx", "4:4:8"), CPU)
    assert encoder(pictures(9)).equal(features_of(pictures(9)))  # 5 and 4, not 8 and 1
    with pytest.raises(EncoderError, match=r"batch of 3: it was built for 4:4:8; .*--batch 1:2:3"):
        encoder(pictures(3))


def test_one_and_two_pictures_have_contexts_of_their_own_whose_shapes_never_change(
    trt: StandIn, tmp_path: Path
) -> None:
    encoder = open_engine(built(tmp_path / "onnx"), CPU)
    assert trt.names().count("create_execution_context") == 3
    shapes = [call[1][0] for call in trt.calls if call[0] == "set_input_shape"]
    assert shapes == [2, 1]
    trt.calls.clear()
    encoder(pictures(2))
    encoder(pictures(1))
    assert trt.calls == [("execute_async_v3", 2, 0, STREAM), ("execute_async_v3", 1, 0, STREAM)]


def test_addresses_are_told_once(trt: StandIn, tmp_path: Path) -> None:
    encoder = open_engine(built(tmp_path / "onnx"), CPU)
    trt.calls.clear()
    encoder(pictures(3))
    assert trt.names() == ["set_input_shape", "execute_async_v3"]


@pytest.mark.parametrize("asked", [torch.float32, torch.float16, torch.bfloat16])
def test_pixels_of_another_dtype_are_converted_and_features_to_theirs(
    trt: StandIn, tmp_path: Path, asked: torch.dtype
) -> None:
    encoder = open_engine(built(tmp_path / "onnx", dtype="float16"), CPU)
    found = encoder(pictures(3, asked))
    assert found.dtype == asked
    assert found.equal(features_of(pictures(3, asked).half()).to(asked))


def test_pictures_of_another_size_are_refused(trt: StandIn, tmp_path: Path) -> None:
    encoder = open_engine(built(tmp_path / "onnx"), CPU)
    with pytest.raises(EncoderError, match=r"pictures \[n, 3, 4, 4\], not \[1, 3, 8, 8\]"):
        encoder(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("Runtime", "TensorRT cannot use the GPU: pybind11"),
        ("execute_async_v3", "could not run"),
        ("set_input_shape", "refuses a batch of 2"),
        ("set_tensor_address", "refuses the address of 'pixel_values'"),
        ("create_execution_context", "cannot make a context"),
        ("set_optimization_profile_async", "refuses its profile 0"),
        ("deserialize_cuda_engine", "TensorRT 11.4.0.106 does not take the engine .*of another platform"),
    ],
)
def test_what_tensorrt_refuses_is_one_error(trt: StandIn, tmp_path: Path, call: str, said: str) -> None:
    folder = built(tmp_path / "onnx")
    trt.fails.add(call)
    with pytest.raises(EncoderError, match=said):
        open_engine(folder, CPU)(pictures(2))


def test_an_engine_with_other_tensors_than_its_manifest_is_refused(trt: StandIn, tmp_path: Path) -> None:
    folder = built(tmp_path / "onnx")
    manifest = read_engine_manifest(folder)
    wider = dataclasses.replace(manifest, encoder=dataclasses.replace(manifest.encoder, width=5))
    wider.write(folder)
    with pytest.raises(InvalidEncoderError, match=r"has the tensors .*3, 2\).* its manifest says .*3, 5\)"):
        open_engine(folder, CPU)
    dataclasses.replace(manifest, profiles=(BatchProfile(1, 2, 4),)).write(folder)
    with pytest.raises(
        InvalidEncoderError, match=r"batches of \[\(1, 2, 8\)\], its manifest says \[\(1, 2, 4\)\]"
    ):
        open_engine(folder, CPU)


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "manifest"])
def test_a_damaged_engine_is_never_given_to_tensorrt(trt: StandIn, tmp_path: Path, damage: str) -> None:
    folder = built(tmp_path / "onnx")
    plan, manifest = folder / "encoder.engine", folder / "engine.json"
    if damage == "truncated":
        plan.write_bytes(plan.read_bytes()[:-1])
    elif damage == "changed":
        plan.write_bytes(plan.read_bytes().replace(b"2", b"3", 1))
    elif damage == "missing":
        plan.unlink()
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "more": 1}))
    with pytest.raises(
        InvalidEncoderError, match=r"truncated or not what was built|cannot be read|no engine's man"
    ):
        open_engine(folder, CPU)
    assert "deserialize_cuda_engine" not in trt.names()


def test_an_engine_of_another_gpu_names_both_sides_and_the_command(
    trt: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, graph = tmp_path / "onnx" / "l4", tmp_path / "onnx"
    write_graph(graph)
    (graph / "aside").mkdir(mode=0)  # may not be looked into
    make_engine(EngineRequest(graph, (BatchProfile(1, 1, 4),), output=folder), CPU)
    use(trt, monkeypatch, A100)
    said = (
        r"built on NVIDIA L4 \(compute capability 8\.9\), "
        r"here is NVIDIA A100-SXM4-80GB \(compute capability 8\.0\); "
        rf"rebuild it: secondlook build {graph} --output {folder} --batch 1:1:4"
    )
    with pytest.raises(RebuildNeededError, match=said) as caught:
        open_engine(folder, CPU, trusted=True)
    assert caught.value.graph == graph
    assert "deserialize_cuda_engine" not in trt.names()


def test_an_engine_of_another_tensorrt_names_both_sides(
    trt: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = built(tmp_path / "onnx")
    use(StandIn("10.16.1.11"), monkeypatch)
    # Into the cache's own folder, whose name tells what is in it, nothing else is to be built.
    said = r"TensorRT 11\.4\.0\.106, here is 10\.16\.1\.11; .*: secondlook build ONNX_FOLDER --batch 1:2:8$"
    with pytest.raises(RebuildNeededError, match=said):
        open_engine(folder, CPU)


@pytest.mark.parametrize(
    ("options", "machine", "version", "runs"),
    [
        ({}, L4, "11.4.0.106", True),
        ({}, dataclasses.replace(L4, driver="999.1"), "11.4.0.106", True),
        ({}, dataclasses.replace(L4, gpu="NVIDIA L40S"), "11.4.0.106", False),
        (
            {"hardware_compatibility": "same_compute_capability"},
            dataclasses.replace(L4, gpu="L40S"),
            "11.4.0.106",
            True,
        ),
        ({"hardware_compatibility": "same_compute_capability"}, A100, "11.4.0.106", False),
        ({"hardware_compatibility": "ampere_plus"}, A100, "11.4.0.106", True),
        ({"hardware_compatibility": "ampere_plus"}, Machine("T4", "7.5", "580"), "11.4.0.106", False),
        ({"version_compatible": True}, L4, "11.10.0.1", True),
        ({"version_compatible": True}, L4, "11.0.0.114", False),
        ({}, L4, "11.10.0.1", False),
    ],
)
def test_where_an_engine_runs(
    trt: StandIn, tmp_path: Path, options: dict[str, object], machine: Machine, version: str, runs: bool
) -> None:
    manifest = read_engine_manifest(built(tmp_path / "onnx", **options))
    assert (manifest.misfits(version, machine) == []) is runs


def test_an_engine_from_outside_the_cache_is_asked_for_by_name(trt: StandIn, tmp_path: Path) -> None:
    write_graph(tmp_path / "onnx")
    outside = tmp_path / "taken along"
    inside = make_engine(EngineRequest(tmp_path / "onnx", output=outside), CPU)
    with pytest.raises(
        UntrustedEngineError, match=r"taken along is not from this user's cache.*--trust-engine"
    ):
        open_engine(outside, CPU)
    (inside.parent / "link").symlink_to(outside)
    with pytest.raises(UntrustedEngineError):
        open_engine(inside.parent / "link", CPU)
    assert "deserialize_cuda_engine" not in trt.names()
    assert open_engine(outside, CPU, trusted=True)(pictures(1)).equal(features_of(pictures(1)))
    assert open_engine(inside, CPU)(pictures(1)).equal(features_of(pictures(1)))


def test_opening_counts_as_use_in_the_cache_alone(trt: StandIn, tmp_path: Path) -> None:
    write_graph(tmp_path / "onnx")
    inside = make_engine(EngineRequest(tmp_path / "onnx", output=tmp_path / "outside"), CPU)
    for folder in (inside, tmp_path / "outside"):
        os.utime(folder / "engine.json", (1000, 1000))
        open_engine(folder, CPU, trusted=True)
    assert (inside / "engine.json").stat().st_mtime > 1000
    assert (tmp_path / "outside" / "engine.json").stat().st_mtime == 1000


def test_a_cache_that_is_only_read_serves_too(
    trt: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    folder = built(tmp_path / "onnx")
    monkeypatch.setattr(os, "utime", read_only)
    assert open_engine(folder, CPU)(pictures(1)).equal(features_of(pictures(1)))


def test_an_onnx_folder_finds_its_engine_in_the_cache(
    trt: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tmp_path / "onnx"
    write_graph(graph)
    with pytest.raises(
        RebuildNeededError, match=rf"no engine was built .* yet; build it: secondlook build {graph}"
    ):
        open_engine(graph, CPU)
    built(graph)
    assert isinstance(open_engine(graph, CPU), TensorRtVisionEncoder)
    use(trt, monkeypatch, JETSON)
    with pytest.raises(RebuildNeededError, match=r"on Orin \(compute capability 8\.7\) yet"):
        open_engine(graph, CPU)
    with pytest.raises(InvalidEncoderError, match="neither a TensorRT engine nor an exported encoder"):
        open_engine(tmp_path, CPU)


def test_an_engine_that_does_not_run_here_is_rebuilt_when_asked(
    trt: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, engine = tmp_path / "out" / "onnx", tmp_path / "out" / "engine"
    write_graph(graph)
    request = EngineRequest(graph, (BatchProfile(2, 2, 4),), BuildOptions(detailed=True), engine)
    make_engine(request, CPU)
    use(trt, monkeypatch, A100)
    with pytest.raises(RebuildNeededError):
        open_or_rebuild(engine, CPU)
    assert open_or_rebuild(engine, CPU, rebuild=True)(pictures(2)).equal(features_of(pictures(2)))
    manifest = read_engine_manifest(engine)
    assert (manifest.machine, manifest.profiles, manifest.options) == (
        A100,
        request.profiles,
        request.options,
    )
    for file in graph.iterdir():
        file.unlink()
    use(trt, monkeypatch, JETSON)
    with pytest.raises(RebuildNeededError, match="found no ONNX folder beside it"):
        open_or_rebuild(engine, CPU, rebuild=True)


def test_the_command_that_rebuilds_has_all_options(trt: StandIn, tmp_path: Path) -> None:
    assert BuildOptions().flags() == ""
    options = BuildOptions(512, "ampere_plus", version_compatible=True, detailed=True, tf32=True)
    assert options.flags() == (
        " --workspace-mb 512 --hardware-compatibility ampere_plus --version-compatible --detailed --tf32"
    )
    graph = tmp_path / "onnx"
    engine = built(graph, detailed=True, tf32=True)
    machine, manifest = dataclasses.replace(L4, compute_capability="8.0"), read_engine_manifest(engine)
    with pytest.raises(RebuildNeededError, match=r"--batch 1:2:8 --detailed --tf32$"):
        check_runs_here(engine, manifest, manifest.tensorrt, machine)


def test_version_compatible_engines_alone_may_bring_code_of_the_host(trt: StandIn, tmp_path: Path) -> None:
    open_engine(built(tmp_path / "onnx"), CPU)
    open_engine(built(tmp_path / "onnx", version_compatible=True), CPU)
    assert [call[1] for call in trt.calls if call[0] == "deserialize_cuda_engine"] == [False, True]


def test_the_lean_runtime_takes_version_compatible_engines_only(
    trt: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, compatible = built(tmp_path / "a"), built(tmp_path / "b", version_compatible=True)
    use(StandIn(name="tensorrt_lean"), monkeypatch)
    assert open_engine(compatible, CPU)(pictures(2)).equal(features_of(pictures(2)))
    with pytest.raises(
        RuntimeMissingError, match=r"lean runs only version-compatible .*--version-compatible"
    ):
        open_engine(plain, CPU)


def test_the_lean_runtime_finds_its_own_engine_of_a_graph(
    trt: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tmp_path / "onnx"
    compatible, plain = built(graph, version_compatible=True), built(graph)
    os.utime(compatible / "engine.json", (1, 1))  # the other one was used last
    assert open_engine(graph, CPU).manifest == read_engine_manifest(plain)
    use(StandIn(name="tensorrt_lean"), monkeypatch)
    assert open_engine(graph, CPU).manifest == read_engine_manifest(compatible)
    for file in compatible.iterdir():
        file.unlink()
    with pytest.raises(RebuildNeededError, match=rf"build it: secondlook build {graph} --version-compatible"):
        open_engine(graph, CPU)


def test_a_failure_while_a_graph_is_captured_is_one_error(
    trt: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_work: object, _pool: object) -> None:
        raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr("secondlook.engine.encoders.tensorrt.capture", fails)
    with pytest.raises(EncoderError, match="could not be captured in a CUDA graph"):
        open_engine(built(tmp_path / "onnx"), CPU)
