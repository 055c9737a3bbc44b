"""Building engines: what is asked of TensorRT in which order, and every refusal. What TensorRT makes of it,
a GPU
must show."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from export.tensorrt_stand_in import CPU, L4, SIDE, StandIn, use, write_graph
from secondlook.edge.errors import SettingsError
from secondlook.engine.encoders.engine_manifest import BuildOptions, read_engine_manifest
from secondlook.engine.encoders.profiles import BatchProfile, Run, parse_profiles, runs_of
from secondlook.engine.errors import EncoderError, InvalidEncoderError, RuntimeMissingError
from secondlook.export.errors import OutputError
from secondlook.export.tensorrt import build as building
from secondlook.export.tensorrt import cli, engines
from secondlook.export.tensorrt.engines import EngineRequest, make_engine
from secondlook.export.tensorrt.errors import EngineBuildError

PROFILES = (BatchProfile(1, 2, 8), BatchProfile(16, 16, 32))
PLAIN = BuildOptions()


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """The stand-in as the installed TensorRT of a machine with an L4, and an empty cache."""
    monkeypatch.setenv("SECONDLOOK_CACHE", str(tmp_path / "cache"))
    module = StandIn()
    use(module, monkeypatch)
    return module


def plan(trt: StandIn, folder: Path, options: BuildOptions = PLAIN, timing: bytes = b"") -> building.Plan:
    module: Any = trt
    return building.build_plan(module, folder, write_graph(folder), PROFILES, options, timing)


@pytest.mark.parametrize(
    ("version", "flags"), [("10.3.0", 2), ("10.16.1.11", 2), ("11.0.0.114", 1), ("11.4.0.106", 1)]
)
def test_the_order_of_calls(tmp_path: Path, version: str, flags: int) -> None:
    trt = StandIn(version)
    plan(trt, tmp_path)
    assert trt.calls == [
        ("Builder",),
        ("create_network", flags),  # strongly typed; the number is another in TensorRT 11
        ("OnnxParser",),
        ("parse_from_file", str(tmp_path / "encoder.onnx")),
        ("clear_flag", "TF32"),
        ("add_optimization_profile",),
        ("add_optimization_profile",),
        ("create_timing_cache", b""),
        ("set_timing_cache", False),
        ("build_serialized_network",),
    ]


def test_options_are_told_to_tensorrt(tmp_path: Path) -> None:
    trt = StandIn()
    options = BuildOptions(512, "ampere_plus", version_compatible=True, detailed=True, tf32=True)
    made = plan(trt, tmp_path, options, b"learnt")
    assert [call for call in trt.calls if "flag" in call[0] or "limit" in call[0]] == [
        ("set_flag", "VERSION_COMPATIBLE"),
        ("set_memory_pool_limit", "WORKSPACE", 512 * 2**20),
    ]
    assert ("hardware_compatibility_level", "AMPERE_PLUS") in trt.calls
    assert ("profiling_verbosity", "DETAILED") in trt.calls
    assert ("create_timing_cache", b"learnt") in trt.calls
    assert bytes(made.timing) == b"learnt+"
    shapes = [[1, 2, 8], [16, 16, 32]]
    expected = [[[batch, 3, SIDE, SIDE] for batch in three] for three in shapes]
    assert f'"profiles": {expected}'.encode() in bytes(made.engine)


def test_a_timing_cache_of_another_gpu_is_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trt = StandIn()
    trt.fails.add("set_timing_cache")
    assert bytes(plan(trt, tmp_path, timing=b"of an A100").timing) == b"+"
    assert "the timing cache is of another GPU" in caplog.text


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            "parse_from_file",
            r"11\.4\.0\.106 does not take .*encoder\.onnx: Swirl '/blocks/3': no such operator$",
        ),
        ("Builder", "TensorRT cannot use the GPU: pybind11"),
        ("add_optimization_profile", "refuses the profile 1:2:8"),
        ("build_serialized_network", "could not build the engine: out of tactics$"),
    ],
)
def test_what_tensorrt_refuses_is_one_error_and_leaves_nothing(
    trt: StandIn, tmp_path: Path, call: str, said: str
) -> None:
    write_graph(tmp_path / "onnx")
    trt.fails.add(call)
    with pytest.raises(EngineBuildError, match=said):
        make_engine(EngineRequest(tmp_path / "onnx", output=tmp_path / "out"), CPU)
    assert not [
        path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock" and path.name != "engines"
    ]
    assert not (tmp_path / "out").exists()


def test_what_only_some_versions_have_is_asked_for_before_it_is_used(tmp_path: Path) -> None:
    options = BuildOptions(hardware_compatibility="same_compute_capability")
    plan(StandIn("10.16.1.11"), tmp_path, options)
    with pytest.raises(
        EngineBuildError, match=r"TensorRT 10\.3\.0 has no hardware .* 'same_compute_capability'"
    ):
        plan(StandIn("10.3.0"), tmp_path, options)


def test_an_engines_manifest_has_all_that_it_was_built_from(trt: StandIn, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "onnx", "bfloat16")
    options = BuildOptions(detailed=True)
    folder = make_engine(EngineRequest(tmp_path / "onnx", PROFILES, options), CPU)
    manifest = read_engine_manifest(folder)
    assert (manifest.encoder, manifest.tensorrt, manifest.machine) == (graph, "11.4.0.106", L4)
    assert (manifest.profiles, manifest.options) == (PROFILES, options)
    assert sorted(manifest.files) == ["encoder.engine", "timing.cache"]
    assert manifest.read_plan(folder)


def test_the_next_build_knows_the_times_of_the_last(trt: StandIn, tmp_path: Path) -> None:
    for dtype in ("float32", "float16"):
        write_graph(tmp_path / dtype, dtype)  # type: ignore[arg-type]
        make_engine(EngineRequest(tmp_path / dtype), CPU)
    assert [call[1] for call in trt.calls if call[0] == "create_timing_cache"] == [b"", b"+"]


def test_damaged_times_are_not_given_to_tensorrt(trt: StandIn, tmp_path: Path) -> None:
    write_graph(tmp_path / "a")
    (make_engine(EngineRequest(tmp_path / "a"), CPU) / "timing.cache").write_bytes(b"half")
    write_graph(tmp_path / "b", "float16")
    make_engine(EngineRequest(tmp_path / "b"), CPU)
    assert [call[1] for call in trt.calls if call[0] == "create_timing_cache"] == [b"", b""]


def test_a_copy_that_cannot_take_its_place_leaves_the_older_one(
    trt: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graph(tmp_path / "onnx")
    out = tmp_path / "out"
    make_engine(EngineRequest(tmp_path / "onnx", output=out), CPU)
    rename = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if path.name == ".out.partial":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(
        OutputError, match=r"cannot write .*: Input/output error; make room, or choose another --output"
    ):
        make_engine(EngineRequest(tmp_path / "onnx", PROFILES, output=out), CPU)
    assert read_engine_manifest(out).profiles == (BatchProfile(1, 2, 8),)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "onnx", "out"}


def test_a_changed_graph_is_not_built(trt: StandIn, tmp_path: Path) -> None:
    write_graph(tmp_path)
    (tmp_path / "encoder.onnx.data").write_bytes(b"half of the wei")
    with pytest.raises(InvalidEncoderError, match=r"encoder\.onnx\.data has SHA-256"):
        make_engine(EngineRequest(tmp_path), CPU)
    assert trt.calls == []


def test_a_graph_for_cpus_is_not_built(trt: StandIn, tmp_path: Path) -> None:
    write_graph(tmp_path, "int8")
    with pytest.raises(EngineBuildError, match=r"quantised for CPUs .* --dtype float16"):
        make_engine(EngineRequest(tmp_path), CPU)


def test_the_lean_runtime_cannot_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(StandIn(name="tensorrt_lean"), monkeypatch)
    with pytest.raises(RuntimeMissingError, match=r"tensorrt is not installed: .*secondlook\[tensorrt\]"):
        make_engine(EngineRequest(tmp_path), CPU)


def test_a_folder_of_something_else_is_not_written_over(trt: StandIn, tmp_path: Path) -> None:
    write_graph(tmp_path / "onnx")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo.jpg").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("out", "link"):
        with pytest.raises(OutputError, match=r"only .* replaced; choose another --output"):
            make_engine(EngineRequest(tmp_path / "onnx", output=tmp_path / name), CPU)
    assert trt.calls == []


@pytest.mark.parametrize("where", ["engines", "copy"])
def test_a_full_disk_is_one_error_and_leaves_nothing(
    trt: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    write_graph(tmp_path / "onnx")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "engines":
        monkeypatch.setattr(engines.os, "fsync", full)
    else:
        monkeypatch.setattr(engines.shutil, "copytree", full)
    error = EngineBuildError if where == "engines" else OutputError
    with pytest.raises(error, match=r"cannot (keep|write) .*: No space left on device; (nothing|make room)"):
        make_engine(EngineRequest(tmp_path / "onnx", output=tmp_path / "copy"), CPU)
    left = [path.name for path in tmp_path.rglob("*") if "partial" in path.name or path.name == "copy"]
    assert left == []
    assert bool(list((tmp_path / "cache").rglob("engine.json"))) is (where == "copy")


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
        (["1:2:8.0"], "not '1:2:8.0'"),
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
    assert runs_of(9, (BatchProfile(4, 4, 8),)) == (Run(5, 0), Run(4, 0))
    assert runs_of(0, (small,)) == ()
    with pytest.raises(EncoderError, match="no profile for a batch of 2"):
        runs_of(2, (BatchProfile(3, 3, 3),))


def test_a_workspace_of_nothing_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least 1 MiB, not 0"):
        BuildOptions(workspace_mb=0)


def test_the_command_builds_and_says_what_is_next(trt: StandIn, tmp_path: Path) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    cli.register(app)
    graph, out = tmp_path / "onnx", tmp_path / "engine"
    write_graph(graph)
    arguments = ["build", str(graph), "--output", str(out), "--batch", "1:1:2", "--batch", "4:4:8"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert f"secondlook verify {out} --trust-engine --runtime tensorrt" in done.stdout.replace("\n", " ")
    assert read_engine_manifest(out).profiles == (BatchProfile(1, 1, 2), BatchProfile(4, 4, 8))
    done = CliRunner().invoke(app, ["build", str(graph), "--batch", "8"])
    assert isinstance(done.exception, SettingsError)
    for size in ("nan", "inf", "0"):
        done = CliRunner().invoke(app, ["build", str(graph), "--cache-gb", size])
        assert isinstance(done.exception, EngineBuildError), done.exception
