"""Each custom operator beside the PyTorch composition it replaces and the time its bytes take to copy.

The last line of `secondlook bench kernels` is one JSON object with the environment and `rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.timing import copy_bandwidth, side_by_side
from secondlook.kernels import attention_row, find_region, token_statistics
from secondlook.kernels.library import status

__all__ = ["OperatorRow", "bench_operators", "rows_text"]

_RATIOS: Final = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


@dataclass(frozen=True)
class OperatorRow:
    """One operator on one input. Times in microseconds; speedup is the composition's over the operator's."""

    operator: str
    device: str
    dtype: str
    shape: str
    microseconds: float
    composition_microseconds: float
    floor_microseconds: float
    speedup: float


@dataclass(frozen=True)
class _Case:
    operator: str
    dtype: torch.dtype
    shape: str
    fused: Callable[[], Any]
    composition: Callable[[], Any]
    bytes: int


def bench_operators(device: torch.device) -> dict[str, Any]:
    """Measure every operator on a device: environment, bandwidth and rows, for JSON."""
    backend = status("cuda" if device.type == "cuda" else "cpu")
    bandwidth = copy_bandwidth(device)
    rows = []
    for case in _cases(device):
        fused, composition = side_by_side([case.fused, case.composition], device)
        rows.append(
            OperatorRow(
                operator=case.operator,
                device=device.type,
                dtype=str(case.dtype).removeprefix("torch."),
                shape=case.shape,
                microseconds=fused * 1e6,
                composition_microseconds=composition * 1e6,
                floor_microseconds=case.bytes / bandwidth * 1e6,
                speedup=composition / fused,
            )
        )
    return {
        "environment": environment(str(device), "various"),
        "implementation": backend.source,
        "threads": torch.get_num_threads(),
        "copy_gigabytes_per_second": bandwidth / 1e9,
        "rows": [asdict(row) for row in rows],
    }


def rows_text(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    lines = [f"{'operator':18}{'dtype':10}{'shape':34}{'us':>9}{'PyTorch':>10}{'floor':>9}{'speedup':>9}"]
    lines += [
        f"{row['operator']:18}{row['dtype']:10}{row['shape']:34}{row['microseconds']:9.1f}"
        f"{row['composition_microseconds']:10.1f}{row['floor_microseconds']:9.2f}{row['speedup']:8.1f}x"
        for row in report["rows"]
    ]
    return "\n".join(lines)


def _cases(device: torch.device) -> Iterator[_Case]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    narrow = torch.float16 if device.type == "cuda" else torch.bfloat16
    for batch in (1, 8, 64):
        for dtype in (torch.float32, narrow):
            yield _statistics_case(4 * normal(batch, 32064, dtype=dtype))
    for dtype in (torch.float32, narrow):
        query, keys = normal(1, 32, 128, dtype=dtype), normal(1, 32, 1300, 128, dtype=dtype)
        yield _attention_case(query, keys, 5, 581)
    for side in (12, 24):
        maps = normal(2, side * side, dtype=torch.float32).exp()
        yield _region_case(maps[:1], maps[1:], side)


def _statistics_case(logits: Tensor) -> _Case:
    return _Case(
        "token_statistics",
        logits.dtype,
        f"B={logits.shape[0]} V={logits.shape[1]}",
        lambda: token_statistics(logits),
        lambda: _statistics_composition(logits),
        logits.numel() * logits.element_size(),
    )


def _statistics_composition(logits: Tensor) -> tuple[Tensor, ...]:
    probabilities = torch.softmax(logits.float(), dim=-1)
    best, index = probabilities.topk(2, dim=-1)
    shannon = -torch.xlogy(probabilities, probabilities).sum(-1)
    return index[:, 0], -best[:, 0].log(), shannon, 1 - (best[:, 0] - best[:, 1])


def _attention_case(query: Tensor, keys: Tensor, start: int, stop: int) -> _Case:
    batch, heads, length, width = keys.shape
    lengths = torch.full((batch,), length, device=keys.device)
    scale = width**-0.5
    return _Case(
        "attention_row",
        query.dtype,
        f"B={batch} H={heads} S={length} D={width}",
        lambda: attention_row(query, keys, lengths, start, stop, scale),
        lambda: (
            ((query[:, :, None] @ keys.transpose(2, 3)).float() * scale)
            .softmax(-1)
            .mean(1)[:, 0, start:stop]
            .contiguous()
        ),
        keys.numel() * keys.element_size(),
    )


def _region_case(question: Tensor, generic: Tensor, side: int) -> _Case:
    size = (3000, 2000)
    sizes = torch.tensor([size], device=question.device)
    return _Case(
        "find_region",
        question.dtype,
        f"{side}x{side} cells",
        lambda: find_region(question, generic, side, side, sizes, 336, list(_RATIOS), 1),
        lambda: _region_composition(question, generic, side, size),
        2 * question.numel() * question.element_size(),
    )


def _region_composition(question: Tensor, generic: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """Divide, window sums by average pooling, and the best window of each ratio, left on the device."""
    relative = (question / generic).view(1, 1, side, side)
    best = []
    for ratio in _RATIOS:
        nx = min(int(336 * ratio / (size[0] / side)), side)
        ny = min(int(336 * ratio / (size[1] / side)), side)
        sums = functional.avg_pool2d(relative, (ny, nx), 1)[0, 0] * (nx * ny)
        place = sums.argmax()
        around = functional.pad(sums, (1, 1, 1, 1))
        neighbours = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
        sharpness = (sums - neighbours / 4).flatten()[place] / (nx * ny)
        best.append(torch.stack([sharpness, place.to(sharpness.dtype)]))
    ranked = torch.stack(best)
    return ranked[ranked[:, 0].argmax()]
