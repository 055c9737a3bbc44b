"""Making plans: one build for any number of builders, whole folders, no more bytes than allowed."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from export.plan_support import A100, CPU, L4, Installed, write_graph
from secondlook.edge.errors import SettingsError
from secondlook.engine.cli import command_line
from secondlook.engine.encoders.manifest import EncoderManifest
from secondlook.engine.encoders.plan_manifest import BuildOptions, PlanManifest, read_plan_manifest
from secondlook.engine.encoders.plan_store import RebuildNeededError, plans_in
from secondlook.engine.encoders.profiles import BatchProfile
from secondlook.engine.errors import InvalidEncoderError, RuntimeMissingError
from secondlook.engine.models.vision import Axis
from secondlook.export.errors import OutputError, PlanBuildError
from secondlook.export.plans import PlanCache, PlanRequest, make_plan, open_or_rebuild, plan_key

PROFILES = (BatchProfile(1, 2, 8), BatchProfile(16, 16, 32))
Build = Callable[..., Callable[[Path], None]]


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Installed:
    monkeypatch.setenv("SECONDLOOK_CACHE", str(tmp_path / "cache"))
    return Installed(monkeypatch)


@pytest.fixture
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Makes builds that take no time, of plans with so many bytes."""
    encoder = write_graph(tmp_path_factory.mktemp("graph"))

    def made(size: int = 4000, calls: list[int] | None = None) -> Callable[[Path], None]:
        def build(folder: Path) -> None:
            manifest = PlanManifest(
                encoder, "11.4.0", L4, PROFILES, BuildOptions(), {"encoder.plan": "0" * 64}
            )
            manifest.write(folder)
            plan = b"x" * (size - (folder / "plan.json").stat().st_size)
            (folder / "encoder.plan").write_bytes(plan)
            digest = hashlib.sha256(plan).hexdigest()
            dataclasses.replace(manifest, files={"encoder.plan": digest}).write(folder)
            if calls is not None:
                calls.append(size)

        return build

    return made


def folders(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.is_dir()}


def test_builders_at_once_build_once_and_then_it_is_found(tmp_path: Path, build: Build) -> None:
    cache, calls, begun = PlanCache(tmp_path / "plans"), list[int](), threading.Barrier(6)

    def run() -> None:
        begun.wait()
        cache.get_or_build("a", build(calls=calls))

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.get_or_build("a", build(calls=calls)) == tmp_path / "plans" / "a"
    assert len(calls) == 1
    assert (tmp_path / "plans").stat().st_mode & 0o777 == 0o700


PROCESS = """
import sys
from pathlib import Path
from secondlook.export.plans import PlanCache

def build(folder):
    (folder / "plan.json").write_text("half")
    print("building", flush=True)
    sys.stdin.readline()

PlanCache(Path(sys.argv[1])).get_or_build("a", build)
"""


def test_another_process_that_builds_is_left_alone_and_does_not_stand_in_the_way_once_killed(
    tmp_path: Path, build: Build
) -> None:
    cache, half = PlanCache(tmp_path), tmp_path / ".a.partial"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"building\n"
        cache.get_or_build("b", build())
        assert half.is_dir()
        assert [path.name for path in plans_in(tmp_path)] == ["b"]  # half of one is none
        process.send_signal(signal.SIGKILL)
    assert half.is_dir()
    cache.get_or_build("c", build())
    assert folders(tmp_path) == {"b", "c"}  # removed by the next builder, of any plan
    half.mkdir()
    (half / "left").touch()
    assert {path.name for path in cache.get_or_build("a", build()).iterdir()} == {"encoder.plan", "plan.json"}


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "encoder.plan").write_text("half")
        raise PlanBuildError("no")

    with pytest.raises(PlanBuildError, match="no"):
        PlanCache(tmp_path).get_or_build("a", fails)
    assert folders(tmp_path) == set()


