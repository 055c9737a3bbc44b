"""The vision encoder in torch, ONNX Runtime and OpenVINO on the CPU, in turns, on equal weights and pictures.

*openvino-bare* is OpenVINO as its own benchmark has it: the same graph compiled for one size of batch, with
its own choice of everything but precision, the number of threads and that latency counts.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from secondlook.benchmarks.latency.flow import Stopwatch, fresh_requests
from secondlook.benchmarks.latency.subject import Preset, random_model, served
from secondlook.benchmarks.options import Graph, VisionRun
from secondlook.benchmarks.timing import milliseconds
from secondlook.edge.geometry import Size
from secondlook.engine.encoders.manifest import TOLERANCES, graph_file
from secondlook.engine.encoders.openvino import (
    HINTS,
    GraphPrecision,
    OpenVinoVisionEncoder,
    compile_graph,
    load_openvino,
    precisions,
)
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.packing import pack_linear_layers
from secondlook.engine.models.vision import Interface, VisionEncoder
from secondlook.export.graph import DEFAULT_OPSET, write_encoder

_WARMUPS: Final = 2
_BASELINE: Final = "torch float32"
_GRAPHS: Final = (Graph.float32, Graph.int8)
"""Precisions measured by default."""
_BATCHES: Final = (1, 2)
"""Pictures encoded at once: one for a first look, two where an edge sends both."""


def bench_vision(preset: Preset, run: VisionRun) -> dict[str, Any]:
    console = Console(stderr=True)
    with console.status(f"making {preset.name} ..."):
        model = _encoder_only(preset, run.seed)
    with _encoders(model, run.graph or _GRAPHS, console) as encoders:
        rows = list[dict[str, Any]]()
        for batch in _BATCHES:
            pictures = _pixels(model, batch, run)
            rows += _rows(batch, _measured(encoders, pictures, console, f"batches of {batch}"))
    speedups = {
        f"speedup_{runtime}_float32": min(found)
        for runtime in ("onnx", "openvino")
        if (found := [row["speedup"] for row in rows if row["encoder"] == f"{runtime} float32"])
    }
    return {
        **speedups,
        **_beside_bare(rows),
        "weights": "random",
        "rows": rows,
    }


@contextmanager
def _encoders(
    model: VisionLanguageModel, graphs: Sequence[Graph], console: Console
) -> Iterator[dict[str, VisionEncoder]]:
    plain: Any = copy.deepcopy(model.vision_module())  # with torch's own linear layers
    narrow, packed = (copy.deepcopy(plain).to(torch.bfloat16) for _ in range(2))
    for part in packed.children():  # of which are what is packed when a model is loaded
        if not isinstance(part, nn.Linear):
            pack_linear_layers(part)
    encoders: dict[str, VisionEncoder] = {
        _BASELINE: plain,
        "torch bfloat16": lambda pixels: narrow(pixels.to(torch.bfloat16)).to(pixels.dtype),
        "engine float32": model.vision_module(),
        "engine bfloat16": lambda pixels: packed(pixels.to(torch.bfloat16)).to(pixels.dtype),
    }
    with TemporaryDirectory() as folder:
        for dtype in (graph.value for graph in graphs):
            with console.status(f"exporting in {dtype} ..."):
                place = Path(folder) / dtype
                place.mkdir()
                written = write_encoder(model, dtype, DEFAULT_OPSET, place)
                (encoders[f"onnx {dtype}"],) = written.open()
                if dtype == "float32":
                    encoders |= _in_openvino(place, written.graphs)
        yield encoders


def _in_openvino(folder: Path, graphs: dict[str, Interface]) -> Iterator[tuple[str, VisionEncoder]]:
    """Of the float32 graph, in the precisions that this processor has products in: as served, and bare."""
    runtime = load_openvino()
    core = runtime.Core()
    ((name, interface),) = graphs.items()
    for precision in precisions(core):
        compiled = compile_graph(core, folder / graph_file(name), precision)
        yield f"openvino {precision}", OpenVinoVisionEncoder(runtime, compiled, interface)
        yield f"openvino-bare {precision}", _Bare(runtime, core, folder / graph_file(name), precision)


class _Bare:
    """OpenVINO with a graph compiled for one size of batch, and anew when another comes."""

    def __init__(self, runtime: Any, core: Any, graph: Path, precision: GraphPrecision) -> None:
        self._runtime, self._core, self._graph = runtime, core, graph
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self._request: Any = None
        self._shape = torch.Size()

    def __call__(self, pixels: Tensor) -> Tensor:
        if pixels.shape != self._shape:
            self._request = None  # gives its memory back before more is taken
            model = self._core.read_model(self._graph)
            model.reshape(list(pixels.shape))
            compiled = self._core.compile_model(model, "CPU", self._settings)
            self._request, self._shape = compiled.create_infer_request(), pixels.shape
        self._request.set_input_tensor(self._runtime.Tensor(pixels.numpy(), shared_memory=True))
        self._request.infer()
        return torch.from_numpy(self._request.get_output_tensor().data.copy())


def _beside_bare(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How many times what OpenVINO takes by itself ours takes, of every precision the worst batch."""
    times = {(row["encoder"], row["batch"]): row["p50_ms"] for row in rows}
    found = dict[str, float]()
    for (encoder, batch), bare in times.items():
        runtime, precision = encoder.split()
        if runtime == "openvino-bare":
            name = f"openvino_{precision}_beside_bare"
            found[name] = max(found.get(name, 0.0), times[f"openvino {precision}", batch] / bare)
    return found


