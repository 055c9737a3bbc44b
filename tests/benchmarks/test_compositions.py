"""What the operators are compared with does what they do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secondlook.benchmarks import operators, timing
from secondlook.kernels import (
    attention_row_reference,
    compositions,
    decode_attention_reference,
    record_tokens,
    token_statistics_reference,
)
from waiting import NoWaiting

RATIOS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def test_token_statistics() -> None:
    logits = 4 * random(3, 500)
    expected = token_statistics_reference(logits)
    torch.testing.assert_close(compositions.token_statistics(logits), tuple(expected), rtol=1e-4, atol=1e-5)


def test_attention_row() -> None:
    query, keys = random(2, 4, 16), random(2, 4, 50, 16)
    expected = attention_row_reference(query, keys, torch.full((2,), 50), 5, 30, 0.25)
    torch.testing.assert_close(compositions.attention_row(query, keys, 5, 30, 0.25), expected.float())


def test_decode_attention() -> None:
    query, keys = random(2, 4, 16), random(5, 4, 50, 16)
    values = keys.exp()
    slots, lengths = torch.tensor([3, 1]), torch.full((2,), 30)
    expected = decode_attention_reference(query, keys, values, slots, lengths, 0.25)
    found = compositions.decode_attention(query, keys, values, [3, 1], 30, 0.25)
    torch.testing.assert_close(found, expected.float())


def test_record_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDLOOK_KERNELS", "reference")
    monkeypatch.setattr(operators, "_CAPACITY", 4)
    steps = 4 * random(4, 3, 500)
    ours, plain = operators._open_slots(steps[0]), operators._open_slots(steps[0])
    ours["end_tokens"][0] = plain["end_tokens"][0] = steps[-1, 1].argmax()
    for logits in steps:
        record_tokens(logits, **ours)
        compositions.record_tokens(logits, plain)
        torch.testing.assert_close(plain, ours, rtol=1e-4, atol=1e-5)
    assert ours["lengths"].tolist() == [4, 4, 4]
    assert ours["finished"].all()


def test_the_slots_take_more_tokens_than_a_measurement_has_calls() -> None:
    state = operators._open_slots(torch.zeros(2, 5))
    fastest = 2e-6
    assert state["tokens"].shape[1] > timing._ROUNDS * timing._ROUND_SECONDS / fastest
    assert state["limits"].tolist() == [state["tokens"].shape[1]] * 2


@pytest.mark.parametrize("peak", [0, 5, 17, 35, 61, 143])
def test_find_region(peak: int) -> None:
    side, size, crop_size = 12, (1500, 1000), 336
    question, generic = random(1, side * side).exp(), random(1, side * side).abs() + 0.5
    question[0, peak] += 30  # in a corner, at an edge, inside
    tried = compositions.windows(side, size, crop_size, RATIOS, torch.device("cpu"))
    sharpness, place = compositions.find_region(question, generic, side, tried).tolist()
    relative = (question / generic).double().view(side, side)
    assert (sharpness, place) == pytest.approx(plainly(relative, size, crop_size), rel=1e-3)


def test_no_composition_waits_for_the_device() -> None:
    """Else no CUDA graph could capture it, as `bench kernels --device cuda` does."""
    tried = set()
    for case in operators._cases(torch.device("cpu")):
        tried.add(case.operator)
        with NoWaiting():
            case.composition()
    assert tried >= {"token_statistics", "record_tokens", "attention_row", "decode_attention", "find_region"}


def plainly(relative: Tensor, size: tuple[int, int], crop_size: int) -> tuple[float, int]:
    """The search window by window, in plain Python."""
    side = len(relative)
    found = []
    for ratio in RATIOS:
        nx, ny = (min(int(crop_size * ratio * side / length), side) for length in size)
        sums = {
            (y, x): float(relative[y : y + ny, x : x + nx].sum())
            for y in range(side - ny + 1)
            for x in range(side - nx + 1)
        }
        y, x = max(sums, key=lambda at: sums[at])
        near = [sums[at] for at in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)) if at in sums]
        sharpness = (sums[y, x] - sum(near) / len(near)) / (nx * ny)
        found.append((sharpness, y * (side - nx + 1) + x))
    return max(found, key=lambda each: each[0])
