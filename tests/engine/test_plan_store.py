"""Which plan is opened: found, trusted, whole, and of this machine, before TensorRT sees it."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.plan_support import A100, CPU, L4, Installed, write_graph
from secondlook.edge.errors import SettingsError
from secondlook.engine.encoders.plan_manifest import BuildOptions, Machine, PlanManifest, read_plan_manifest
from secondlook.engine.encoders.plan_store import RebuildNeededError, UntrustedPlanError
from secondlook.engine.encoders.profiles import BatchProfile
from secondlook.engine.encoders.tensorrt import open_plan
from secondlook.engine.errors import InvalidEncoderError, RuntimeMissingError
from secondlook.export.plans import PlanRequest, make_plan


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Installed:
    monkeypatch.setenv("SECONDLOOK_CACHE", str(tmp_path / "cache"))
    return Installed(monkeypatch)


def built(graph: Path, output: Path | None = None, **options: Any) -> Path:
    """A plan in the cache, of a new graph."""
    write_graph(graph)
    return make_plan(PlanRequest(graph, (BatchProfile(1, 1, 4),), BuildOptions(**options), output), CPU)


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "manifest"])
def test_a_damaged_plan_is_never_executed(trt: Installed, tmp_path: Path, damage: str) -> None:
    folder = built(tmp_path / "onnx")
    plan, manifest = folder / "encoder.plan", folder / "plan.json"
    if damage == "manifest":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "more": 1}))
    elif damage == "missing":
        plan.unlink()
    else:
        plan.write_bytes(b"a pla" if damage == "truncated" else b"a plaN")
    with pytest.raises(
        InvalidEncoderError, match=r"truncated or not what was built|cannot be read|no manifest of this"
    ):
        open_plan(folder, CPU)
    assert trt.opened == []


def test_a_plan_of_another_gpu_names_both_sides_and_the_command(trt: Installed, tmp_path: Path) -> None:
    folder, graph = tmp_path / "onnx" / "l4", tmp_path / "onnx"
    (graph / "aside").mkdir(parents=True, mode=0)  # may not be looked into
    built(graph, folder)
    trt.use(A100)
    said = (
        r"built on NVIDIA L4 \(compute capability 8\.9\), "
        r"here is NVIDIA A100-SXM4-80GB \(compute capability 8\.0\); "
        rf"rebuild it: secondlook build {graph} --output {folder} --batch 1:1:4$"
    )
    with pytest.raises(RebuildNeededError, match=said) as caught:
        open_plan(folder, CPU, trusted=True)
    assert caught.value.graph == graph
    assert trt.opened == []


def test_a_plan_of_another_tensorrt_names_both_sides(trt: Installed, tmp_path: Path) -> None:
    folder = built(tmp_path / "onnx", detailed=True)
    trt.use(version="10.16.1.11")
    # Into the cache's own folder, whose name tells what is in it, nothing else is to be built.
    said = (
        r"TensorRT 11\.4\.0\.106, here is 10\.16\.1\.11; .*: secondlook build ONNX_FOLDER --batch 1:1:4 --det"
    )
    with pytest.raises(RebuildNeededError, match=said):
        open_plan(folder, CPU)


NEWER = "11.10.0.1"


@pytest.mark.parametrize(
    ("options", "machine", "version", "runs"),
    [
        ({}, L4, "11.4.0.106", True),
        ({}, replace(L4, driver="999.1"), "11.4.0.106", True),
        ({}, replace(L4, gpu="NVIDIA L40S"), "11.4.0.106", False),
        ({"hardware_compatibility": "same_compute_capability"}, replace(L4, gpu="L40S"), "11.4.0.106", True),
        ({"hardware_compatibility": "same_compute_capability"}, A100, "11.4.0.106", False),
        ({"hardware_compatibility": "ampere_plus"}, A100, "11.4.0.106", True),
        ({"hardware_compatibility": "ampere_plus"}, Machine("T4", "7.5", "580"), "11.4.0.106", False),
        ({"version_compatible": True}, L4, NEWER, True),
        ({"version_compatible": True}, L4, "11.0.0.114", False),
        ({}, L4, NEWER, False),
    ],
)
def test_where_a_plan_runs(
    tmp_path: Path, options: dict[str, Any], machine: Machine, version: str, runs: bool
) -> None:
    manifest = PlanManifest(
        write_graph(tmp_path),
        "11.4.0.106",
        L4,
        (BatchProfile(1, 2, 8),),
        BuildOptions(**options),
        {"encoder.plan": "0"},
    )
    assert (manifest.misfits(version, machine) == []) is runs


def test_a_plan_from_outside_the_cache_is_asked_for_by_name(trt: Installed, tmp_path: Path) -> None:
    outside = tmp_path / "taken along"
    inside = built(tmp_path / "onnx", outside)
    with pytest.raises(UntrustedPlanError, match=r"taken along is not from this user's cache.*--trust-plan"):
        open_plan(outside, CPU)
    (inside.parent / "link").symlink_to(outside)
    with pytest.raises(UntrustedPlanError):
        open_plan(inside.parent / "link", CPU)
    assert trt.opened == []
    open_plan(outside, CPU, trusted=True)
    open_plan(inside, CPU)
    assert len(trt.opened) == 2


@pytest.mark.usefixtures("trt")
def test_opening_counts_as_use_in_the_cache_alone_which_may_be_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    inside = built(tmp_path / "onnx", outside)
    for folder in (inside, outside):
        os.utime(folder / "plan.json", (1000, 1000))
        open_plan(folder, CPU, trusted=True)
    assert (inside / "plan.json").stat().st_mtime > 1000
    assert (outside / "plan.json").stat().st_mtime == 1000

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", read_only)
    open_plan(inside, CPU)


def test_an_onnx_folder_finds_its_plan_in_the_cache(trt: Installed, tmp_path: Path) -> None:
    graph = tmp_path / "onnx"
    write_graph(graph)
    with pytest.raises(
        RebuildNeededError, match=rf"no plan was built .* yet; build it: secondlook build {graph}$"
    ):
        open_plan(graph, CPU)
    folder = built(graph)
    assert open_plan(graph, CPU).manifest == read_plan_manifest(folder)
    (folder.parent / "broken").mkdir()
    (folder.parent / "broken" / "plan.json").touch()  # is passed over
    assert open_plan(graph, CPU).manifest == read_plan_manifest(folder)
    trt.use(Machine("Orin", "8.7", "540.4.0"))
    with pytest.raises(RebuildNeededError, match=r"on Orin \(compute capability 8\.7\) yet"):
        open_plan(graph, CPU)
    with pytest.raises(InvalidEncoderError, match="neither a TensorRT plan nor an exported encoder"):
        open_plan(tmp_path, CPU)


def test_the_lean_runtime_takes_version_compatible_plans_only(trt: Installed, tmp_path: Path) -> None:
    graph = tmp_path / "onnx"
    compatible, plain = built(graph, version_compatible=True), built(graph)
    os.utime(compatible / "plan.json", (1, 1))  # the other one was used last
    assert open_plan(graph, CPU).manifest == read_plan_manifest(plain)
    trt.use(name="tensorrt_lean")
    assert open_plan(graph, CPU).manifest == read_plan_manifest(compatible)
    with pytest.raises(RuntimeMissingError, match=r"lean runs only version-.*--version-compatible"):
        open_plan(plain, CPU)
    (compatible / "plan.json").unlink()
    with pytest.raises(RebuildNeededError, match=rf"build it: secondlook build {graph} --version-compatible"):
        open_plan(graph, CPU)


def test_the_options_of_a_build_are_checked_and_told() -> None:
    assert BuildOptions().flags() == ""
    options = BuildOptions(512, "ampere_plus", version_compatible=True, detailed=True, tf32=True)
    assert options.flags() == (
        " --workspace-mb 512 --hardware-compatibility ampere_plus --version-compatible --detailed --tf32"
    )
    with pytest.raises(SettingsError, match="workspace_mb should be greater than 0, not 0"):
        BuildOptions(workspace_mb=0)
