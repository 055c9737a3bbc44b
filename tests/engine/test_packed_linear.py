"""Packed linear layers: which are packed, what they compute, and that they keep what plain layers hold."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from engine.checkpoints import Variant, write_checkpoint
from engine.packing import DTYPES, can_pack
from engine.test_engine import picture
from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.engine import Engine
from secondlook.engine.models import checkpoint as loading
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.packed_linear import PackedLinear, pack_linear_layers

_Model = TypeVar("_Model", bound=nn.Module)
QUESTIONS = ("What is the number on the sign?", "Describe the picture.", "Is there a dog?")
pytestmark = pytest.mark.skipif(not can_pack(torch.float32), reason="no layer is packed here")


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU on which packed layers are known to be faster; oneDNN serves others as well."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


def layers(dtype: torch.dtype = torch.float32, *, width: int = 40, outputs: int = 90) -> nn.ModuleDict:
    torch.manual_seed(3)
    inner = nn.Sequential(nn.Linear(width, 24), nn.SiLU(), nn.Linear(24, width, bias=False))
    parts: dict[str, nn.Module] = {
        "inner": inner,
        "norm": nn.LayerNorm(width),
        "head": nn.Linear(width, outputs),
    }
    return nn.ModuleDict(parts).to(dtype).eval().requires_grad_(False)


def head(dtype: torch.dtype = torch.float32, *, width: int = 40, outputs: int = 90) -> nn.Linear:
    layer = layers(dtype, width=width, outputs=outputs)["head"]
    assert isinstance(layer, nn.Linear)
    return layer


def packed(model: _Model) -> _Model:
    pack_linear_layers(model)
    return model


def names(model: nn.Module) -> set[str]:
    return {name for name, layer in model.named_modules() if isinstance(layer, PackedLinear)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [(40,), (1, 40), (1, 1, 40), (2, 40), (3, 1, 40), (5, 40), (1, 7, 40), (2, 150, 40), (0, 40), (0, 1, 40)],
)
def test_equal_plain_layers(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    plain = head(dtype)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        found = PackedLinear(plain)(values)
        exact = linear(values.double(), plain.weight.double(), plain.bias.double())
        products = linear(values.double().abs(), plain.weight.double().abs(), plain.bias.double().abs())
    assert found.dtype == dtype
    assert found.shape == exact.shape
    assert ((found.double() - exact).abs() <= 4 * torch.finfo(dtype).eps * products).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("width", "outputs"), [(40, 90), (256, 64), (1024, 64), (1025, 64), (2816, 96), (96, 11000)]
)
def test_a_rows_bits_do_not_depend_on_the_others(dtype: torch.dtype, width: int, outputs: int) -> None:
    layer = PackedLinear(head(dtype, width=width, outputs=outputs))
    rows = torch.randn(700, width, generator=torch.Generator().manual_seed(2)).to(dtype)
    with torch.inference_mode():
        together = layer(rows)
        for count in (1, 2, 3, 4, 5, 8, 17, 64, 333):
            assert torch.equal(layer(rows[-count:]), together[-count:]), count


def test_whatever_a_plain_layer_takes_is_taken() -> None:
    plain = head()
    for values in (torch.randn(40, 9).T, torch.randn(9, 80)[:, ::2], torch.randn(1, 40).expand(6, 40)):
        torch.testing.assert_close(PackedLinear(plain)(values), plain(values))
    for values in (torch.zeros(5, 41), torch.zeros(41), torch.zeros(5, 40, dtype=torch.float64)):
        with pytest.raises(RuntimeError):
            PackedLinear(plain)(values)


def test_what_is_not_finite_stays_in_its_row() -> None:
    values = torch.zeros(6, 40)
    values[1, 3], values[4, 0] = float("nan"), float("inf")
    found = PackedLinear(head())(values)
    assert found.isfinite().all(-1).tolist() == [True, False, True, True, False, True]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_state_is_the_plain_models(dtype: torch.dtype) -> None:
    expected = layers(dtype).state_dict()
    model = packed(layers(dtype))
    assert names(model) == {"inner.0", "inner.2", "head"}
    state = model.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert not any(layer.training for layer in model.modules())


def test_a_deep_copy_is_plain() -> None:
    model = packed(layers())
    copied = copy.deepcopy(model)
    assert not names(copied)
    assert names(model)
    assert not any(layer.training for layer in copied.modules())
    values = torch.randn(5, 40, dtype=torch.float64)
    assert torch.equal(copied.double()["head"](values), head().double()(values))


def test_packed_weights_are_neither_moved_nor_cast() -> None:
    model = packed(layers())
    for change in (model.double, model.half, lambda: model.to("meta")):
        with pytest.raises(TypeError, match="make a deep copy first"):
            change()


@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT", "SVE256"])
def test_nothing_is_packed_where_it_was_not_measured(
    monkeypatch: pytest.MonkeyPatch, capability: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert not names(packed(layers()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_nor_in_other_dtypes(dtype: torch.dtype) -> None:
    assert not names(packed(layers(dtype)))


def test_nor_on_other_devices() -> None:
    assert not names(packed(layers().to("meta")))


def test_nor_without_pytorchs_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.engine.models.packed_linear._ops", object())
    assert not names(packed(layers()))


def test_nor_other_kinds_of_layers() -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
            return super().forward(input) + 1

    assert not names(packed(nn.Sequential(Own(4, 4), nn.Conv2d(3, 4, 2))))


def test_answers_regions_and_digests_stay_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(write_checkpoint(tmp_path / "model", Variant(seed=5, kv_heads=2)))
    options = AnswerOptions(second_look="always", max_new_tokens=6)

    def answers(*, ours: bool) -> list[object]:
        engine = Engine(load_model(folder))
        linear_layers = {
            type(part) for part in engine.model.module.modules() if "Linear" in type(part).__name__
        }
        assert linear_layers == {PackedLinear if ours else nn.Linear}
        tasks = [
            engine.start_first_look(picture(seed), question, Size(1000, 800), options)
            for seed, question in enumerate(QUESTIONS)
        ]
        while engine.round():
            pass
        looks = [task.future.result() for task in tasks]
        digests = (
            engine.model.digest(),
            engine.model.encoder_digest(),
            engine.model.encoder_digest(torch.float64),
        )
        return [*digests, *((look.look.token_ids, look.region) for look in looks)]

    expected = answers(ours=True)
    monkeypatch.setattr(loading, "pack_linear_layers", lambda _model: None)
    assert answers(ours=False) == expected
