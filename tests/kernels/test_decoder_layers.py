"""A decoder's layers as one operator: float64, bits, and what is refused. Transformers' own layers are what
`engine/test_fused_layers.py` compares it with."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from secondlook.kernels import (
    LAYER_WEIGHTS,
    block_quantised,
    block_weights,
    decoder_layers,
    decoder_layers_reference,
    library,
    quantise,
)

DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2.0**-6}
"""Of the largest value of all."""


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert library.status("cpu").source != "reference"


def sample(
    rows: int,
    size: int,
    heads: int,
    kv_heads: int,
    width: int,
    inner: int,
    *,
    dtype: torch.dtype = torch.float32,
    biased: bool = False,
    normed: bool = False,
    block: int = 64,
    bits: Literal[4, 8] | None = None,
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(rows)

    def drawn(*shape: int, times: float = 1.0, plus: float = 0.0) -> Tensor:
        return (times * torch.randn(shape, generator=generator) + plus).to(dtype)

    def weights(outputs: int, inputs: int) -> Tensor:
        plain = drawn(outputs, inputs, times=inputs**-0.5)
        if bits is not None:
            return block_quantised(quantise(plain, bits, 32 if inputs % 32 == 0 else inputs))
        return block_weights(plain, block)

    absent = torch.empty(0, dtype=dtype)
    angles = torch.randn(rows, width // 2, generator=generator).repeat(1, 2)
    of_keys = kv_heads * width
    return {
        "hidden": drawn(rows, size),
        "input_norm": drawn(size, times=0.1, plus=1),
        "query": weights(heads * width, size),
        "key": weights(of_keys, size),
        "value": weights(of_keys, size),
        "query_bias": drawn(heads * width) if biased else absent,
        "key_bias": drawn(of_keys) if biased else absent,
        "value_bias": drawn(of_keys) if biased else absent,
        "query_norm": drawn(width, times=0.1, plus=1) if normed else absent,
        "key_norm": drawn(width, times=0.1, plus=1) if normed else absent,
        "cosine": angles.cos().to(dtype),
        "sine": angles.sin().to(dtype),
        "keys": drawn(rows + 2, kv_heads, 150, width),
        "values": drawn(rows + 2, kv_heads, 150, width),
        "slots": torch.randperm(rows + 2, generator=generator)[:rows],
        "places": torch.randint(0, 150, (rows,), generator=generator),
        "output": weights(size, heads * width),
        "output_norm": drawn(size, times=0.1, plus=1),
        "gate": weights(inner, size),
        "up": weights(inner, size),
        "down": weights(size, inner),
        "heads": heads,
        "inner": inner,
        "scale": width**-0.5,
        "epsilon": 1e-5,
    }


def copied(given: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        name: value.clone() if isinstance(value, Tensor) else value for name, value in given.items()
    } | changes


def arguments(*layers: dict[str, Any]) -> dict[str, Any]:
    """The operator's, of layers that share all but their weights and their cache."""
    weights = [layer[name] for layer in layers for name in LAYER_WEIGHTS]
    cache = {name: [layer[name] for layer in layers] for name in ("keys", "values")}
    shared = {name: value for name, value in layers[0].items() if name not in (*LAYER_WEIGHTS, *cache)}
    return {"weights": weights, **cache, **shared}


