"""record_tokens against the same steps in plain Python, and against its reference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secondlook.kernels import library
from secondlook.kernels.record_tokens import record_tokens, record_tokens_reference
from secondlook.kernels.token_statistics import token_statistics

CASES = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
NOTHING = -77


@dataclass
class Buffers:
    """The state of S slots of T tokens, and what a step of B rows reads and writes."""

    slots: Tensor
    end_tokens: Tensor
    limits: Tensor
    tokens: Tensor
    measures: Tensor
    means: Tensor
    lengths: Tensor
    finished: Tensor
    next_tokens: Tensor
    arrivals: Tensor

    @classmethod
    def of(
        cls,
        slots: list[int],
        limits: list[int],
        capacity: int,
        end_tokens: tuple[int, ...] = (2,),
        device: torch.device | str = "cpu",
    ) -> Buffers:
        count = len(limits)

        def integers(values: list[int] | tuple[int, ...]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        return cls(
            slots=integers(slots),
            end_tokens=integers(end_tokens),
            limits=integers(limits),
            tokens=torch.full((count, capacity), NOTHING, device=device),
            measures=torch.full((count, capacity, 3), float(NOTHING), device=device),
            means=torch.zeros(count, 3, device=device),
            lengths=torch.zeros(count, dtype=torch.int64, device=device),
            finished=torch.zeros(count, dtype=torch.bool, device=device),
            next_tokens=torch.full((len(slots),), NOTHING, device=device),
            arrivals=torch.zeros(len(slots), dtype=torch.int32, device=device),
        )

    def named(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def copy(self) -> Buffers:
        return Buffers(**{name: tensor.clone() for name, tensor in self.named().items()})


def plainly(logits: Tensor, buffers: Buffers) -> Buffers:
    """One step in plain Python; the statistics are another operator's, tested on its own."""
    found = token_statistics(logits)
    after = buffers.copy()
    for row, slot in enumerate(buffers.slots.tolist()):
        if not 0 <= slot < len(buffers.limits) or buffers.finished[slot]:
            continue
        at = int(buffers.lengths[slot])
        limit = min(buffers.tokens.shape[1], int(buffers.limits[slot]))
        if at >= limit:
            continue
        token = int(found.token[row])
        after.tokens[slot, at] = token
        for index, measure in enumerate(found[1:]):
            after.measures[slot, at, index] = measure[row]
            after.means[slot, index] = after.measures[slot, : at + 1, index].double().mean()
        after.lengths[slot] = at + 1
        after.finished[slot] = token in buffers.end_tokens.tolist() or at + 1 == limit
        after.next_tokens[row] = token
    return after


def same(found: Buffers, expected: Buffers) -> None:
    for name, tensor in found.named().items():
        wanted = getattr(expected, name)
        if tensor.dtype == torch.float32:
            torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-35, equal_nan=True)
        else:
            assert tensor.tolist() == wanted.tolist(), name


def step(logits: Tensor, buffers: Buffers) -> None:
    """Record in place; plain Python, the reference and the operator must agree."""
    before = logits.clone()
    expected, by_reference = plainly(logits, buffers), buffers.copy()
    record_tokens_reference(logits, **by_reference.named())
    record_tokens(logits, **buffers.named())
    same(by_reference, expected)
    same(buffers, expected)
    torch.testing.assert_close(logits, before, rtol=0, atol=0, equal_nan=True)


