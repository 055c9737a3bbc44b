"""The edge where there is only what it requires; the rest comes and goes beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import distribution, requires
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from repository import PARTS, ROOT, build, copy_sources


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The two wheels, by the name of their distribution."""
    source = tmp_path_factory.mktemp("source")
    copy_sources(source)
    found = {}
    for name, folder in (("secondlook-edge", source / "edge"), ("secondlook", source)):
        old = folder / "build" / "lib" / "secondlook" / "gone.py"  # of an earlier build
        old.parent.mkdir(parents=True)
        old.touch()
        done = build(folder, "--wheel")
        assert done.returncode == 0, done.stdout + done.stderr
        (found[name],) = (folder / "dist").iterdir()
    return found


@pytest.fixture
def python(wheels: dict[str, Path], tmp_path: Path) -> Path:
    """Of an environment with what the edge requires, as links to this environment's: no network."""
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    link_distributions(libraries, edge_requirements())
    (site / "libraries.pth").write_text(f"{libraries}\n", encoding="utf-8")
    return folder / "bin" / "python"


def edge_requirements() -> list[str]:
    section = (ROOT / "edge" / "pyproject.toml").read_text(encoding="utf-8").split("\ndependencies = [\n")[1]
    return [line.strip(' ",') for line in section.split("]\n")[0].splitlines()]


def link_distributions(folder: Path, requirements: Iterable[str]) -> None:
    """Links to what is installed for these requirements, and for theirs in turn."""
    for line in requirements:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = distribution(requirement.name)
        tops = {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}
        new = [top for top in tops if not (folder / top).exists()]
        for top in new:
            (folder / top).symlink_to(found.locate_file(top))
        if new:
            link_distributions(folder, requires(requirement.name) or [])


def pip(python: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--python", str(python), *arguments]
    done = subprocess.run(command, env=clean(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(python: Path, wheel: Path) -> None:
    pip(python, "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall", str(wheel))


def clean() -> dict[str, str]:
    """The variables, but for those that let another environment's modules in."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def check_edge(python: Path) -> None:
    """It imports, its command runs, and nothing heavy could be there."""
    code = (
        "import secondlook.edge.cli, importlib.util\n"
        "print([name for name in ('torch', 'numpy', 'transformers') if importlib.util.find_spec(name)])"
    )
    for command in ([python, "-c", code], [python.parent / "secondlook-edge", "--help"]):
        done = subprocess.run(command, env=clean(), cwd=python.parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("[]\n") or "secondlook-edge" in done.stdout


@pytest.mark.parametrize("name", ["secondlook-edge", "secondlook"])
def test_wheels_hold_nothing_of_an_earlier_build(wheels: dict[str, Path], name: str) -> None:
    assert "secondlook/gone.py" not in ZipFile(wheels[name]).namelist()


def test_the_edge_alone_runs_with_what_it_requires_and_nothing_else(
    python: Path, wheels: dict[str, Path]
) -> None:
    install(python, wheels["secondlook-edge"])
    check_edge(python)
    assert "No broken requirements found" in pip(python, "check")


# The other order is slow: test_wheel shows that the two share no file.
@pytest.mark.parametrize("first", ["secondlook-edge", pytest.param("secondlook", marks=pytest.mark.slow)])
def test_the_rest_comes_and_goes_beside_the_edge(python: Path, wheels: dict[str, Path], first: str) -> None:
    (site,) = python.parents[1].glob("lib/python*/site-packages")

    def packages() -> set[str]:
        return {folder.name for folder in (site / "secondlook").iterdir()}

    for name in sorted(wheels, key=lambda name: name != first):
        install(python, wheels[name])
    assert packages() == {*PARTS}
    check_edge(python)
    install(python, wheels["secondlook-edge"])  # an upgrade of one
    assert packages() == {*PARTS}
    pip(python, "uninstall", "--yes", "secondlook-edge")
    assert packages() == {*PARTS} - {"edge"}
    install(python, wheels["secondlook-edge"])
    pip(python, "uninstall", "--yes", "secondlook")
    assert packages() == {"edge"}
    check_edge(python)
