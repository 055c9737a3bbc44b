"""The public names: the committed list, all there, each with a docstring.

A name added or removed on purpose is added to or removed from public_surface.json.
"""

from __future__ import annotations

import ast
import json
from importlib import import_module
from pathlib import Path

import pytest

from repository import PARTS, ROOT, package

COMMITTED: dict[str, list[str]] = json.loads(
    (ROOT / "tests" / "public_surface.json").read_text(encoding="utf-8")
)
NAMES = [(package_name, name) for package_name, names in COMMITTED.items() for name in names]


def test_every_package_is_listed() -> None:
    packages = [f"secondlook.{part}" for part in PARTS if (package(part) / "__init__.py").exists()]
    assert sorted(COMMITTED) == sorted(packages)


@pytest.mark.parametrize("name", COMMITTED)
def test_a_package_exports_the_committed_names(name: str) -> None:
    exported = getattr(import_module(name), "__all__", [])
    assert len(exported) == len(set(exported))
    assert sorted(exported) == sorted(COMMITTED[name])


@pytest.mark.parametrize(("package_name", "name"), NAMES)
def test_a_public_name_is_there(package_name: str, name: str) -> None:
    assert getattr(import_module(package_name), name) is not None


@pytest.mark.parametrize(("package_name", "name"), NAMES)
def test_a_public_name_says_what_it_is(package_name: str, name: str) -> None:
    assert docstring(package_file(package_name), name), f"{package_name}.{name} has no docstring"


def package_file(name: str) -> Path:
    return package(name.split(".")[1]) / "__init__.py"


def docstring(file: Path, name: str) -> str | None:
    """The docstring that the source gives a name, of a constant too: a string right after it.

    Read from the source, because at run time every class has one: its base's, or a dataclass's signature.
    """
    statements = _statements(ast.parse(file.read_text(encoding="utf-8")))
    for statement, following in zip(statements, [*statements[1:], None], strict=True):
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if statement.name == name:
                return ast.get_docstring(statement)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return _text(following)
        elif isinstance(statement, ast.ImportFrom):
            names = {alias.asname or alias.name: alias.name for alias in statement.names}
            if name in names:
                return docstring(_imported_file(file, statement), names[name])
            if "*" in names and name in _listed(_imported_file(file, statement)):
                return docstring(_imported_file(file, statement), name)
    raise AssertionError(f"{file} does not define {name}")


def _statements(tree: ast.Module) -> list[ast.stmt]:
    """The module's own statements; those under `if TYPE_CHECKING:` too."""
    found: list[ast.stmt] = []
    for statement in tree.body:
        found += statement.body if isinstance(statement, ast.If) else [statement]
    return found


def _listed(file: Path) -> list[str]:
    """A module's `__all__`."""
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            listed: list[str] = ast.literal_eval(statement.value)
            return listed
    return []


def _imported_file(file: Path, statement: ast.ImportFrom) -> Path:
    words = (statement.module or "").split(".")
    # A relative import's first dot is the importing file's own folder.
    base = file.parents[statement.level - 1] if statement.level else ROOT / words[1]
    target = base.joinpath(*filter(None, words))
    return target / "__init__.py" if target.is_dir() else target.with_suffix(".py")


def _text(statement: ast.stmt | None) -> str | None:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return statement.value.value if isinstance(statement.value.value, str) else None
    return None


def test_docstrings_are_read_from_where_a_name_is_defined(tmp_path: Path) -> None:
    imports = "from .inner import LIMIT, told as heard\nfrom .inner import *\n"
    (tmp_path / "__init__.py").write_text(imports, encoding="utf-8")
    lines = [
        "__all__ = ['Bare']",
        "LIMIT = 3",
        '"""The most."""',
        "class Bare(ValueError): pass",
        'def told(): """Tell."""',
        "",
    ]
    (tmp_path / "inner.py").write_text("\n".join(lines), encoding="utf-8")
    inside = tmp_path / "__init__.py"
    assert [docstring(inside, name) for name in ("LIMIT", "Bare", "heard")] == ["The most.", None, "Tell."]
    with pytest.raises(AssertionError, match="does not define missing"):
        docstring(inside, "missing")
