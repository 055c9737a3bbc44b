"""The package's names: all there, and imported only when used."""

from __future__ import annotations

import copy
import importlib
import pkgutil
import re
import subprocess
import sys

import pytest

import secondlook.edge
import secondlook.edge.errors as edge_errors
import secondlook.engine
import secondlook.engine.errors as engine_errors
from secondlook.edge.errors import RequestRefusedError, SecondLookError, ServerBusyError
from secondlook.engine.errors import QueueFullError, RateLimitError, TooManyStreamsError


@pytest.mark.parametrize("name", secondlook.engine.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(secondlook.engine, name) is not None
    assert name in dir(secondlook.engine)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Engines'"):
        secondlook.engine.Engines  # noqa: B018


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, secondlook.engine, secondlook.engine.errors; print('torch' in sys.modules)"
    path = [entry for entry in sys.path if entry]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def all_errors(root: type[SecondLookError]) -> set[type[SecondLookError]]:
    return {root}.union(*(all_errors(kind) for kind in root.__subclasses__()))


def test_the_trees_of_errors_are_whole() -> None:
    for package, tree in ((secondlook.edge, edge_errors), (secondlook.engine, engine_errors)):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                try:
                    importlib.import_module(module.name)
                except ModuleNotFoundError as error:
                    if error.name != "vllm":  # which has an environment of its own
                        raise
        kinds = {
            kind.__name__
            for kind in all_errors(SecondLookError)
            if kind.__module__.startswith(package.__name__)
        }
        drawn = re.findall(r"(?m)^(?:[│ ]*[├└]── )?(\w+Error)\b", tree.__doc__ or "")
        assert kinds - {"SecondLookError"} == set(drawn) - {"SecondLookError"}
        assert len(drawn) == len(set(drawn))


def test_every_error_can_be_copied() -> None:
    """As one is that several wait for."""
    arguments: dict[type, tuple[object, ...]] = {
        QueueFullError: ("too many", 2.5),
        RateLimitError: ("too many", 2.5),
        TooManyStreamsError: ("too many", 2.5),
        RequestRefusedError: (404, "unknown"),
        ServerBusyError: (503, "busy"),
    }
    ours = ("secondlook.edge", "secondlook.engine")
    for kind in (kind for kind in all_errors(SecondLookError) if kind.__module__.startswith(ours)):
        error = kind(*arguments.get(kind, ("a reason",)))
        found = copy.copy(error)
        assert (type(found), str(found), vars(found)) == (kind, str(error), vars(error))