def test_the_plans_not_opened_for_longest_go_first(tmp_path: Path, build: Build) -> None:
    cache = PlanCache(tmp_path, most_bytes=14_000)
    for age, key in enumerate(("a", "b", "c")):
        os.utime(cache.get_or_build(key, build()) / "plan.json", (1000 + age, 1000 + age))
    os.utime(tmp_path / "a" / "plan.json", (2000, 2000))  # opened
    cache.get_or_build("d", build())
    assert folders(tmp_path) == {"a", "c", "d"}
    (tmp_path / ".z.old.partial").mkdir()  # of a process killed while it gave up another
    cache.get_or_build("e", build(12_000))
    assert folders(tmp_path) == {"e"}
    with pytest.raises(
        PlanBuildError, match=r"has 16000 bytes, .* may hold 14000; allow more with --cache-gb"
    ):
        cache.get_or_build("f", build(16_000))
    assert folders(tmp_path) == {"e"}


@pytest.mark.parametrize("damage", ["truncated", "no plan", "no manifest"])
def test_a_plan_that_is_damaged_is_built_again(
    tmp_path: Path, build: Build, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache, calls = PlanCache(tmp_path, most_bytes=7000), list[int]()  # there is no room for both
    found = cache.get_or_build("a", build(calls=calls))
    if damage == "truncated":
        os.truncate(found / "encoder.plan", 100)
    else:
        (found / ("plan.json" if damage == "no manifest" else "encoder.plan")).unlink()
    with caplog.at_level(logging.WARNING):
        assert cache.get_or_build("a", build(calls=calls)) == found
    assert "built again: " in caplog.text
    assert cache.get_or_build("a", build(calls=calls)) == found
    assert len(calls) == 2
    assert folders(tmp_path) == {"a"}


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, build: Build) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlanBuildError, match=r"cannot keep a plan in .*file"):
        PlanCache(tmp_path / "file").get_or_build("a", build())
    with pytest.raises(SettingsError, match="most_bytes should be greater than 0, not 0"):
        PlanCache(tmp_path, 0)


def test_the_key_follows_everything_that_decides_what_is_built(tmp_path: Path) -> None:
    encoder, other = write_graph(tmp_path / "a"), write_graph(tmp_path / "b", "float16")

    def key(graph: EncoderManifest = encoder, tensorrt: str = "11.4.0", **changed: object) -> str:
        machine = {name: changed[name] for name in ("gpu", "compute_capability", "driver") if name in changed}
        options = {
            name: value for name, value in changed.items() if name not in machine and name != "profiles"
        }
        return plan_key(
            graph,
            tensorrt,
            dataclasses.replace(L4, **machine),  # type: ignore[arg-type]
            changed.get("profiles", PROFILES),  # type: ignore[arg-type]
            BuildOptions(**options),  # type: ignore[arg-type]
        )

    changes: list[dict[str, object]] = [
        {},
        {"tensorrt": "11.4.1"},
        {"profiles": PROFILES[:1]},
        *({name: "other"} for name in ("gpu", "compute_capability", "driver")),
        {"workspace_mb": 1},
        {"hardware_compatibility": "ampere_plus"},
        *({name: True} for name in ("version_compatible", "detailed", "tf32")),
    ]
    graphs = {
        name: dataclasses.replace(each, axes={axis: Axis(1, 9) for axis in each.axes})
        for name, each in encoder.graphs.items()
    }
    longer = dataclasses.replace(encoder, graphs=graphs)  # the same files
    keys = {key(other), key(longer), *(key(**change) for change in changes)}  # type: ignore[arg-type]
    assert len(keys) == 2 + len(changes)
    assert encoder.is_of(encoder)
    assert not encoder.is_of(longer)
    assert key() in keys


@pytest.mark.usefixtures("trt")
def test_a_plans_manifest_has_all_that_it_was_built_from(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "onnx", "bfloat16")
    options = BuildOptions(detailed=True)
    folder = make_plan(PlanRequest(tmp_path / "onnx", PROFILES, options), CPU)
    manifest = read_plan_manifest(folder)
    assert (manifest.encoder, manifest.tensorrt, manifest.machine) == (graph, "11.4.0.106", L4)
    assert (manifest.profiles, manifest.options) == (PROFILES, options)
    assert sorted(manifest.files) == ["encoder.plan", "timing.cache"]
    assert manifest.read_plan(folder, "encoder") == b"a plan"


