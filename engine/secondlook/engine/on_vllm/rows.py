"""Attention rows of vLLM's decoder, read inside its workers: a `worker_extension_cls`.

vLLM gives out no attention, and its kernels never have a whole row. So at the few layers that are read, what
attends is wrapped: of a request that asks for rows, the last rows of its prompt are computed again from their
queries and all keys. Keys are taken as the layer is given them to write, into a cache of its own by vLLM's
slots, for how they lie in vLLM's own is its kernels' business; what earlier chunks or requests computed is
found there too. That cache takes half of what vLLM's takes for this layer.

A request asks by `SamplingParams.extra_args[ASKED]`, with `RowsOf` as a dictionary. With several workers each
has some of the heads (tensor parallel) or layers (pipeline parallel): what they return is added.

Nothing is imported here that a worker has no use of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

__all__ = ["ASKED", "RowExtension", "RowsOf", "added"]

ASKED: Final = "secondlook_rows"


@dataclass(frozen=True)
class RowsOf:
    """What a request wants read.

    Attributes:
        name: by which it is taken.
        start, stop: the global image's places in its prompt.
        rows: of the prompt's last rows the mean over so many.
    """

    name: str
    start: int
    stop: int
    rows: int


class _Layer:
    """One attention layer of a worker, wrapped.

    Args:
        weights: of its own heads, [M, H] float32, for each of M maps.
        slots: places that vLLM's cache has.
    """

    def __init__(self, runner: Any, layer: Any, weights: Tensor, slots: int, read: dict[str, Any]) -> None:
        self._runner, self._weights, self._slots, self._read = runner, weights, slots, read
        self._implementation = implementation = layer.impl
        self._keys: Tensor | None = None
        self._forward, self._update = implementation.forward, implementation.do_kv_cache_update
        implementation.forward, implementation.do_kv_cache_update = self.forward, self.update

    def update(self, layer: Any, key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor) -> None:
        """Keys [R, H, D], by slots [≤ R]."""
        self._update(layer, key, value, kv_cache, slot_mapping)
        if self._keys is None:
            self._keys = key.new_zeros((self._slots, *key.shape[1:]))
        # Padding is -1 there; slot 0 is in a block that vLLM gives to no request.
        self._keys.index_copy_(0, slot_mapping.clamp_min(0), key[: len(slot_mapping)])

    def forward(
        self,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        metadata: Any,
        *more: Any,
        **named: Any,
    ) -> Any:
        """Queries [R, H, D] of all requests of a step."""
        found = self._forward(layer, query, key, value, kv_cache, metadata, *more, **named)
        if metadata is not None:  # it is None while vLLM warms up
            self._read_due(query, metadata)
        return found

    def _read_due(self, query: Tensor, metadata: Any) -> None:
        batch = self._runner.input_batch
        starts, lengths = list[int](), list[int]()
        for index, request in enumerate(batch.req_ids):
            state = self._runner.requests[request]
            asked = ((state.sampling_params and state.sampling_params.extra_args) or {}).get(ASKED)
            if asked is None:
                continue
            if not starts:
                starts, lengths = metadata.query_start_loc.tolist(), metadata.seq_lens.tolist()
            prompt, there = state.num_prompt_tokens, lengths[index]
            first = there - (starts[index + 1] - starts[index])  # the place of this step's first token
            for place in range(max(first, prompt - asked["rows"]), min(there, prompt)):
                row = query[starts[index] + place - first]
                slots = _slots(metadata.block_table[index], place + 1, batch.block_table[0].block_size)
                maps = self._maps(row, slots)[:, asked["start"] : asked["stop"]]
                # By place, for a request that was put off is computed anew.
                self._read.setdefault(asked["name"], {})[id(self), place] = maps

    def _maps(self, query: Tensor, slots: Tensor) -> Tensor:
        """[M, S] of a row's query [H, D] and the S slots that it sees."""
        assert self._keys is not None, "keys are written before they are attended to"
        keys = self._keys[slots].float()
        keys = keys.repeat_interleave(len(query) // keys.shape[1], dim=1)
        scores = torch.einsum("hd,shd->hs", query.float(), keys) * self._implementation.scale
        maps: Tensor = self._weights @ scores.softmax(-1)
        return maps


class RowExtension:
    """What `collective_rpc` reaches in each worker."""

    def install_rows(self, weights: dict[int, list[list[float]]]) -> list[int]:
        """Read attention at layers of the decoder; returns those that this worker has.

        Args:
            weights: for each layer, of all heads [M][H].
        """
        worker: Any = self
        runner = worker.model_runner
        self._read_rows: dict[str, dict[tuple[int, int], Tensor]] = {}
        self._row_layers = dict[int, _Layer]()
        for name, layer in runner.compilation_config.static_forward_context.items():
            number = _decoder_layer(name)
            if number in weights:
                given = torch.tensor(weights[number], device=worker.device)
                own = _own_heads(given, layer.num_heads)
                slots = runner.kv_cache_config.num_blocks * worker.cache_config.block_size
                self._row_layers[number] = _Layer(runner, layer, own, slots, self._read_rows)
        return sorted(self._row_layers)

    def take_rows(self, names: Sequence[str], dropped: Sequence[str]) -> list[list[list[float]]]:
        """What was read for requests [M][N], this worker's part; once each.

        Args:
            dropped: what was read for these is not wanted.
        """
        for name in dropped:
            self._read_rows.pop(name, None)
        return [_mean(self._read_rows.pop(name, {})) for name in names]


def _mean(read: dict[tuple[int, int], Tensor]) -> list[list[float]]:
    """Added over layers, and the mean over places; [] where nothing was read."""
    if not read:
        return []
    places = {place for _, place in read}
    found: list[list[float]] = (torch.stack(list(read.values())).sum(0) / len(places)).tolist()
    return found


def _slots(blocks: Tensor, count: int, size: int) -> Tensor:
    """[count] of a sequence's first places, from its table of blocks of so many."""
    places = torch.arange(count, device=blocks.device)
    return blocks.long()[places // size] * size + places % size


def _decoder_layer(name: str) -> int | None:
    """The number of a layer of the language model; None for those of vision towers."""
    words = name.split(".")
    if "language_model" not in words or "layers" not in words:
        return None
    return int(words[words.index("layers") + 1])


def _own_heads(weights: Tensor, count: int) -> Tensor:
    """Those of this worker's heads, [M, count] of [M, H]."""
    from vllm.distributed import get_tensor_model_parallel_rank

    first = get_tensor_model_parallel_rank() * count
    return weights[:, first : first + count]


def added(parts: Iterable[list[list[float]]]) -> Tensor:
    """All workers' parts together [M, N]; raises LookupError where none read anything."""
    there = [torch.tensor(part) for part in parts if part]
    if not there:
        raise LookupError("vLLM computed a prompt, and no worker read its attention")
    return torch.stack(there).sum(0)
