"""The layout's rules: who may import whom, one namespace, and modules short enough to read."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from repository import PARTS, ROOT, modules, package

MAY_IMPORT = {
    "edge": set(),
    "kernels": set(),
    "engine": {"edge", "kernels"},
    "export": {"edge", "engine"},
    "benchmarks": {"edge", "kernels", "engine", "export"},
}
# typing_extensions comes with pydantic, av with an extra.
EDGE_LIBRARIES = {"PIL", "av", "httpx", "pydantic", "rich", "typer", "typing_extensions"}
MOST_LINES = 400
USUAL_LINES = 250


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """The absolute names that a module's source imports, wherever in it, and for types only too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                base = node.module or ""
            else:
                parents = module.split(".") + ["__init__"] * is_package
                base = ".".join([*parents[: -node.level], *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(file: Path, part: str) -> set[str]:
    dotted = file.relative_to(ROOT / part).with_suffix("")
    is_package = dotted.name == "__init__"
    name = ".".join((dotted.parent if is_package else dotted).parts)
    return set(imports(file.read_text(encoding="utf-8"), name, is_package))


def own_part(name: str) -> str | None:
    """The part that an imported name is of; None for other libraries."""
    words = name.split(".")
    return words[1] if words[0] == "secondlook" and len(words) > 1 else None


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_what_it_may(part: str) -> None:
    forbidden = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in modules(package(part))
        for name in imports_of(file, part)
        if (other := own_part(name)) is not None and other not in MAY_IMPORT[part] | {part}
    }
    assert not forbidden


def test_the_edge_names_no_library_but_its_own() -> None:
    libraries = {
        name.split(".")[0] for file in modules(package("edge")) for name in imports_of(file, "edge")
    } - set(sys.stdlib_module_names)
    assert libraries - {"secondlook"} <= EDGE_LIBRARIES


def test_the_edge_loads_neither_torch_nor_numpy_nor_pyav() -> None:
    heavy = "{'torch', 'numpy', 'transformers', 'av', 'secondlook.engine'}"
    code = f"import sys; sys.path[:0] = {sys.path!r}; import secondlook.edge.cli"
    code += f"; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import secondlook.engine.engine", {"secondlook.engine.engine"}),
        ("from secondlook import engine", {"secondlook", "secondlook.engine"}),
        ("from .wire import Box", {"secondlook.edge.wire", "secondlook.edge.wire.Box"}),
        ("from ..engine import engine", {"secondlook.engine", "secondlook.engine.engine"}),
        ("def f():\n    import torch", {"torch"}),
    ],
)
def test_imports_are_found_however_they_are_written(statement: str, expected: set[str]) -> None:
    assert set(imports(statement, "secondlook.edge.cli")) == expected


def test_imports_of_a_package_are_relative_to_itself() -> None:
    assert "secondlook.edge.wire" in set(imports("from .wire import Box", "secondlook.edge", is_package=True))


def test_the_namespace_belongs_to_no_part() -> None:
    assert not [part for part in PARTS if (ROOT / part / "secondlook" / "__init__.py").exists()]


@pytest.mark.parametrize("part", PARTS)
def test_a_source_root_holds_its_own_package_and_says_that_it_is_typed(part: str) -> None:
    namespace = ROOT / part / "secondlook"
    assert [folder.name for folder in namespace.iterdir() if folder.name != "__pycache__"] == [part]
    assert (namespace / part / "py.typed").is_file()


@pytest.mark.parametrize("part", PARTS)
def test_every_folder_with_modules_is_a_package(part: str) -> None:
    folders = {file.parent for file in modules(package(part))}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_modules_can_be_read_in_one_sitting() -> None:
    files = [
        *modules(ROOT / "tests"),
        *modules(ROOT / "training"),
        *(file for part in PARTS for file in modules(package(part))),
    ]
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert not {str(file.relative_to(ROOT)): count for file, count in lines.items() if count > MOST_LINES}
    assert statistics.median(lines.values()) <= USUAL_LINES


def test_no_package_of_the_benchmarks_needs_one_that_needs_it() -> None:
    needs: dict[str, set[str]] = {}
    for file in modules(package("benchmarks")):
        own = file.relative_to(package("benchmarks")).parts[0].removesuffix(".py")
        names = (name.split(".") for name in imports_of(file, "benchmarks"))
        found = {words[2] for words in names if words[:2] == ["secondlook", "benchmarks"] and len(words) > 2}
        needs.setdefault(own, set()).update(found - {own})

    def reached(name: str, seen: set[str]) -> set[str]:
        for other in needs.get(name, set()) - seen:
            seen.add(other)
            reached(other, seen)
        return seen

    assert not {name for name in needs if name in reached(name, set())}