def _encoder_only(preset: Preset, seed: int) -> VisionLanguageModel:
    """The preset's model with random weights, and a decoder of one layer, which nothing here runs."""
    config = copy.deepcopy(preset.config)
    config.get_text_config().num_hidden_layers = 1
    return served(preset, random_model(config, torch.float32, torch.device("cpu"), seed))


def _pixels(model: VisionLanguageModel, batch: int, run: VisionRun) -> Iterator[Tensor]:
    """New pictures [batch, 3, S, S] for the warm-ups and each repeat."""
    normalise = model.normalisation.on(model.device)
    requests = fresh_requests(model.global_view, 1, (_WARMUPS + run.repeats) * batch, run.seed)
    for _ in range(_WARMUPS + run.repeats):
        images = [next(requests).global_image for _ in range(batch)]
        pictures = [model.picture(image, model.global_view, Size(*image.size)) for image in images]
        yield normalise(pictures)


def _measured(
    encoders: dict[str, VisionEncoder], pictures: Iterator[Tensor], console: Console, what: str
) -> dict[str, list[tuple[float, float]]]:
    """Seconds and relative error of every encoder on every picture, another one first each time."""
    names = list(encoders)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    # Redrawn between the rounds only: a thread for it would take its time from what is measured.
    for number, pixels in enumerate(track(list(pictures), what, console=console, auto_refresh=False)):
        first = number % len(names)
        found: dict[str, tuple[float, Tensor]] = {}
        for name in (*names[first:], *names[:first]):
            watch = Stopwatch(pixels.device)
            features = encoders[name](pixels)
            found[name] = watch.read(), features
        if number >= _WARMUPS:
            for name, (seconds, features) in found.items():
                samples[name].append((seconds, _relative_error(features, found[_BASELINE][1])))
    return samples


def _relative_error(features: Tensor, truth: Tensor) -> float:
    return float(((features - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)).max())


def _rows(batch: int, samples: dict[str, list[tuple[float, float]]]) -> Iterator[dict[str, Any]]:
    """Times, the speedup of medians over torch in float32, the largest error of all pictures against it, and
    whether that is within what the gate allows this precision."""
    tolerances = {str(dtype): tolerance for dtype, tolerance in TOLERANCES.items()}
    baseline = statistics.median(seconds for seconds, _ in samples[_BASELINE])
    for name, own in samples.items():
        seconds, errors = zip(*own, strict=True)
        yield {
            "encoder": name,
            "batch": batch,
            **milliseconds(seconds, 50, 90),
            "max_ms": 1e3 * max(seconds),
            "speedup": baseline / statistics.median(seconds),
            "relative_error": max(errors),
            "passes": max(errors) <= tolerances[name.split()[1]],
            "count": len(own),
        }
