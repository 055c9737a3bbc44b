"""What tests of plans have in place of a GPU: a TensorRT that is a version, and a plan run on the CPU."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Sequence
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
NAMES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "int64": "INT64", "bool": "BOOL"}


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
        runs: of each execution, how many the first input's first axis has, and the profile.
        fails: names of calls that TensorRT refuses.
    """

    def __init__(
        self,
        profiles: Sequence[BatchProfile],
        dtype: str = "float32",
        interface: Interface = INTERFACE,
        made: Callable[..., Any] = features_of,
    ) -> None:
        """
        Args:
            made: what the plan computes, a function of its inputs.
        """
        self.profiles, self.num_optimization_profiles = profiles, len(profiles)
        self._interface, self._made = interface.in_dtype(dtype), made
        self._tensors = {one.name: one for one in (*self._interface.inputs, *self._interface.outputs)}
        self.num_io_tensors = len(self._tensors)
        self.runs: list[tuple[int, int]] = []
        self.fails: set[str] = set()

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        taken = self._tensors[name] in self._interface.inputs
        return SimpleNamespace(name="INPUT" if taken else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=NAMES[self._tensors[name].dtype])

    def get_tensor_shape(self, name: str) -> list[int]:
        return [-1 if isinstance(length, str) else length for length in self._tensors[name].shape]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        one, axes = self.profiles[profile_index], self._interface.axes
        return [
            [axes[each].bounds(count, count)[end] if isinstance(each, str) else each for each in shape]
            for shape in [self._tensors[name].shape]
            for count, end in ((one.minimum, 0), (one.optimum, 1), (one.maximum, 1))
        ]

    def create_execution_context(self) -> Any:
        if "create_execution_context" in self.fails:
            return None
        state: dict[str, Any] = {"shapes": {}, "addresses": {}}

        def keep(call: str, kept: dict[str, Any], key: str, value: object) -> bool:
            kept[key] = value
            return call not in self.fails

        return SimpleNamespace(
            set_optimization_profile_async=lambda index, _stream: keep(
                "set_optimization_profile_async", state, "profile", index
            ),
            set_input_shape=lambda name, shape: keep("set_input_shape", state["shapes"], name, shape),
            set_tensor_address=lambda name, memory: keep(
                "set_tensor_address", state["addresses"], name, memory
            ),
            execute_async_v3=lambda _stream: self._execute(**state),
        )

    def _execute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int], profile: int) -> bool:
        for name, shape in shapes.items():
            least, _, most = self.get_tensor_profile_shape(name, profile)
            assert all(low <= length <= high for low, length, high in zip(least, shape, most, strict=True))
        self.runs.append((next(iter(shapes.values()))[0], profile))
        found = self._made(
            *(
                _memory(addresses[one.name], shapes[one.name], getattr(torch, one.dtype))
                for one in self._interface.inputs
            )
        )
        results = (found,) if isinstance(found, Tensor) else found
        for one, result in zip(self._interface.outputs, results, strict=True):
            _memory(addresses[one.name], tuple(result.shape), getattr(torch, one.dtype)).copy_(result)
        return "execute_async_v3" not in self.fails


def _memory(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    count = torch.Size(shape).numel()
    buffer = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(buffer, dtype=dtype, count=count).view(shape)