def noise(rows: int, vocabulary: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def test_an_answer_token_by_token(device: torch.device) -> None:
    buffers = Buffers.of([1], [10, 10], 8, device=device)
    for token in (5, 0, 5, 2, 4):  # 2 ends it; 4 comes too late
        logits = torch.zeros(1, 7, device=device)
        logits[0, token] = 3
        step(logits, buffers)
    assert buffers.tokens.tolist() == [[NOTHING] * 8, [5, 0, 5, 2] + [NOTHING] * 4]
    assert buffers.lengths.tolist() == [0, 4]
    assert buffers.finished.tolist() == [False, True]
    assert buffers.next_tokens.tolist() == [2]
    expected = math.log1p(6 * math.exp(-3))
    assert buffers.means[1, 0].item() == pytest.approx(expected, rel=1e-6)
    assert buffers.measures[1, :4, 0].tolist() == pytest.approx([expected] * 4, rel=1e-6)
    assert buffers.means[0].tolist() == [0, 0, 0]


def test_padding_limits_and_capacity(device: torch.device) -> None:
    # Slot 0 never, slot 1 once, slot 2 until its two places are full; a padding row between.
    buffers = Buffers.of([2, -1, 0, 1, 9], [0, 1, 100], 2, end_tokens=(), device=device)
    for seed in range(4):
        step(noise(5, 33, seed).to(device), buffers)
    assert buffers.lengths.tolist() == [0, 1, 2]
    assert buffers.finished.tolist() == [False, True, True]
    assert [token == NOTHING for token in buffers.next_tokens.tolist()] == [False, True, True, False, True]


def test_the_next_step_of_a_skipped_row_is_unchanged(device: torch.device) -> None:
    buffers = Buffers.of([0], [5], 5, device=device)
    buffers.finished[0] = True
    before = buffers.copy()
    step(noise(1, 9).to(device), buffers)
    same(buffers, before)


def test_a_row_with_nan_is_recorded_as_such(device: torch.device) -> None:
    buffers = Buffers.of([0], [5], 5, device=device)
    logits = noise(1, 9)
    logits[0, 6] = math.nan
    step(logits.to(device), buffers)
    step(noise(1, 9).to(device), buffers)
    assert buffers.tokens[0, 0].item() == 6
    assert buffers.measures[0, 0].isnan().all()
    assert buffers.measures[0, 1].isfinite().all()
    assert buffers.means[0].isnan().all()


@given(
    slots=st.permutations(list(range(5))),
    rows=st.integers(0, 5),
    padding=st.sets(st.integers(0, 4)),
    limits=st.lists(st.integers(-1, 5), min_size=5, max_size=5),
    capacity=st.integers(0, 4),
    ends=st.sets(st.integers(0, 7)),
    vocabulary=st.sampled_from([1, 8, 4100, 9000]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@CASES
def test_any_steps(
    device: torch.device,
    slots: list[int],
    rows: int,
    padding: set[int],
    limits: list[int],
    capacity: int,
    ends: set[int],
    vocabulary: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    chosen = [-1 if row in padding else slot for row, slot in enumerate(slots[:rows])]
    buffers = Buffers.of(chosen, limits, capacity, tuple(ends), device)
    for index in range(4):
        step(noise(rows, vocabulary + 3, seed + index).to(device, dtype)[:, :vocabulary], buffers)


@pytest.mark.parametrize("vocabulary", [9, 9000])
def test_the_same_buffers_serve_again_for_their_arrivals_are_left_zero(
    device: torch.device, vocabulary: int
) -> None:
    buffers = Buffers.of([2, -1, 0], [4, 4, 2], 4, end_tokens=(), device=device)  # slot 2 is full after two
    for seed in range(3):
        step(noise(3, vocabulary, seed).to(device), buffers)
        assert buffers.arrivals.tolist() == [0, 0, 0]
    assert buffers.lengths.tolist() == [3, 0, 2]


def test_no_slots(device: torch.device) -> None:
    step(noise(2, 5).to(device), Buffers.of([-1, 0], [], 3, device=device))


def test_a_long_answer_has_an_accurate_mean(device: torch.device) -> None:
    buffers = Buffers.of([0], [500], 500, end_tokens=(), device=device)
    for seed in range(500):
        record_tokens(noise(1, 50, seed, scale=seed / 50).to(device), **buffers.named())
    expected = buffers.measures[0].double().mean(dim=0)
    torch.testing.assert_close(buffers.means[0].double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_opcheck(device: torch.device, rows: int) -> None:
    buffers = Buffers.of([2, 0, -1][:rows], [3, 4, 5], 4, device=device)
    arguments = (noise(rows, 40).to(device), *buffers.named().values())
    torch.library.opcheck(torch.ops.secondlook.record_tokens.default, arguments)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # inductor's imports
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_as_one_graph(device: torch.device, backend: str) -> None:
    @torch.compile(fullgraph=True, backend=backend)
    def decode(logits: Tensor, state: dict[str, Tensor]) -> Tensor:
        record_tokens(logits * 2, **state)
        return state["next_tokens"] + 1

    logits = noise(2, 60).to(device)
    buffers = Buffers.of([1, 0], [4, 4], 4, device=device)
    expected = buffers.copy()
    for _ in range(2):
        record_tokens(logits * 2, **expected.named())
        assert decode(logits, buffers.named()).tolist() == (expected.next_tokens + 1).tolist()
    same(buffers, expected)


def test_reference_mode() -> None:
    logits = noise(2, 60)
    buffers = Buffers.of([1, 0], [4, 4], 4)
    expected = buffers.copy()
    record_tokens_reference(logits, **expected.named())
    library.set_mode("reference")
    try:
        record_tokens(logits, **buffers.named())
    finally:
        library.set_mode(None)
    same(buffers, expected)


def test_a_slot_named_twice_is_never_written_past_its_end(device: torch.device) -> None:
    buffers = Buffers.of([0, 0, 0], [2, 5], 2, end_tokens=(), device=device)
    for seed in range(3):
        record_tokens(noise(3, 9000, seed).to(device), **buffers.named())
    assert buffers.lengths.tolist() == [2, 0]
    assert buffers.tokens[1].tolist() == [NOTHING] * 2
    assert buffers.arrivals.tolist() == [0, 0, 0]


def replace(name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    named = Buffers.of([1, 0], [4, 4], 4).named()
    return {**named, name: change(named[name])}


WRONG: list[tuple[str, Callable[[Tensor], Tensor], type[Exception], str, str]] = [
    ("slots", Tensor.int, TypeError, "slots must be torch.int64, not torch.int32", "slots must be Long"),
    ("measures", Tensor.double, TypeError, "measures must be torch.float32", "measures must be Float"),
    ("finished", Tensor.long, TypeError, "finished must be torch.bool", "finished must be Bool"),
    ("slots", lambda x: x[:1], ValueError, r"slots must have shape \[2\]", "slots must have size 2"),
    ("tokens", lambda x: x[0], ValueError, r"tokens must be \[S, T\]", r"tokens must be \[S, T\]"),
    ("end_tokens", lambda x: x[0], ValueError, r"end_tokens must be \[E\]", r"end_tokens must be \[E\]"),
    ("limits", lambda x: x[:1], ValueError, r"limits must have shape \[2\]", "limits must have size 2"),
    ("means", lambda x: x[:, :2], ValueError, r"means must have shape \[2, 3\]", "means must"),
    (
        "tokens",
        lambda x: x.T.contiguous().T,
        ValueError,
        "tokens must be contiguous",
        "tokens must be contiguous",
    ),
    (
        "next_tokens",
        lambda x: x[None],
        ValueError,
        "next_tokens must have shape",
        r"next_tokens must be \[B\]",
    ),
    ("arrivals", Tensor.long, TypeError, "arrivals must be torch.int32", "arrivals must be Int"),
    ("arrivals", lambda x: x[:1], ValueError, r"arrivals must have shape \[2\]", "arrivals must have size 2"),
]


@pytest.mark.parametrize(("name", "change", "error", "message", "_inner"), WRONG)
def test_errors(
    name: str, change: Callable[[Tensor], Tensor], error: type[Exception], message: str, _inner: str
) -> None:
    with pytest.raises(error, match=message):
        record_tokens(noise(2, 5), **replace(name, change))


@pytest.mark.parametrize(("name", "change", "_error", "_message", "inner"), WRONG)
def test_errors_of_the_operator_itself(
    device: torch.device,
    name: str,
    change: Callable[[Tensor], Tensor],
    _error: type[Exception],
    _message: str,
    inner: str,
) -> None:
    arguments = [tensor.to(device) for tensor in replace(name, change).values()]
    with pytest.raises(RuntimeError, match=inner):
        torch.ops.secondlook.record_tokens(noise(2, 5).to(device), *arguments)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("vocabulary", [500, 32064])
def test_cuda_graph(vocabulary: int) -> None:
    logits = noise(2, vocabulary).cuda()
    buffers = Buffers.of([1, 0], [3, 8], 8, end_tokens=(), device="cuda")
    record_tokens(logits, **Buffers.of([1, 0], [3, 8], 8, device="cuda").named())  # loads the library
    expected = buffers.copy()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        record_tokens(logits, **buffers.named())
    for seed in range(5):
        logits.copy_(noise(2, vocabulary, seed))
        graph.replay()
        expected = plainly(logits, expected)
    same(buffers, expected)
    assert buffers.lengths.tolist() == [3, 5]
