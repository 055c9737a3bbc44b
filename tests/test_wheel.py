"""The two wheels: what is in them and what they declare; and that constraints.txt pins all that they need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from zipfile import ZipFile

import pytest
from build.util import project_wheel_metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from repository import PARTS, ROOT, build, copy_sources
from secondlook.engine.on_vllm import opening

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
EXTRAS = {
    "engine",
    "gateway",
    "upstream",
    "export",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-lean",
    "bench",
    "otel",
    "ray",
    "video",
    "vllm",
    "dev",
}
OURS = {"secondlook", "secondlook-edge"}
ELSEWHERE = {"vllm"}  # of an environment of its own, where no constraint of ours holds
EDGE_REQUIREMENTS = {"httpx", "pillow", "pydantic", "rich", "typer"}
INFORMATION = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
LIMIT_BYTES = 32_000_000
EDGE_LIMIT_BYTES = 100_000


@dataclass(frozen=True)
class Wheel:
    """An open wheel, and the parts that it is to hold."""

    path: Path
    opened: ZipFile
    parts: tuple[str, ...]

    def information(self, name: str) -> str:
        (found,) = (held for held in self.opened.namelist() if held.endswith(f".dist-info/{name}"))
        return self.opened.read(found).decode()

    def entries(self) -> dict[str, str]:
        """Of all groups: commands, and what is found by other parts."""
        return dict(re.findall(r"^(\S+) = (\S+:\S+)$", self.information("entry_points.txt"), re.MULTILINE))

    def metadata(self) -> Message:
        return Parser().parsestr(self.information("METADATA"))

    def declared(self) -> list[Requirement]:
        return [Requirement(line) for line in self.metadata().get_all("Requires-Dist") or []]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a checkout")
    copy_sources(folder)
    return folder


def built(source: Path, *parts: str) -> Iterator[Wheel]:
    """By way of a source distribution, as what is carried elsewhere."""
    done = build(source)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (source / "dist").glob("*.whl")
    with ZipFile(path) as opened:
        yield Wheel(path, opened, parts)


@pytest.fixture(scope="module")
def edge(source: Path) -> Iterator[Wheel]:
    yield from built(source / "edge", "edge")


@pytest.fixture(scope="module")
def rest(source: Path) -> Iterator[Wheel]:
    yield from built(source, *(part for part in PARTS if part != "edge"))


@pytest.fixture(scope="module", params=["edge", "rest"])
def wheel(request: pytest.FixtureRequest) -> Wheel:
    found: Wheel = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def declared(edge: Wheel, rest: Wheel) -> list[Requirement]:
    """What both require of others."""
    return [one for each in (edge, rest) for one in each.declared() if one.name not in OURS | ELSEWHERE]


def test_a_wheel_is_the_source_tree_of_its_parts_and_nothing_else(wheel: Wheel) -> None:
    sources = {
        file.relative_to(ROOT / part).as_posix()
        for part in wheel.parts
        for file in (ROOT / part / "secondlook").rglob("*")
        if file.is_file() and not {"__pycache__", ".egg-info"} & {file.parent.name, file.parent.suffix}
    }
    names = wheel.opened.namelist()
    assert {name for name in names if ".dist-info/" not in name} == sources
    assert {name.split(".dist-info/")[1] for name in names if ".dist-info/" in name} == INFORMATION


def test_the_wheels_share_no_file_and_no_command(edge: Wheel, rest: Wheel) -> None:
    """So that they can be installed, upgraded and removed in any order."""
    assert not set(edge.opened.namelist()) & set(rest.opened.namelist())
    assert set(edge.entries()) == {"secondlook-edge"}
    assert set(rest.entries()) == {"secondlook", "benchmarks", "export", "signs"}


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint_qwen"])
def test_the_wheel_holds_the_embedded_models(rest: Wheel, name: str) -> None:
    folder = f"secondlook/engine/{name}/"
    held = {name.removeprefix(folder) for name in rest.opened.namelist() if name.startswith(folder)}
    assert {"config.json", "model.safetensors", "tokenizer.json", "secondlook.json"} <= held


def test_the_wheels_stay_small(edge: Wheel, rest: Wheel) -> None:
    assert edge.path.stat().st_size < EDGE_LIMIT_BYTES
    assert rest.path.stat().st_size < LIMIT_BYTES


def test_the_commands_are_where_the_entry_points_say(wheel: Wheel) -> None:
    for entry in wheel.entries().values():
        module, function = entry.split(":")
        path = module.replace(".", "/")
        files = {f"{path}.py", f"{path}/__init__.py"} & set(wheel.opened.namelist())
        assert re.search(rf"^def {function}\(", wheel.opened.read(files.pop()).decode(), re.MULTILINE)


def test_what_the_wheels_say_of_themselves(edge: Wheel, rest: Wheel) -> None:
    version = (ROOT / "edge" / "VERSION").read_text(encoding="utf-8").strip()
    for each, name in ((edge, "secondlook-edge"), (rest, "secondlook")):
        metadata = each.metadata()
        assert (metadata["Name"], metadata["Version"]) == (name, version)
        assert metadata["License-Expression"] == "Apache-2.0"
        assert metadata["Requires-Python"] == ">=3.10"
    assert set(rest.metadata().get_all("Provides-Extra") or []) == EXTRAS


def test_the_edge_requires_a_few_libraries_and_the_rest_requires_the_edge(
    edge: Wheel, rest: Wheel, source: Path
) -> None:
    always = {requirement.name for requirement in edge.declared() if requirement.marker is None}
    assert always == EDGE_REQUIREMENTS
    video = [str(one) for each in (edge, rest) for one in each.declared() if one.name == "av"]
    assert video == 2 * ['av>=14.2; extra == "video"']
    (needed,) = (requirement for requirement in rest.declared() if requirement.marker is None)
    assert str(needed) == f"secondlook-edge=={edge.metadata()['Version']}"
    in_checkout = project_wheel_metadata(source, isolated=False).get_all("Requires-Dist") or []
    assert f"secondlook-edge @ {(source / 'edge').as_uri()}" in in_checkout


def test_vllm_is_of_the_one_version_whose_insides_are_known(rest: Wheel) -> None:
    (needed,) = (str(one.specifier) for one in rest.declared() if one.name == "vllm")
    assert needed == f"=={opening.VERSION}.*"


def test_requirements_are_ranges_with_a_floor_and_no_ceiling(declared: list[Requirement]) -> None:
    ranges = {str(requirement): requirement.specifier for requirement in declared}
    assert not {text for text, specifier in ranges.items() if [each.operator for each in specifier] != [">="]}
    floors = {requirement.name: str(requirement.specifier) for requirement in declared}
    assert floors["torch"] == ">=2.10"
    assert floors["transformers"] == ">=5.10"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_constraints_lie_within_the_ranges(declared: list[Requirement], python: str) -> None:
    pinned = pins(python)
    for requirement in declared:
        if not _taken(requirement, python):
            continue
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


def _taken(requirement: Requirement, python: str) -> bool:
    """Whether any extra takes it on that Python."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate(environment(python, extra)) for extra in ("", *EXTRAS))


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
        if not applies or name in OURS:
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
