"""What tests of plans have in place of a GPU: a TensorRT that is a version, and a plan run on the CPU."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from secondlook.edge.wire import Fixed, View
from secondlook.engine.encoders import tensorrt, tensorrt_api
from secondlook.engine.encoders.manifest import EncoderManifest, GraphDType, Parity
from secondlook.engine.encoders.plan_manifest import Machine
from secondlook.engine.encoders.profiles import BatchProfile
from secondlook.engine.models.pictures import Normalisation
from secondlook.engine.models.vision import Axis, Interface, TensorType
from secondlook.export import inspecting, plans
from secondlook.export.building import BuiltPlan

CPU = torch.device("cpu")
L4 = Machine("NVIDIA L4", "8.9", "580.65.06")
A100 = Machine("NVIDIA A100-SXM4-80GB", "8.0", "580.65.06")
SIDE, TOKENS, WIDTH = 4, 3, 2
INTERFACE = Interface(
    (TensorType("pixel_values", ("batch", 3, SIDE, SIDE)),),
    (TensorType("features", ("batch", TOKENS, WIDTH)),),
    {"batch": Axis(1, 1)},
)
VIEW = View(size=Fixed(width=SIDE, height=SIDE))
NAMES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}


def write_graph(folder: Path, dtype: GraphDType = "float32") -> EncoderManifest:
    """A folder like those that `secondlook export` writes, with no graph in it."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = dtype if dtype != "int8" else "float32"
    files = {"encoder.onnx": b"graph", "encoder.onnx.data": b"weights of " + dtype.encode()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = EncoderManifest(
        model="demo",
        weights={kind: "1234"},
        dtype=dtype,
        opset=18,
        graphs={"encoder": INTERFACE.in_dtype(kind)},
        normalisation=Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        views=(VIEW, VIEW),
        tools={"torch": "2.13.0"},
        parity=Parity(**{field.name: 1 for field in fields(Parity)}),
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    manifest.write(folder)
    return manifest


class Installed:
    """The TensorRT that is installed, on this machine, and what was done with it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.timings: list[bytes] = []
        """What each build was given to know of the last."""
        self.opened: list[bytes] = []
        """Plans that were executed."""

        def build(*arguments: Any) -> BuiltPlan:
            self.timings.append(arguments[-1])
            return BuiltPlan(memoryview(b"a plan"), memoryview(arguments[-1] + b"+"))

        def deserialize(trt: Any, manifest: Any, plan: bytes) -> Any:
            self.opened.append(plan)
            return SimpleNamespace(plan=None)

        patch.setattr(plans, "build_plan", build)
        patch.setattr(tensorrt, "deserialize", deserialize)
        patch.setattr(
            tensorrt,
            "TensorRtVisionEncoder",
            lambda *_arguments: None,
        )
        self.use()

    def use(self, machine: Machine = L4, version: str = "11.4.0.106", name: str = "tensorrt") -> None:
        module = SimpleNamespace(__name__=name, __version__=version)

        def find(wanted: str) -> Any:
            if wanted == name:
                return module
            raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted)

        self._patch.setattr(tensorrt_api, "import_module", find)
        for user in (tensorrt, plans, inspecting):
            self._patch.setattr(user, "this_machine", lambda _device: machine)


def features_of(pixels: Tensor) -> Tensor:
    """What stands for the vision tower: [n, TOKENS, WIDTH] of [n, 3, SIDE, SIDE]."""
    scale = torch.arange(1, TOKENS * WIDTH + 1, dtype=pixels.dtype, device=pixels.device)
    return pixels.mean(dim=(1, 2, 3))[:, None].mul(scale).view(-1, TOKENS, WIDTH)


class PlanOnCpu:
    """TensorRT's ICudaEngine and its contexts in one: reads and writes memory at the addresses it is told.

    Attributes:
        runs: (pictures, profile) of each execution.
        fails: names of calls that TensorRT refuses.
    """

    num_io_tensors = 2

    def __init__(self, profiles: Sequence[BatchProfile], dtype: str = "float32") -> None:
        self.profiles, self.dtype, self.num_optimization_profiles = profiles, dtype, len(profiles)
        self.runs: list[tuple[int, int]] = []
        self.fails: set[str] = set()

    def get_tensor_name(self, index: int) -> str:
        return ("pixel_values", "features")[index]

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="INPUT" if name == "pixel_values" else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=NAMES[self.dtype])

    def get_tensor_shape(self, name: str) -> list[int]:
        return [-1, 3, SIDE, SIDE] if name == "pixel_values" else [-1, TOKENS, WIDTH]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        one = self.profiles[profile_index]
        return [[batch, 3, SIDE, SIDE] for batch in (one.minimum, one.optimum, one.maximum)]

    def create_execution_context(self) -> Any:
        if "create_execution_context" in self.fails:
            return None
        state: dict[str, int] = {}

        def keep(call: str, key: str, value: int) -> bool:
            state[key] = value
            return call not in self.fails

        return SimpleNamespace(
            set_optimization_profile_async=lambda index, _stream: keep(
                "set_optimization_profile_async", "profile", index
            ),
            set_input_shape=lambda _name, shape: keep("set_input_shape", "batch", shape[0]),
            set_tensor_address=lambda name, memory: keep("set_tensor_address", name, memory),
            execute_async_v3=lambda _stream: self._execute(state),
        )

    def _execute(self, state: dict[str, int]) -> bool:
        batch, dtype = state["batch"], getattr(torch, self.dtype)
        assert batch in self.profiles[state["profile"]]
        self.runs.append((batch, state["profile"]))
        pixels = _memory(state["pixel_values"], (batch, 3, SIDE, SIDE), dtype)
        _memory(state["features"], (batch, TOKENS, WIDTH), dtype).copy_(features_of(pixels))
        return "execute_async_v3" not in self.fails


def _memory(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    count = torch.Size(shape).numel()
    buffer = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(buffer, dtype=dtype, count=count).view(shape)
