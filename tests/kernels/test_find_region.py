"""The region on the device: golden boxes, and the reference, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor

from properties import examples
from secondlook.kernels import library
from secondlook.kernels.find_region import MAX_CELLS, MAX_PIXELS, find_region, find_region_reference

GOLDEN = Path(__file__).parent.parent / "golden" / "region_cases.npz"
NO_REGION = [-1, -1, -1, -1]
RATIOS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


@dataclass(frozen=True)
class Choice:
    """What windows are tried."""

    crop_size: int
    ratios: tuple[float, ...] = RATIOS
    min_cells: int = 1


def check_all_agree(
    device: torch.device,
    question: NDArray[Any],
    generic: NDArray[Any],
    sizes: list[list[int]],
    choice: Choice,
) -> None:
    """Operator and reference, of a batch of maps [B, h, w]."""
    batch, rows, columns = question.shape
    arguments = (choice.crop_size, choice.ratios, choice.min_cells)
    asked = torch.from_numpy(question.reshape(batch, -1))
    plain = torch.from_numpy(generic.reshape(batch, -1))
    size = torch.tensor(sizes).reshape(batch, 2)
    found = find_region(asked.to(device), plain.to(device), rows, columns, size.to(device), *arguments)
    assert found.dtype == torch.int64
    assert found.device.type == device.type
    expected = find_region_reference(asked, plain, rows, columns, size, *arguments)
    assert found.tolist() == expected.tolist()


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file}


@pytest.mark.parametrize("search", [find_region, find_region_reference])
def test_golden_boxes_are_exact(
    device: torch.device, golden: dict[str, NDArray[Any]], search: Callable[..., Tensor]
) -> None:
    cases = len(golden["box"])
    assert cases == 80
    for case in range(cases):
        attention = torch.from_numpy(golden[f"map_{case:03}"]).double().to(device)
        size = torch.from_numpy(golden["image_size"][case : case + 1]).long().to(device)
        rows, columns = attention.shape
        flat = attention.reshape(1, -1)
        crop_size = int(golden["crop_size"][case])
        found = search(flat, torch.ones_like(flat), rows, columns, size, crop_size)
        assert found.tolist() == [golden["box"][case].tolist()], case


extremes = st.floats(0, allow_nan=False, allow_infinity=False)
usual = st.floats(0, 1, allow_subnormal=False)
few = st.integers(0, 3).map(float)  # many ties, also between windows of different sizes
choices = st.builds(
    Choice,
    st.integers(1, 2000),
    st.lists(st.integers(10, 40), min_size=1, max_size=8, unique=True).map(
        lambda tenths: tuple(tenth / 10 for tenth in sorted(tenths))
    ),
    st.integers(1, 4),
)


@st.composite
def batches(draw: st.DrawFn) -> tuple[NDArray[Any], NDArray[Any], list[list[int]]]:
    """Question and generic maps [B, h, w], and sizes."""
    dtype: type[Any] = draw(st.sampled_from([np.float32, np.float64]))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    maps = []
    for _ in range(2):
        elements = draw(st.sampled_from([extremes, usual, few]))
        values = draw(hnp.arrays(np.float64, shape, elements=elements))
        maps.append(np.minimum(values, np.finfo(dtype).max).astype(dtype))
    side = st.integers(1, 30_000)
    return maps[0], maps[1], [[draw(side), draw(side)] for _ in range(shape[0])]


@settings(
    max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches(), choices)
def test_operator_and_reference_agree(
    device: torch.device,
    batch: tuple[NDArray[Any], NDArray[Any], list[list[int]]],
    choice: Choice,
) -> None:
    check_all_agree(device, *batch, choice)


@pytest.mark.parametrize(
    "shape",
    [(1, 1), (1, 7), (7, 1), (24, 24), (33, 65), (75, 76), (76, 76), (80, 80), (256, 256), (512, 128)],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_grids_small_and_large(device: torch.device, shape: tuple[int, int], dtype: type) -> None:
    rng = np.random.default_rng(sum(shape))
    maps: NDArray[Any] = rng.random((2, 2, *shape)).astype(dtype) ** 4
    question, generic = maps
    generic[1][generic[1] < 0.1] = 0
    check_all_agree(device, question, generic, [[1300, 977], [640, 4000]], Choice(336))


@pytest.mark.parametrize("shape", [(1, MAX_CELLS), (MAX_CELLS, 1)])
def test_one_line_of_many_cells(device: torch.device, shape: tuple[int, int]) -> None:
    question = np.random.default_rng(0).random((1, *shape))
    size = [[MAX_CELLS * 3, 50]] if shape[0] == 1 else [[50, MAX_CELLS * 3]]
    check_all_agree(device, question, np.ones_like(question), size, Choice(30))


@pytest.mark.parametrize("value", [0.0, 1 / 576, 0.1, 5e-324, 1e308, 1 / 3])
def test_a_constant_map_ties_exactly_and_the_first_window_wins(device: torch.device, value: float) -> None:
    question = torch.full((1, 576), value, dtype=torch.float64, device=device)
    size = torch.tensor([[1200, 1000]], device=device)
    found = find_region(question, torch.ones_like(question), 24, 24, size, 336)
    assert found.tolist() == [[0, 0, 336, 336]]


def test_ties_go_to_the_first_in_x_major_order(device: torch.device) -> None:
    question = torch.zeros(1, 36, device=device)
    question[0, 5 * 6 + 1] = question[0, 0 * 6 + 4] = 1  # row 5, column 1 comes before row 0, column 4
    size = torch.tensor([[600, 600]], device=device)
    found = find_region(question, torch.ones_like(question), 6, 6, size, 100, (1.0,))
    assert found.tolist() == [[100, 500, 200, 600]]


def test_the_whole_image_where_the_first_window_covers_the_map(device: torch.device) -> None:
    question = torch.rand(2, 16, device=device)
    size = torch.tensor([[300, 200], [336, 336]], device=device)
    found = find_region(question, torch.ones_like(question), 4, 4, size, 336)
    assert found.tolist() == [[0, 0, 300, 200], [0, 0, 336, 336]]


def test_a_quotient_too_large_is_the_largest_number(device: torch.device) -> None:
    question = np.ones((1, 4, 4))
    generic = np.ones((1, 4, 4))
    question[0, 1, 2], generic[0, 1, 2] = 1e300, 1e-300
    check_all_agree(device, question, generic, [[400, 400]], Choice(100))


@settings(
    max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    hnp.arrays(np.float64, (1, 3, 5), elements=extremes),
    st.tuples(*[st.sampled_from([1, 2, 336, 30_000, MAX_PIXELS - 1, MAX_PIXELS])] * 2),
    st.sampled_from([1, 336, MAX_PIXELS]),
    st.sampled_from([(1.0,), (1.0, 1.5, 1e9), (1.1, 1e300, 1.7e308)]),
    st.sampled_from([1, 2, MAX_PIXELS]),
)
def test_the_largest_settings_are_sound(
    device: torch.device,
    question: NDArray[Any],
    size: tuple[int, int],
    crop_size: int,
    ratios: tuple[float, ...],
    min_cells: int,
) -> None:
    asked = torch.from_numpy(question.reshape(1, -1)).to(device)
    plain = torch.ones_like(asked)
    arguments = (asked, plain, 3, 5, torch.tensor([size], device=device), crop_size, ratios, min_cells)
    ((left, top, right, bottom),) = find_region(*arguments).tolist()
    assert find_region_reference(*arguments).tolist() == [[left, top, right, bottom]]
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1e-30])
@pytest.mark.parametrize("where", ["question", "generic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_no_attention_has_no_region(
    device: torch.device, bad: float, where: str, dtype: torch.dtype
) -> None:
    maps = torch.rand(2, 3, 600, dtype=dtype, device=device) + 0.1
    size = torch.tensor([[1000, 700]] * 3, device=device)
    expected = find_region(maps[0], maps[1], 20, 30, size, 200).tolist()
    for cell in (0, 333, 599):
        changed = maps.clone()
        changed[["question", "generic"].index(where), 1, cell] = bad
        for search in (find_region, find_region_reference):
            found = search(changed[0], changed[1], 20, 30, size, 200).tolist()
            assert found == [expected[0], NO_REGION, expected[2]]


@pytest.mark.parametrize("bad", [[0, 5], [5, 0], [-3, 5], [MAX_PIXELS + 1, 5], [5, 2**62], [-(2**63), 5]])
def test_impossible_sizes_have_no_region(device: torch.device, bad: list[int]) -> None:
    question = torch.rand(1, 12, device=device)
    size = torch.tensor([bad], device=device)
    for search in (find_region, find_region_reference):
        assert search(question, question, 3, 4, size, 20).tolist() == [NO_REGION]


def test_strided_rows_and_shared_rows(device: torch.device) -> None:
    wide = torch.rand(4, 101, device=device)
    question, generic = wide[::2, 1:49], torch.rand(1, 48, device=device).expand(2, -1)
    size = torch.tensor([[900, 700]], device=device).expand(2, -1)
    before = wide.clone()
    found = find_region(question, generic, 6, 8, size, 150)
    assert torch.equal(wide, before)
    plain = (question.contiguous(), generic.contiguous(), 6, 8, size.contiguous(), 150)
    assert torch.equal(found, find_region(*plain))
    assert torch.equal(found.cpu(), find_region_reference(*plain).cpu())


def test_no_rows_no_boxes(device: torch.device) -> None:
    nothing = torch.empty(0, 12, device=device)
    size = torch.empty(0, 2, dtype=torch.int64, device=device)
    for search in (find_region, find_region_reference):
        found = search(nothing, nothing, 3, 4, size, 20)
        assert found.shape == (0, 4)
        assert found.dtype == torch.int64


def test_many_rows_are_each_their_own(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(3)
    question = torch.rand(300, 64, generator=generator).to(device)
    generic = torch.rand(300, 64, generator=generator).to(device)
    size = torch.randint(100, 3000, (300, 2), generator=generator).to(device)
    found = find_region(question, generic, 8, 8, size, 90)
    assert torch.equal(found, find_region_reference(question, generic, 8, 8, size, 90))
    assert torch.equal(found, find_region(question, generic, 8, 8, size, 90))


def samples(device: torch.device) -> list[tuple[object, ...]]:
    ratios = list(RATIOS)
    maps = torch.rand(4, 576, device=device)
    size = torch.tensor([[2000, 1500], [500, 400]], device=device)
    return [
        (maps[:2], maps[2:], 24, 24, size, 336, ratios, 1),
        (maps[:2].double(), maps[2:].double(), 16, 36, size, 224, ratios, 2),
        (maps[::2, :35], maps[1::2, 1:36], 5, 7, size, 100, [1.0], 1),
        (maps[:0], maps[:0], 24, 24, size[:0], 336, ratios, 1),
        (maps[:1] * math.nan, maps[:1], 24, 24, size[:1], 336, ratios, 1),
    ]


@pytest.mark.parametrize("sample", range(5))
def test_opcheck(device: torch.device, sample: int) -> None:
    torch.library.opcheck(torch.ops.secondlook.find_region.default, samples(device)[sample])


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own use
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_it_compiles_into_a_whole_graph(device: torch.device, backend: str) -> None:
    def crop(question: Tensor, generic: Tensor, sizes: Tensor) -> Tensor:
        return find_region(question * 2, generic, 24, 24, sizes, 336)[:, :2]

    question, generic = torch.rand(2, 2, 576, device=device)
    size = torch.tensor([[2000, 1500], [500, 400]], device=device)
    compiled = torch.compile(crop, fullgraph=True, backend=backend)
    assert torch.equal(compiled(question, generic, size), crop(question, generic, size))


def test_mode_reference_runs_the_reference(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    question = torch.rand(2, 12, device=device)
    size = torch.tensor([[90, 80]] * 2, device=device)
    expected = find_region(question, question + 1, 3, 4, size, 20)
    monkeypatch.setattr(library._state, "mode", "reference")
    assert torch.equal(find_region(question, question + 1, 3, 4, size, 20), expected)


GOOD: dict[str, Any] = {
    "question": torch.rand(2, 12),
    "generic": torch.rand(2, 12),
    "rows": 3,
    "columns": 4,
    "sizes": torch.tensor([[90, 80], [70, 60]]),
    "crop_size": 20,
    "ratios": [1.0, 1.5],
    "min_cells": 1,
}


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (
            {"question": torch.rand(2, 12).half()},
            TypeError,
            r"question must be float32 or float64, .*float16",
        ),
        ({"generic": torch.rand(2, 12).double()}, TypeError, r"generic must be torch.float32 .*float64"),
        ({"sizes": torch.ones(2, 2)}, TypeError, r"sizes must be int64, not torch.float32"),
        ({"question": torch.rand(12)}, ValueError, r"question must have shape \[12, 12\], not \[12\]"),
        ({"question": torch.rand(2, 13)}, ValueError, r"question must have shape \[2, 12\], not \[2, 13\]"),
        ({"generic": torch.rand(3, 12)}, ValueError, r"generic must have shape \[2, 12\], not \[3, 12\]"),
        ({"sizes": torch.ones(2, 3).long()}, ValueError, r"sizes must have shape \[2, 2\], not \[2, 3\]"),
        ({"generic": torch.rand(12, 2).T}, ValueError, r"generic must be contiguous .*\(1, 2\)"),
        ({"generic": torch.rand(2, 12, device="meta")}, ValueError, r"generic must be on cpu .* on meta"),
        ({"rows": 0}, ValueError, r"rows must be from 1 to 65536, not 0"),
        ({"rows": 300, "columns": 300}, ValueError, r"rows \* columns must be from 1 to 65536, not 90000"),
        ({"crop_size": 0}, ValueError, r"crop_size must be from 1 to 2147483647, not 0"),
        ({"min_cells": -1}, ValueError, r"min_cells must be from 1 to 2147483647, not -1"),
        ({"ratios": []}, ValueError, r"ratios must be 1 to 32 numbers, not 0"),
        ({"ratios": [1.0] * 33}, ValueError, r"ratios must be 1 to 32 numbers, not 33"),
        ({"ratios": [2.0, 1.0]}, ValueError, r"ratios must be ascending .* not \[2.0, 1.0\]"),
        ({"ratios": [1.0, math.inf]}, ValueError, r"ratios must be ascending .* not \[1.0, inf\]"),
        ({"ratios": [math.nan]}, ValueError, r"ratios must be ascending .* not \[nan\]"),
    ],
)
def test_bad_arguments_are_named(bad: dict[str, Any], error: type[Exception], message: str) -> None:
    for search in (find_region, find_region_reference):
        with pytest.raises(error, match=message):
            search(**{**GOOD, **bad})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"question": torch.rand(2, 12).half()}, r"question must be float32 or float64"),
        ({"generic": torch.rand(2, 12).double()}, r"generic must be scalar type"),
        ({"sizes": torch.ones(2, 2)}, r"sizes must be Long"),
        ({"question": torch.rand(12)}, r"question must be \[B, rows \* columns\]"),
        ({"question": torch.rand(2, 13)}, r"question must have size 12 in dimension 1, but has 13"),
        ({"generic": torch.rand(3, 12)}, r"generic must have size 2 in dimension 0, but has 3"),
        ({"sizes": torch.ones(2, 3).long()}, r"sizes must have size 2 in dimension 1, but has 3"),
        ({"generic": torch.rand(12, 2).T}, r"generic must be contiguous .* stride is 2"),
        ({"rows": 0}, r"rows must be from 1 to 65536, not 0"),
        ({"rows": 300, "columns": 300}, r"rows \* columns must be from 1 to 65536, not 90000"),
        ({"crop_size": 0}, r"crop_size must be from 1 to 2147483647, not 0"),
        ({"min_cells": 2**31}, r"min_cells must be from 1 to 2147483647, not 2147483648"),
        ({"ratios": []}, r"number of ratios must be from 1 to 32, not 0"),
        ({"ratios": [2.0, 1.0]}, r"ratios must be ascending .*ratios\[1\] is 1"),
        ({"ratios": [1.0, math.inf]}, r"ratios must be ascending .*ratios\[1\] is inf"),
        ({"ratios": [math.nan]}, r"ratios must be ascending .*ratios\[0\] is nan"),
    ],
)
def test_the_compiled_operator_checks_for_itself(
    device: torch.device, bad: dict[str, Any], message: str
) -> None:
    arguments = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in {**GOOD, **bad}.items()
    }
    with pytest.raises(RuntimeError, match=message):
        torch.ops.secondlook.find_region(**arguments)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("side", [24, 100])  # the table in shared memory, and in scratch
def test_it_replays_from_a_cuda_graph(side: int) -> None:
    library.status("cuda")
    question, generic = torch.rand(2, 2, side * side, device="cuda")
    size = torch.tensor([[2000, 1500], [1500, 1400]], device="cuda")
    find_region(question, generic, side, side, size, 336)  # loads the kernel
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = find_region(question, generic, side, side, size, 336)
    for seed in range(3):
        question.copy_(torch.rand(2, side * side, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        assert torch.equal(found, find_region_reference(question, generic, side, side, size, 336))