def test_the_next_build_knows_the_times_of_the_last_unless_they_are_damaged(
    trt: Installed, tmp_path: Path
) -> None:
    made = []
    for dtype in ("float32", "float16", "bfloat16"):
        if dtype == "bfloat16":
            for folder in made:
                (folder / "timing.cache").write_bytes(b"half")
        write_graph(tmp_path / dtype, dtype)  # type: ignore[arg-type]
        made.append(make_plan(PlanRequest(tmp_path / dtype), CPU))
    assert trt.timings == [b"", b"+", b""]


def test_a_graph_that_is_not_for_tensorrt_is_not_built(trt: Installed, tmp_path: Path) -> None:
    write_graph(tmp_path, "int8")
    with pytest.raises(PlanBuildError, match=r"quantised for CPUs .* --dtype float16"):
        make_plan(PlanRequest(tmp_path), CPU)
    write_graph(tmp_path)
    (tmp_path / "encoder.onnx.data").write_bytes(b"half of the wei")
    with pytest.raises(InvalidEncoderError, match=r"encoder\.onnx\.data has SHA-256"):
        make_plan(PlanRequest(tmp_path), CPU)
    trt.use(name="tensorrt_lean")
    with pytest.raises(RuntimeMissingError, match=r"tensorrt is not installed: .*secondlook\[tensorrt\]"):
        make_plan(PlanRequest(tmp_path), CPU)
    assert trt.timings == []


def test_a_folder_of_something_else_is_not_written_over(trt: Installed, tmp_path: Path) -> None:
    write_graph(tmp_path / "onnx")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo.jpg").touch()
    with pytest.raises(OutputError, match=r"only .* replaced; choose another --output"):
        make_plan(PlanRequest(tmp_path / "onnx", output=tmp_path / "out"), CPU)
    assert trt.timings == []


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("where", ["cache", "copy"])
def test_a_full_disk_is_one_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    write_graph(tmp_path / "onnx")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if where == "cache" else (shutil, "copytree")), full)
    error = PlanBuildError if where == "cache" else OutputError
    with pytest.raises(error, match=r"cannot (keep|write) .*: No space left on device; (nothing|make room)"):
        make_plan(PlanRequest(tmp_path / "onnx", output=tmp_path / "copy"), CPU)
    assert not [path.name for path in tmp_path.rglob("*") if "partial" in path.name or path.name == "copy"]
    assert bool(list((tmp_path / "cache").rglob("plan.json"))) is (where == "copy")


def test_a_plan_that_does_not_run_here_is_built_again(trt: Installed, tmp_path: Path) -> None:
    graph, plan = tmp_path / "out" / "onnx", tmp_path / "out" / "plan"
    write_graph(graph)
    request = PlanRequest(graph, PROFILES, BuildOptions(detailed=True), plan)
    make_plan(request, CPU)
    trt.use(A100)
    manifest = open_or_rebuild(plan, CPU).manifest
    assert (manifest.machine, manifest.profiles, manifest.options) == (A100, PROFILES, request.options)
    assert read_plan_manifest(plan) == manifest
    shutil.rmtree(graph)
    trt.use(dataclasses.replace(L4, gpu="Orin"))
    with pytest.raises(RebuildNeededError, match="found no ONNX folder beside it"):
        open_or_rebuild(plan, CPU)


@pytest.mark.usefixtures("trt")
def test_the_command_builds_and_says_what_is_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.export.cli.configure_logging", lambda _verbose: None)
    graph, out = tmp_path / "onnx", tmp_path / "plan"
    write_graph(graph)
    arguments = ["build", str(graph), "--device", "cpu", "--output", str(out), "--batch", "1:1:2"]
    done = CliRunner().invoke(command_line(), [*arguments, "--batch", "4:4:8"])
    assert done.exit_code == 0, done.output
    assert f"secondlook verify {out} --trust-plan --runtime tensorrt" in done.stdout.replace("\n", " ")
    assert read_plan_manifest(out).profiles == (BatchProfile(1, 1, 2), BatchProfile(4, 4, 8))
    done = CliRunner().invoke(command_line(), ["build", str(graph), "--batch", "8"])
    assert isinstance(done.exception, SettingsError)
    for size in ("nan", "inf", "0"):
        done = CliRunner().invoke(command_line(), ["build", str(graph), "--cache-gb", size])
        assert isinstance(done.exception, PlanBuildError), done.exception
