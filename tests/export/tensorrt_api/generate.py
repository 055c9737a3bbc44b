"""Writes what TensorRT's Python bindings offer, version by version, from NVIDIA's own wheels on PyPI.

    PYTHONPATH=tests python -m export.tensorrt_api.generate

Needs pip, its index and a C compiler, but no GPU. A wheel of bindings holds one compiled module, whose
docstrings are its signatures; it links TensorRT's libraries, which for the full TensorRT are gigabytes and
not on PyPI. Nothing of them runs at import, so empty libraries of the same names stand in for them: this
reads names and signatures, and calls nothing. The lists are `VERSION.json` beside this file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

WHEELS: Final = {"10.3.0": "cu12", "10.16.1.11": "cu13", "11.0.0.114": "cu13", "11.4.0.106": "cu13"}
"""The versions, and the CUDA of their wheels: JetPack 6.1's, the last 10, the first and the newest 11."""

CLASSES: Final = (
    "Builder",
    "EngineInspector",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "ITensor",
    "ITimingCache",
    "OnnxParser",
    "ParserError",
    "Runtime",
)
ENUMS: Final = (
    "BuilderFlag",
    "DataType",
    "HardwareCompatibilityLevel",
    "ILogger.Severity",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "ProfilingVerbosity",
    "TensorIOMode",
)
BINDINGS: Final = {
    "tensorrt": (
        "tensorrt-{cuda}-bindings",
        "tensorrt_bindings",
        ("nvinfer", "nvinfer_plugin", "nvonnxparser"),
    ),
    "tensorrt_lean": ("tensorrt-lean-{cuda}-bindings", "tensorrt_lean_bindings", ("nvinfer_lean",)),
}
"""By the module that users import: the distribution of its bindings, their module, and what that links."""

_NORMAL: Final = {
    r"tensorrt(?:_lean)?_bindings\.tensorrt(?:_lean)?\.": "",
    r"typing\.SupportsInt(?: \| typing\.SupportsIndex)?": "int",
    r"typing\.SupportsFloat(?: \| typing\.SupportsIndex)?": "float",
    r"typing_extensions\.Buffer|collections\.abc\.Buffer|\bbuffer\b": "Buffer",
    r"nvinfer1::|nvonnxparser::": "",
    r"typing\.|capsule::": "",
}
"""How generations of the binding generator write the same type."""


def described(module: Any) -> dict[str, Any]:
    """The classes and enumerations of loaded bindings; a class that they lack is left out."""
    classes = {name: _members(getattr(module, name)) for name in CLASSES if hasattr(module, name)}
    return {"classes": classes, "enums": {name: values for name in ENUMS if (values := _enum(module, name))}}


def _enum(module: Any, name: str) -> dict[str, int]:
    for part in name.split("."):
        module = getattr(module, part, None)
    return {member: int(value) for member, value in getattr(module, "__members__", {}).items()}


def _members(kind: type) -> dict[str, Any]:
    """Signatures of methods, and "read" or "write" of attributes; not the layers that a network can get."""
    found: dict[str, Any] = {}
    left_out = ("_", "add_") if kind.__name__ == "INetworkDefinition" else ("_",)
    for name in dir(kind):
        member = getattr(kind, name)
        if name.startswith(left_out) and name != "__init__":
            continue
        if isinstance(member, property):
            found[name] = "read" if member.fset is None else "write"
        elif callable(member) and (signatures := _signatures(name, member.__doc__ or "")):
            found[name] = signatures
    return found


def _signatures(name: str, text: str) -> list[str]:
    lines = re.findall(rf"^(?:\d+\. )?{name}(\(.*\) -> .*)$", text, re.MULTILINE)
    for pattern, plain in _NORMAL.items():
        lines = [re.sub(pattern, plain, line) for line in lines]
    return [line for line in lines if "*args" not in line]


def main() -> None:
    for version, cuda in WHEELS.items():
        with tempfile.TemporaryDirectory() as folder:
            apis = {
                name: _of_wheel(
                    Path(folder) / name, distribution.format(cuda=cuda), version, module, libraries
                )
                for name, (distribution, module, libraries) in BINDINGS.items()
            }
        path = Path(__file__).parent / f"{version}.json"
        path.write_text(json.dumps(apis, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        sys.stdout.write(f"{path}\n")


def _of_wheel(
    folder: Path, distribution: str, version: str, module: str, libraries: tuple[str, ...]
) -> dict[str, Any]:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", str(folder), f"{distribution}=={version}"], check=True)
    (wheel,) = folder.iterdir()
    with ZipFile(wheel) as opened:
        opened.extractall(folder)
    functions = "".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in _wanted(folder / module))
    for library in libraries:
        name = f"lib{library}.so.{version.split('.')[0]}"
        compiler = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / name), f"-Wl,-soname,{name}"]
        subprocess.run(compiler, input=functions, text=True, check=True)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(folder),
        "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
    }
    code = (
        "import json; from importlib import import_module; "
        "from export.tensorrt_api.generate import described; "
        f"print(json.dumps(described(import_module('{module}'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    described_here: dict[str, Any] = json.loads(done.stdout)
    return described_here


def _wanted(package: Path) -> list[str]:
    """The functions of TensorRT's libraries that the compiled module calls."""
    (module,) = package.glob("tensorrt*.so")
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", module], capture_output=True, text=True, check=True
    )
    return re.findall(r" U (\w*(?:Infer|NvOnnx|PluginRegistry)\w*)$", listed.stdout, re.MULTILINE)


if __name__ == "__main__":
    main()