def computed(*layers: dict[str, Any]) -> Tensor:
    return decoder_layers(**arguments(*layers))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "more"),
    [
        ((1, 128, 4, 4, 32, 256), {}),
        ((3, 96, 6, 2, 16, 200), {"biased": True, "block": 32}),
        ((5, 130, 4, 1, 34, 77), {"normed": True, "block": 16}),
        ((9, 256, 4, 2, 128, 600), {"biased": True, "normed": True, "block": 48}),
        ((1, 128, 4, 4, 32, 256), {"bits": 8}),
        ((2, 128, 4, 4, 32, 256), {"bits": 4}),
        ((5, 130, 4, 1, 34, 77), {"bits": 4, "normed": True}),
        ((9, 256, 4, 2, 128, 608), {"bits": 8, "biased": True, "normed": True}),
        ((16, 255, 4, 2, 32, 301), {"block": 48}),
        ((37, 600, 4, 2, 32, 1200), {"biased": True}),
        ((37, 130, 4, 1, 34, 78), {"bits": 4}),
    ],
)
def test_float64(dtype: torch.dtype, shape: tuple[int, ...], more: dict[str, Any]) -> None:
    given = sample(*shape, dtype=dtype, **more)
    exact_given, before = copied(given), copied(given)
    found, exact = computed(given), decoder_layers_reference(**arguments(exact_given))
    for name, one, two in (
        ("result", found, exact),
        *((name, given[name], exact_given[name]) for name in ("keys", "values")),
    ):
        apart = (one.double() - two.double()).abs().max()
        assert apart <= TOLERANCE[dtype] * two.double().abs().max(), name
    for name in ("keys", "values"):  # nothing else of the cache has changed
        given[name][given["slots"], :, given["places"]] = 0
        before[name][given["slots"], :, given["places"]] = 0
        assert torch.equal(given[name], before[name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_a_row_has_the_same_bits_whatever_the_others_and_the_threads(
    bits: Literal[4, 8] | None, dtype: torch.dtype
) -> None:
    rows, threads = 21, torch.get_num_threads()
    given = sample(rows, 128, 4, 2, 32, 320, dtype=dtype, bits=bits)
    together = computed(copied(given))
    try:
        torch.set_num_threads(1)
        for row in range(rows):
            one = {
                name: given[name][row : row + 1] for name in ("hidden", "cosine", "sine", "slots", "places")
            }
            assert torch.equal(computed(copied(given, **one))[0], together[row])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 512, 8, 4, 64, 1000), (7, 512, 8, 2, 64, 1100)])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_layers_behind_each_other_are_one_after_the_other(
    threads: int, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Bit by bit, whatever the number of threads, and however often."""
    layers = [sample(*shape, dtype=dtype, biased=True, normed=number == 1) for number in range(3)]
    for number, layer in enumerate(layers):
        layer["input_norm"] *= 1 + number / 8
        layer |= {name: layers[0][name] for name in ("cosine", "sine", "slots", "places")}
    expected = layers[0]["hidden"]
    caches = [copied(layer) for layer in layers]
    for layer in caches:
        expected = computed({**layer, "hidden": expected})
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for _ in range(20):
            again = [copied(layer) for layer in layers]
            assert torch.equal(computed(*again), expected)
            for one, two in zip(again, caches, strict=True):
                assert torch.equal(one["keys"], two["keys"])
                assert torch.equal(one["values"], two["values"])
    finally:
        torch.set_num_threads(before)


def test_a_cache_may_lie_apart() -> None:
    given = sample(2, 64, 2, 1, 32, 96)
    expected = computed(copied(given))
    apart = {}
    for name in ("keys", "values"):
        whole = torch.full((4, 200, 1, 40), float("nan")).transpose(1, 2)
        apart[name] = whole[:, :, :150, :32]
        apart[name].copy_(given[name])
    assert torch.equal(computed({**given, **apart}), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_may_be_held_differently(dtype: torch.dtype) -> None:
    shape = (3, 128, 4, 2, 32, 320)
    given, low = sample(*shape, dtype=dtype), sample(*shape, dtype=dtype, bits=8)
    given |= {name: low[name] for name in ("key", "up", "down")}
    exact = decoder_layers_reference(**arguments(copied(given)))
    found = computed(given)
    assert (found.double() - exact).abs().max() <= TOLERANCE[dtype] * exact.abs().max()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden": torch.zeros(2, 65)}, "input_norm|cosine"),
        ({"hidden": torch.zeros(2, 64, dtype=torch.float64)}, "hidden"),
        ({"cosine": torch.zeros(2, 16)}, "cosine"),
        ({"query_bias": torch.zeros(3)}, "query_bias"),
        ({"key_norm": torch.zeros(3)}, "key_norm"),
        ({"values": torch.zeros(4, 1, 149, 32)}, "values"),
        ({"slots": torch.tensor([0, 4])}, "slots"),
        ({"slots": torch.tensor([0, 1]).int()}, "slots must be Long"),
        ({"places": torch.tensor([0, 1]).int()}, "places must be Long"),
        ({"places": torch.tensor([0, 150])}, "places"),
        ({"places": torch.tensor([0])}, "places"),
        ({"gate": block_weights(torch.zeros(95, 60))}, "gate"),
        ({"up": block_weights(torch.zeros(96, 64), 32)}, "gate and up"),
        ({"up": block_quantised(quantise(torch.zeros(96, 32), 4))}, "up"),
        ({"up": block_quantised(quantise(torch.zeros(64, 64), 8))}, "up"),
        ({"up": block_weights(torch.zeros(96, 64)).int()}, "up"),
        ({"heads": 0}, "heads"),
        ({"inner": 200}, "gate"),
    ],
)
def test_wrong_arguments_are_named_with_their_layer(change: dict[str, Any], named: str) -> None:
    with pytest.raises(RuntimeError, match=named):
        computed({**sample(2, 64, 2, 1, 32, 96), **change})
    if set(change) & {*LAYER_WEIGHTS, "values"}:
        right = sample(2, 64, 2, 1, 32, 96)
        with pytest.raises(RuntimeError, match=rf"({named}) of layer 1"):
            computed(right, {**right, **change})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weights": []}, "weights"),
        ({"keys": [], "values": []}, "keys and values"),
        ({"keys": []}, "keys and values"),
        ({"keys": [torch.zeros(3)]}, "keys"),
    ],
)
def test_so_are_lists_that_do_not_fit(change: dict[str, Any], named: str) -> None:
    with pytest.raises(RuntimeError, match=named):
        decoder_layers(**{**arguments(sample(2, 64, 2, 1, 32, 96)), **change})


def test_so_are_tensors_in_lists_that_are_not_strided() -> None:
    given = arguments(sample(2, 64, 2, 1, 32, 96))
    with pytest.raises(TypeError, match="strided"):
        decoder_layers(**{**given, "weights": [torch.zeros(64).to_sparse(), *given["weights"][1:]]})
