"""A package's public names, listed once and imported when first used.

The list is the package's own block `if TYPE_CHECKING:`, one line a name, `from MODULE import NAME as NAME`.
The library lazy-loader does the same from a stub; this needs nothing installed, for the command `secondlook`
starts without the engine's extra, to name it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

__all__ = ["lazy_names"]


def lazy_names(package: str, file: str) -> tuple[list[str], Callable[[str], object], Callable[[], list[str]]]:
    """`__all__`, `__getattr__` and `__dir__` of a package, from its source file."""
    homes: dict[str, str] = {}
    for block in ast.parse(Path(file).read_text(encoding="utf-8")).body:
        if isinstance(block, ast.If):
            imports = [one for one in block.body if isinstance(one, ast.ImportFrom)]
            homes |= {name.name: one.module or "" for one in imports for name in one.names}

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return sorted(homes), get, lambda: sorted(homes)
