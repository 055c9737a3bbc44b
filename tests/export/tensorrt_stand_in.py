"""A stand-in for the module `tensorrt` that runs on the CPU and notes what is called, in which order.

It shows no more than that: a plan is a few numbers as JSON, and running one reads and writes memory at the
addresses that it was told, with a formula in place of a vision tower (`features_of`).
"""

# ruff: noqa: N802, A002, A006  # the names are TensorRT's

from __future__ import annotations

import ctypes
import hashlib
import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from export.tensorrt_api.generate import ENUMS
from secondlook.engine.encoders import tensorrt as runtime
from secondlook.engine.encoders import tensorrt_api
from secondlook.engine.encoders.engine_manifest import Machine
from secondlook.engine.encoders.manifest import EncoderManifest, GraphDType, Parity, TensorType
from secondlook.engine.models.vision import Preprocessing

API = Path(__file__).parent / "tensorrt_api"
CPU = torch.device("cpu")
L4 = Machine("NVIDIA L4", "8.9", "580.65.06")
SIDE, TOKENS, WIDTH = 4, 3, 2
STREAM = 77
TORCH = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16}
NAMES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}


def features_of(pixels: Tensor) -> Tensor:
    """What stands for the vision tower: [n, TOKENS, WIDTH] of [n, 3, SIDE, SIDE]."""
    scale = torch.arange(1, TOKENS * WIDTH + 1, dtype=pixels.dtype, device=pixels.device)
    return pixels.mean(dim=(1, 2, 3))[:, None].mul(scale).view(-1, TOKENS, WIDTH)


class StandIn:
    """The module, of one version; what it offers beyond enumerations is in the classes below.

    Attributes:
        calls: (name, arguments) of everything that was called.
        fails: names of calls that fail the way TensorRT's do.
    """

    def __init__(self, version: str = "11.4.0.106", name: str = "tensorrt") -> None:
        self.__name__, self.__version__ = name, version
        self.calls: list[tuple[Any, ...]] = []
        self.fails: set[str] = set()
        listed = json.loads((API / f"{version}.json").read_text(encoding="utf-8"))[name]["enums"]
        for enum in ENUMS:
            members = {key: Member(key, value) for key, value in listed.get(enum, {}).items()}
            setattr(self, enum.split(".")[-1], SimpleNamespace(**members))
        self.ILogger = type("ILogger", (), {"__init__": lambda self: None})

    def note(self, *call: Any) -> bool:
        self.calls.append(call)
        return call[0] not in self.fails

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def Runtime(self, logger: Any) -> Runtime:
        if not self.note("Runtime"):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return Runtime(self, logger)

    def Builder(self, logger: Any) -> Builder:
        if not self.note("Builder"):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return Builder(self, logger)

    def OnnxParser(self, network: Any, logger: Any) -> Parser:
        self.note("OnnxParser")
        return Parser(self, network)


class Member(int):
    """A member of an enumeration."""

    name: str

    def __new__(cls, name: str, value: int) -> Member:
        made = super().__new__(cls, value)
        made.name = name
        return made


class Builder:
    def __init__(self, trt: StandIn, logger: Any) -> None:
        self.trt, self.logger = trt, logger

    def create_network(self, flags: int) -> SimpleNamespace:
        self.trt.note("create_network", flags)
        return SimpleNamespace(graph=None)

    def create_builder_config(self) -> Config:
        return Config(self.trt)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
        if not self.trt.note("build_serialized_network"):
            self.logger.log(self.trt.Severity.ERROR, "out of tactics\n")
            return None
        graph = json.loads(network.graph.read_text(encoding="utf-8"))
        return json.dumps({**graph, "profiles": [one.shapes for one in config.profiles]}).encode()


class Profile:
    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self.shapes = [min, opt, max]


class Config:
    def __init__(self, trt: StandIn) -> None:
        self.__dict__.update(trt=trt, profiles=[], timing=None)

    def __setattr__(self, name: str, value: Any) -> None:
        self.trt.note(name, value.name)

    def set_flag(self, flag: Member) -> None:
        self.trt.note("set_flag", flag.name)

    def clear_flag(self, flag: Member) -> None:
        self.trt.note("clear_flag", flag.name)

    def set_memory_pool_limit(self, pool: Member, pool_size: int) -> None:
        self.trt.note("set_memory_pool_limit", pool.name, pool_size)

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1 if self.trt.note("add_optimization_profile") else -1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> SimpleNamespace:
        self.trt.note("create_timing_cache", serialized_timing_cache)
        return SimpleNamespace(serialize=lambda: serialized_timing_cache + b"+")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self.__dict__["timing"] = cache
        taken = self.trt.note("set_timing_cache", ignore_mismatch)
        self.trt.fails.discard("set_timing_cache")  # what is empty is always taken
        return taken

    def get_timing_cache(self) -> Any:
        return self.timing


