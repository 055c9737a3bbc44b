"""All that is called of TensorRT exists, in TensorRT 10 and 11 alike: in the lists made from NVIDIA's wheels
(`tensorrt_api/generate.py`), and in the wheel that is installed, if one is.

The calls are those of our protocols; that nothing else is called, mypy sees to. Enumerations' members, which
they leave open, are collected from the sources.
"""

from __future__ import annotations

import ast
import inspect
import json
import logging
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest

from export.tensorrt_api.generate import BINDINGS, ENUMS, WHEELS, described
from repository import ROOT, modules
from secondlook.engine.encoders import tensorrt as running
from secondlook.engine.encoders import tensorrt_api as api
from secondlook.engine.encoders.plan_manifest import HardwareCompatibility

API = Path(__file__).parent / "tensorrt_api"
SOURCES = [
    *(ROOT / "engine/secondlook/engine/encoders").glob("tensorrt*.py"),
    *modules(ROOT / "export/secondlook/export"),
]
TO_RUN: dict[type, str] = {
    api.Plan: "ICudaEngine",
    api.Context: "IExecutionContext",
    api.Runtime: "Runtime",
    api.TensorRt: "",
}
TO_BUILD: dict[type, str] = {
    api.Builder: "Builder",
    api.Config: "IBuilderConfig",
    api.HostMemory: "IHostMemory",
    api.InspectablePlan: "ICudaEngine",
    api.Inspector: "EngineInspector",
    api.Network: "INetworkDefinition",
    api.Parser: "OnnxParser",
    api.ParserError: "ParserError",
    api.Profile: "IOptimizationProfile",
    api.TensorRtBuilder: "",
    api.TimingCache: "ITimingCache",
}
"""TensorRT's class of each protocol; "" is the module."""
OURS = {"Enumerator", "Logger"}
"""Protocols that are no class of TensorRT's: any enumeration's member, and our logger."""
ONLY_SOME_HAVE = {"HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY"}
"""Members whose absence the builder reports, instead of expecting them."""


def listed(version: str, library: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((API / f"{version}.json").read_text(encoding="utf-8"))[library]
    return found


def missing(protocols: dict[type, str], there: dict[str, Any]) -> list[str]:
    """What the protocols name and the bindings lack, or have otherwise."""
    return [
        f"{protocol.__name__}.{name}"
        for protocol, kind in protocols.items()
        for name, member in [*vars(protocol).items(), *protocol.__annotations__.items()]
        if not name.startswith("_") and not _there(name, member, kind, there)
    ]


def _there(name: str, member: Any, kind: str, there: dict[str, Any]) -> bool:
    classes, enums = there["classes"], there["enums"]
    if not kind:  # the module's own: classes that are called, classes and enumerations that are read
        if inspect.isfunction(member):
            return _takes(classes.get(name, {}).get("__init__", []), member)
        return name in classes or name in enums
    found = classes.get(kind, {}).get(name)
    if inspect.isfunction(member):
        return isinstance(found, list) and _takes(found, member)
    return found in ("read", "write") if isinstance(member, property) else found == "write"


def _takes(signatures: list[str], function: Any) -> bool:
    """Whether a signature has the function's parameters, by name and place, and needs no others."""
    wanted = list(inspect.signature(function).parameters)[1:]
    for signature in signatures:
        inside = signature[1 : signature.rindex(") ->")]
        has = [part.split(":")[0].strip() for part in re.split(r", (?=\w+:)", inside)][1:]
        optional = {part.split(":")[0].strip() for part in re.split(r", (?=\w+:)", inside) if " = " in part}
        if has[: len(wanted)] == wanted and set(has[len(wanted) :]) <= optional:
            return True
    return False


def used_of_module() -> set[str]:
    """`A` and `A.B` for every `trt.A` and `trt.A.B` in the sources."""
    found = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (name := _dotted(node)).startswith("trt."):
                found.add(name.removeprefix("trt."))
    return {name for name in found if not name.startswith("__")}


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def members_in_words() -> set[str]:
    """Members of enumerations that the sources compare or look up as words."""
    return {
        *(f"DataType.{name}" for name in running._DTYPES.values()),
        *(f"ILogger.Severity.{name}" for name in api._LEVELS),
        *(f"TensorIOMode.{name}" for name in ("INPUT", "OUTPUT")),
        *(f"HardwareCompatibilityLevel.{name.upper()}" for name in get_args(HardwareCompatibility)),
    } - ONLY_SOME_HAVE


def lacks(there: dict[str, Any], names: set[str]) -> set[str]:
    members = {f"{enum}.{name}" for enum, found in there["enums"].items() for name in found}
    return names - members - set(there["classes"]) - set(there["enums"])


@pytest.mark.parametrize("version", WHEELS)
@pytest.mark.parametrize("library", BINDINGS)
def test_all_that_runs_plans_exists(version: str, library: str) -> None:
    there = listed(version, library)
    assert not missing(TO_RUN, there)
    assert not lacks(there, members_in_words())


@pytest.mark.parametrize("version", WHEELS)
def test_all_that_builds_plans_exists(version: str) -> None:
    there = listed(version, "tensorrt")
    assert not missing(TO_BUILD, there)
    assert not lacks(there, used_of_module())


def test_every_protocol_is_compared() -> None:
    defined = {
        name
        for name, value in vars(api).items()
        if getattr(value, "_is_protocol", False) and value.__module__ == api.__name__
    }
    assert {protocol.__name__ for protocol in (*TO_RUN, *TO_BUILD)} | OURS == defined


def test_precision_is_never_a_flag_and_enumerations_are_those_that_are_listed() -> None:
    used = used_of_module()
    assert "NetworkDefinitionCreationFlag.STRONGLY_TYPED" in used
    assert not {name for name in used if re.search(r"FP16|BF16|INT8|EXPLICIT_BATCH|PRECISION", name)}
    assert {name.split(".")[0] for name in used if "." in name} <= set(ENUMS)


def installed(library: str) -> Any:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    return import_module(library)


@pytest.mark.parametrize("library", BINDINGS)
def test_all_exists_in_the_installed_wheel(library: str) -> None:
    there = described(installed(library))
    assert not missing(TO_RUN, there)
    assert not lacks(there, members_in_words())
    if library == "tensorrt":
        assert not missing(TO_BUILD, there)
        assert not lacks(there, used_of_module())


@pytest.mark.parametrize("library", BINDINGS)
def test_the_installed_tensorrt_logs_through_python(library: str, caplog: pytest.LogCaptureFixture) -> None:
    trt = installed(library)
    logger: Any = api.python_logger(api.load_tensorrt(library))  # type: ignore[arg-type]
    with caplog.at_level(logging.DEBUG, logger=api.__name__):
        for name in api._LEVELS:
            logger.log(getattr(trt.ILogger.Severity, name), f"about {name}")
    assert [(one.levelname, one.message) for one in caplog.records] == [
        ("CRITICAL", "about INTERNAL_ERROR"),
        ("ERROR", "about ERROR"),
        ("WARNING", "about WARNING"),
        ("INFO", "about INFO"),
        ("DEBUG", "about VERBOSE"),
    ]
    assert logger.last_error == "about ERROR"
