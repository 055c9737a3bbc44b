"""Steps of any number of rows on graphs of a few sizes; how CUDA captures them is for a GPU to show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.checkpoints import Variant, write_checkpoint
from engine.test_decoder import ALSO, ASKS, LONG, SHORT, TWO, Ask, decoder_of, finish, prompted, state
from secondlook.engine.decode.decoder import Decoder
from secondlook.engine.decode.graphs import BATCH_SIZES, NO_ANSWER, StepGraphs
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.llava import Llava
from secondlook.kernels import set_mode
from waiting import NoWaiting

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("graphs"), Variant(seed=21, kv_heads=2))


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Llava:
    return load_model(str(folder))


class Recorder:
    """A step that notes what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], list[int]]] = []

    def __call__(self, slots: Tensor, answers: Tensor) -> None:
        self.calls.append((slots.tolist(), answers.tolist()))


def eager(work: Callable[[], None], _pool: Any) -> Callable[[], None]:
    """In place of a capture, with the warm-up that it needs."""
    work()
    return work


@pytest.mark.parametrize(
    ("slots", "sizes"),
    [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 8]), (32, [1, 2, 4, 8, 16, 32]), (64, [*BATCH_SIZES])],
)
def test_sizes_are_captured_with_padding_alone_up_to_what_slots_need(slots: int, sizes: list[int]) -> None:
    step = Recorder()
    StepGraphs(step, slots, CPU, eager)
    assert step.calls == [([slots] * size, [NO_ANSWER] * size) for size in reversed(sizes)]


def test_rows_are_filled_up_to_the_next_size() -> None:
    step = Recorder()
    graphs = StepGraphs(step, 9, CPU, eager)
    step.calls.clear()
    graphs.run([7])
    graphs.run([3, 1, 4])
    graphs.run([0, 1, 2, 3])
    graphs.run([5, 6, 7])
    assert step.calls == [
        ([7], [7]),
        ([3, 1, 4, 9], [3, 1, 4, -1]),
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([5, 6, 7, 9], [5, 6, 7, -1]),
    ]


def test_more_rows_than_the_largest_graph_has_are_several_steps() -> None:
    step = Recorder()
    graphs = StepGraphs(step, 100, CPU, eager)
    step.calls.clear()
    graphs.run(range(67))
    assert [slots for slots, _ in step.calls] == [list(range(64)), [64, 65, 66, 100]]


def test_a_step_waits_for_nothing(adapter: Llava) -> None:
    decoder = decoder_of(adapter)
    decoder.prefill([prompted(adapter, ask, slot) for slot, ask in enumerate(ASKS)])
    rows = torch.tensor([2, 0, 3, 1])
    with NoWaiting():
        decoder._step(rows, rows)
    with NoWaiting(), pytest.raises(AssertionError):
        bool(decoder.record.finished.any())


def padded(adapter: Llava) -> Decoder:
    """A decoder whose steps go through graphs that are none."""
    decoder = decoder_of(adapter)
    graphs = StepGraphs(decoder._step, 4, adapter.device, eager)
    decoder.step = lambda slots: (graphs.run(slots), decoder.progress.note(slots))[1]  # type: ignore[method-assign]
    return decoder


def test_rows_of_padding_change_nothing(adapter: Llava) -> None:
    decoder = decoder_of(adapter)
    decoder.prefill([prompted(adapter, LONG, 3)])  # the answer that index -1 would be
    before, answer = state(decoder), decoder.record.read(3)
    rows, none = torch.full((2,), 4), torch.full((2,), NO_ANSWER)
    for _ in range(3):
        decoder._step(rows, none)
    assert decoder.record.read(3) == answer
    *caches, lengths = state(decoder)
    for now, then in zip(caches, before, strict=False):
        assert now[:4].equal(then[:4])
        assert now[4, :, 1:].equal(then[4, :, 1:])  # padding stays at its first position
    assert lengths.equal(before[-1])


def test_answers_beside_padding_are_those_without(adapter: Llava) -> None:
    asks: dict[int, Ask] = {3: SHORT, 0: TWO, 2: ALSO}
    found = []
    for decoder in (decoder_of(adapter), padded(adapter)):
        decoder.prefill([prompted(adapter, ask, slot) for slot, ask in asks.items()])
        found.append(finish(decoder, list(asks)))
    assert [one.token_ids for one in found[0]] == [one.token_ids for one in found[1]]


@pytest.mark.needs_cuda
@pytest.mark.parametrize("graphs", [True, False])
def test_a_gpu_answers_as_the_cpu_does(adapter: Llava, folder: Path, graphs: bool, any_mode: None) -> None:
    set_mode("auto" if graphs else "reference")
    on_gpu = load_model(str(folder), device="cuda", dtype="float32")
    decoder = decoder_of(on_gpu)
    assert (decoder._graphs is not None) == graphs
    asks: dict[int, Ask] = {3: SHORT, 0: TWO, 2: ALSO}
    decoder.prefill([prompted(on_gpu, ask, slot) for slot, ask in asks.items()])
    decoder.step([3, 0, 2])
    decoder.prefill([prompted(on_gpu, LONG, 1)])  # joins in the middle
    found = dict(zip((3, 0, 2, 1), finish(decoder, [3, 0, 2, 1]), strict=True))
    asks[1] = LONG
    for slot, ask in asks.items():
        alone = decoder_of(adapter, slots=1)
        alone.prefill([prompted(adapter, ask, 0)])
        (expected,) = finish(alone, [0])
        assert found[slot].token_ids == expected.token_ids
        for one, other in zip(found[slot].statistics, expected.statistics, strict=True):
            assert one.min_entropy == pytest.approx(other.min_entropy, rel=1e-3, abs=1e-4)


@pytest.mark.needs_cuda
def test_a_gpus_progress_is_known_a_step_late(folder: Path) -> None:
    on_gpu = load_model(str(folder), device="cuda", dtype="float32")
    decoder = decoder_of(on_gpu)
    decoder.prefill([prompted(on_gpu, LONG, 0)])
    decoder.progress.catch_up()
    assert not decoder.progress.has(0, 1)
    decoder.step([0])
    decoder.progress.catch_up()
    assert decoder.progress.has(0, 1)
    assert not decoder.progress.has(0, 2)
    decoder.progress.catch_up(wait=True)
    assert decoder.progress.has(0, 2)
    assert decoder.record.read(0, 2).token_ids == decoder.record.read(0).token_ids