class Parser:
    num_errors = 1

    def __init__(self, trt: StandIn, network: Any) -> None:
        self.trt, self.network = trt, network

    def parse_from_file(self, model: str) -> bool:
        self.network.graph = Path(model)
        return self.trt.note("parse_from_file", model)

    def get_error(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(
            desc=lambda: "no such operator\n", node_name=lambda: "/blocks/3", node_operator=lambda: "Swirl"
        )


class Runtime:
    def __init__(self, trt: StandIn, logger: Any) -> None:
        self.trt, self.logger, self.engine_host_code_allowed = trt, logger, False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        if not self.trt.note("deserialize_cuda_engine", self.engine_host_code_allowed):
            self.logger.log(self.trt.Severity.ERROR, "the plan is of another platform")
            return None
        return Engine(self.trt, json.loads(serialized_engine))


class Engine:
    def __init__(self, trt: StandIn, plan: dict[str, Any]) -> None:
        self.trt, self.plan, self.num_io_tensors = trt, plan, 2
        self.num_optimization_profiles = len(plan["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return ("pixel_values", "features")[index]

    def get_tensor_mode(self, name: str) -> Any:
        return getattr(self.trt.TensorIOMode, "INPUT" if name == "pixel_values" else "OUTPUT")  # type: ignore[attr-defined]

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self.trt.DataType, self.plan["dtype"])  # type: ignore[attr-defined]

    def get_tensor_shape(self, name: str) -> list[int]:
        return [-1, 3, SIDE, SIDE] if name == "pixel_values" else [-1, TOKENS, self.plan["width"]]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
        return self.plan["profiles"][profile_index]

    def create_execution_context(self) -> Context | None:
        return Context(self) if self.trt.note("create_execution_context") else None

    def create_engine_inspector(self) -> SimpleNamespace:
        return SimpleNamespace(get_engine_information=lambda format: json.dumps({"Layers": ["a", "b"]}))


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.trt, self.addresses = engine, engine.trt, dict[str, int]()
        self.batch, self.profile = 0, -1

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return self.trt.note("set_optimization_profile_async", profile_index, stream_handle)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.plan["profiles"][self.profile]
        self.batch = shape[0]
        return self.trt.note("set_input_shape", shape) and low[0] <= shape[0] <= high[0]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return self.trt.note("set_tensor_address", name)

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not self.trt.note("execute_async_v3", self.batch, self.profile, stream_handle):
            return False
        dtype = TORCH[self.engine.plan["dtype"]]
        pixels = _memory(self.addresses["pixel_values"], (self.batch, 3, SIDE, SIDE), dtype)
        _memory(self.addresses["features"], (self.batch, TOKENS, WIDTH), dtype).copy_(features_of(pixels))
        return True


def _memory(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    count = torch.Size(shape).numel()
    buffer = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(buffer, dtype=dtype, count=count).view(shape)


def write_graph(folder: Path, dtype: GraphDType = "float32") -> EncoderManifest:
    """A folder like those that `secondlook export` writes, whose graph is for the stand-in."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = dtype if dtype != "int8" else "float32"
    files = {
        "encoder.onnx": json.dumps({"dtype": NAMES[kind], "width": WIDTH}).encode(),
        "encoder.onnx.data": b"weights of " + dtype.encode(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = EncoderManifest(
        model="demo",
        weights={kind: "1234"},
        feature_layer=-2,
        dtype=dtype,
        opset=18,
        input=TensorType("pixel_values", ("batch", 3, SIDE, SIDE), kind),
        output=TensorType("features", ("batch", TOKENS, WIDTH), kind),
        tokens=TOKENS,
        width=WIDTH,
        preprocessing=Preprocessing(SIDE, "squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        tools={"torch": "2.13.0"},
        parity=Parity(**{field.name: 1 for field in fields(Parity)}),
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    manifest.write(folder)
    return manifest


def use(module: StandIn, monkeypatch: pytest.MonkeyPatch, machine: Machine = L4) -> None:
    """Make this the installed TensorRT, and this the machine."""
    from secondlook.export.tensorrt import engines, inspect

    for user in (runtime, engines, inspect):
        monkeypatch.setattr(user, "this_machine", lambda device: machine)
    found = {module.__name__: module}
    monkeypatch.setattr(tensorrt_api, "import_module", lambda name: found.get(name) or _missing(name))
    monkeypatch.setattr(runtime, "capture", lambda work, pool: work)
    monkeypatch.setattr(tensorrt_api, "cuda_device", lambda name: CPU)
    for user in (runtime, inspect):
        monkeypatch.setattr(user, "current_stream", lambda device: STREAM)


def _missing(name: str) -> Any:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
