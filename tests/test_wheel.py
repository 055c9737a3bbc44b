"""The wheel: what is in it and what it declares; and that constraints.txt pins all that it needs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, requires
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from repository import PARTS, ROOT

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
EXTRAS = {"engine", "export", "onnxruntime-gpu", "tensorrt", "tensorrt-lean", "bench", "dev"}
EDGE_REQUIREMENTS = {"httpx", "pillow", "pydantic", "rich", "typer"}
METADATA_FILES = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
LIMIT_BYTES = 20_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZipFile]:
    """A wheel built from a copy of the sources, with the installed setuptools: no network, no leftovers."""
    source = tmp_path_factory.mktemp("source")
    for part in PARTS:
        shutil.copytree(
            ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    target = source / "dist"
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(target),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = target.iterdir()
    with ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel: ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


@pytest.fixture(scope="module")
def declared(metadata: Message) -> list[Requirement]:
    return [Requirement(line) for line in metadata.get_all("Requires-Dist") or []]


def test_the_wheel_is_the_source_tree_and_nothing_else(wheel: ZipFile) -> None:
    sources = {
        file.relative_to(ROOT / part).as_posix()
        for part in PARTS
        for file in (ROOT / part / "secondlook").rglob("*")
        if file.is_file() and not {"__pycache__", ".egg-info"} & {file.parent.name, file.parent.suffix}
    }
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == sources
    information = {name.split(".dist-info/")[1] for name in wheel.namelist() if ".dist-info/" in name}
    assert information == METADATA_FILES


def test_the_wheel_holds_the_embedded_model(wheel: ZipFile) -> None:
    folder = "secondlook/engine/checkpoint/"
    held = {name.removeprefix(folder) for name in wheel.namelist() if name.startswith(folder)}
    assert {"config.json", "model.safetensors", "tokenizer.json", "secondlook.json"} <= held


def test_the_wheel_stays_small(wheel: ZipFile) -> None:
    assert sum(entry.compress_size for entry in wheel.infolist()) < LIMIT_BYTES


def test_the_commands_are_where_the_entry_points_say(wheel: ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    entries = re.findall(r"^(\S+) = (\S+)$", wheel.read(name).decode(), re.MULTILINE)
    assert {name for name, _ in entries} == {"secondlook", "secondlook-edge", "benchmarks", "export", "signs"}
    for _, entry in entries:
        module, function = entry.split(":")
        path = module.replace(".", "/")
        files = {f"{path}.py", f"{path}/__init__.py"} & set(wheel.namelist())
        source = wheel.read(files.pop()).decode()
        assert re.search(rf"^def {function}\(", source, re.MULTILINE)


def test_what_the_wheel_says_of_itself(metadata: Message) -> None:
    assert metadata["Name"] == "secondlook"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra") or []) == EXTRAS


def test_the_plain_installation_is_the_edge(declared: list[Requirement]) -> None:
    assert {requirement.name for requirement in declared if requirement.marker is None} == EDGE_REQUIREMENTS


def test_requirements_are_ranges_with_a_floor_and_no_ceiling(declared: list[Requirement]) -> None:
    ranges = {
        str(requirement): requirement.specifier
        for requirement in declared
        if requirement.name != "secondlook"
    }
    assert not {text for text, specifier in ranges.items() if [each.operator for each in specifier] != [">="]}
    floors = {requirement.name: str(requirement.specifier) for requirement in declared}
    assert floors["torch"] == ">=2.10"
    assert floors["transformers"] == ">=5.10"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_constraints_lie_within_the_ranges(declared: list[Requirement], python: str) -> None:
    pinned = pins(python)
    for requirement in declared:
        if requirement.name != "secondlook":
            version = pinned[canonicalize_name(requirement.name)]
            assert version in requirement.specifier, f"{requirement}, but {version} is pinned"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_constraints_pin_everything_that_is_installed(declared: list[Requirement], python: str) -> None:
    assert not needed(declared, python) - pins(python).keys()


def pins(python: str) -> dict[str, Version]:
    """What constraints.txt installs for that Python on Linux, by name; every line must be an exact pin."""
    found: dict[str, Version] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        if requirement.marker is None or requirement.marker.evaluate(environment(python)):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{line}: pinned twice for Python {python}"
            found[name] = Version(specifier.version)
    return found


def environment(python: str, extra: str = "") -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "extra": extra,
    }


def needed(declared: list[Requirement], python: str) -> set[str]:
    """The names that `secondlook[dev]` installs, as far as the metadata of this environment tell.

    What another distribution pins exactly (torch its CUDA libraries) is settled already, and left out.
    """
    seen: set[tuple[str, str]] = set()
    settled: set[str] = set()
    waiting = [(requirement, extra) for requirement in declared for extra in EXTRAS]
    while waiting:
        requirement, wanted_for = waiting.pop()
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate(environment(python, wanted_for))
        if not applies or name == "secondlook":
            continue
        if [each.operator for each in requirement.specifier] == ["=="]:
            settled.add(name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [(inner, extra) for inner in requirements(name)]
    return {name for name, _ in seen} - settled


def requirements(name: str) -> list[Requirement]:
    """What a distribution requires; nothing for one that only other Pythons than this need."""
    try:
        return [Requirement(line) for line in requires(name) or []]
    except PackageNotFoundError:
        return []
