"""Rows read inside vLLM's workers, on stand-ins for its layers: blocks in any order, chunks, workers."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from secondlook.edge.errors import SettingsError
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.on_vllm import opening
from secondlook.engine.on_vllm.rows import ASKED, RowExtension, added
from secondlook.engine.opening import EngineOptions, load_engine

BLOCK, PROMPT, HEADS, KV_HEADS, WIDTH, SCALE = 4, 11, 4, 2, 8, 0.3
SPAN = slice(2, 8)
TABLE = torch.tensor([[5, 2, 7]])  # of the one request's blocks; 0 is vLLM's own
WEIGHTS = torch.tensor([[1.0, 0.0, 0.5, 0.25], [0.0, 2.0, 0.0, 0.0]])


class Worker(RowExtension):
    """One of several, with its share of the heads of one layer."""

    def __init__(self, rank: int, workers: int) -> None:
        self.share = [tensor.chunk(workers, dim=1)[rank] for tensor in (QUERIES, KEYS)]
        implementation = SimpleNamespace(
            scale=SCALE, forward=lambda *_: "attended", do_kv_cache_update=lambda *_: None
        )
        self.layer = SimpleNamespace(impl=implementation, num_heads=HEADS // workers)
        vision = SimpleNamespace(impl=None, num_heads=1)
        layers = {"vision_tower.layers.1.attn": vision, "language_model.model.layers.1.self_attn": self.layer}
        parameters = SimpleNamespace(extra_args=None)
        self.request = SimpleNamespace(num_prompt_tokens=PROMPT, sampling_params=parameters)
        self.model_runner: Any = SimpleNamespace(
            compilation_config=SimpleNamespace(static_forward_context=layers),
            requests={"one": self.request},
            kv_cache_config=SimpleNamespace(num_blocks=9),
            input_batch=SimpleNamespace(req_ids=["one"], block_table=[SimpleNamespace(block_size=BLOCK)]),
        )
        self.cache_config = SimpleNamespace(block_size=BLOCK)
        self.device = torch.device("cpu")

    def ask(self, name: str, rows: int) -> None:
        asked = {"name": name, "start": SPAN.start, "stop": SPAN.stop, "rows": rows}
        self.request.sampling_params.extra_args = {ASKED: asked}

    def step(self, start: int, stop: int) -> None:
        """Places of the request, as the runner has the layer attend, with padding behind the keys."""
        queries, keys = (tensor[start:stop] for tensor in self.share)
        places = torch.arange(start, stop)
        slots = TABLE[0][places // BLOCK] * BLOCK + places % BLOCK
        metadata = SimpleNamespace(
            query_start_loc=torch.tensor([0, stop - start]), seq_lens=torch.tensor([stop]), block_table=TABLE
        )
        padded = torch.cat((slots, torch.tensor([-1])))
        implementation = self.layer.impl
        implementation.do_kv_cache_update(None, torch.cat((keys, 9 + keys[:1])), None, None, padded)
        assert implementation.forward(None, queries, keys, None, None, metadata, None) == "attended"


torch.manual_seed(0)
QUERIES, KEYS = torch.randn(PROMPT + 3, HEADS, WIDTH), torch.randn(PROMPT + 3, KV_HEADS, WIDTH)


def expected(rows: int) -> Tensor:
    """[M, N], by whole products."""
    keys = KEYS.repeat_interleave(HEADS // KV_HEADS, dim=1)
    scores = SCALE * torch.einsum("qhd,khd->hqk", QUERIES, keys)[:, :PROMPT, :PROMPT]
    hidden = torch.ones(PROMPT, PROMPT, dtype=torch.bool).triu(1)
    attention = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("mh,hqk->mqk", WEIGHTS, attention)[:, -rows:, SPAN].mean(1)


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Which worker is asked, as vLLM tells it."""
    import sys

    now = {"rank": 0}
    told = SimpleNamespace(get_tensor_model_parallel_rank=lambda: now["rank"])
    monkeypatch.setitem(sys.modules, "vllm.distributed", told)
    return now


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("chunks", [[11], [4, 9, 11], [8, 10, 11]])
def test_workers_together_read_what_whole_products_say(
    workers: int, rows: int, chunks: list[int], ranks: dict[str, int]
) -> None:
    parts = list[Any]()
    for rank in range(workers):
        ranks["rank"] = rank
        worker = Worker(rank, workers)
        assert worker.install_rows({1: WEIGHTS.tolist(), 7: WEIGHTS.tolist()}) == [1]
        worker.ask("7", rows)
        for start, stop in zip([0, *chunks], [*chunks, PROMPT + 1, PROMPT + 3], strict=False):
            worker.step(start, stop)  # of the answer's tokens nothing is read
        parts.append(worker.take_rows(["7"], [])[0])
        assert worker.take_rows(["7"], []) == [[]]  # once each
    torch.testing.assert_close(added(parts), expected(rows), atol=1e-6, rtol=0)


def test_a_prompt_that_is_computed_again_counts_once_and_what_nobody_wants_is_forgotten(
    ranks: dict[str, int],
) -> None:
    worker = Worker(ranks["rank"], 1)
    worker.install_rows({1: WEIGHTS.tolist()})
    for name in ("1", "2"):
        worker.ask(name, 2)
        worker.step(0, PROMPT)
        worker.step(0, PROMPT)
    (part,) = worker.take_rows(["1"], ["2"])
    torch.testing.assert_close(added([part, []]), expected(2), atol=1e-6, rtol=0)
    assert worker.take_rows(["2"], []) == [[]]
    with pytest.raises(LookupError, match="no worker read"):
        added([[], []])


def test_who_asks_nothing_is_not_read(ranks: dict[str, int]) -> None:
    worker = Worker(ranks["rank"], 1)
    worker.install_rows({1: WEIGHTS.tolist()})
    worker.step(0, PROMPT)
    assert worker._read_rows == {}


def test_a_model_without_weights_prepares_questions_as_the_whole_one() -> None:
    whole, bare = (load_model("demo", weights=read) for read in (True, False))
    question = whole.tokens("What number is on the red sign?")
    assert bare.tokens("What number is on the red sign?") == question
    assert bare.prompt(question, ((12, 12),)).ids == whole.prompt(question, ((12, 12),)).ids
    for name in ("dtype", "eos_ids", "context", "settings", "localisation", "global_view", "local_view"):
        assert getattr(bare, name) == getattr(whole, name)
    assert bare.text((70, 71, 2)) == whole.text((70, 71, 2))
    assert all(one.is_meta for one in bare.module.parameters())
    for layer, weights in bare.probe_weights().items():
        torch.testing.assert_close(weights, whole.probe_weights()[layer])


def test_without_vllm_its_engine_is_refused_and_ours_knows_no_tensor_parallel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("secondlook.engine.on_vllm.opening.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"--engine vllm needs vLLM 0\.32 .* there is none"):
        load_engine(EngineOptions(backend="vllm"))
    with pytest.raises(SettingsError, match="leave --tensor-parallel out"):
        load_engine(EngineOptions(tensor_parallel=2))


@pytest.mark.parametrize(("threads", "bound"), [(None, "4,8|6"), ("2", "4,8|6"), ("1", "nobind")])
def test_vllms_threads_are_bound_unless_they_are_to_be_fewer_than_the_cores(
    monkeypatch: pytest.MonkeyPatch, threads: str | None, bound: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {6, 4, 8})
    for name in ("OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(opening, "usable_cores", lambda: 3)
    with opening._environment("cpu", workers=2):
        assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == bound
    assert "VLLM_CPU_OMP_THREADS_BIND" not in os.environ
