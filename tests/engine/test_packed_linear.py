"""Packed linear layers: which are chosen, what they compute, and that they keep what plain layers hold.

Nothing here depends on the processor's instructions: what holds of some holds of all.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from engine.checkpoints import Variant, write_checkpoint
from engine.packing import can_pack
from engine.test_engine import picture
from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.engine import Engine
from secondlook.engine.models import checkpoint as loading
from secondlook.engine.models import packing
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.packed_linear import PackedLinear
from secondlook.engine.models.packing import PACKED, PLAIN, Choice, Seconds, choose, pack_linear_layers
from secondlook.kernels import status

_Model = TypeVar("_Model", bound=nn.Module)
QUESTIONS = ("What is the number on the sign?", "Describe the picture.", "Is there a dog?")
DTYPES = (torch.float32, torch.bfloat16)
needs_packing = pytest.mark.skipif(not can_pack(torch.float32), reason="no layer is packed here")
FEW = Choice(packed=True, few=16)
FUSED = Choice(packed=True, few=16, fused=True)
CHOICES = (PACKED, FEW, FUSED, PLAIN)


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


def packed(model: _Model, choice: Choice = PACKED) -> _Model:
    """Its layers stay plain where oneDNN cannot multiply them, as everywhere else."""
    pack_linear_layers(model, choice)
    return model


def served(layer: nn.Linear, choice: Choice = PACKED) -> nn.Module:
    return packed(nn.Sequential(layer), choice)[0]


def names(model: nn.Module) -> set[str]:
    return {name for name, layer in model.named_modules() if isinstance(layer, PackedLinear)}


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [(40,), (1, 40), (1, 1, 40), (2, 40), (3, 1, 40), (5, 40), (1, 7, 40), (2, 150, 40), (0, 40), (0, 1, 40)],
)
def test_equal_plain_layers(choice: Choice, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    plain = head(dtype)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        found = served(plain, choice)(values)
        exact = linear(values.double(), plain.weight.double(), plain.bias.double())
        products = linear(values.double().abs(), plain.weight.double().abs(), plain.bias.double().abs())
    assert found.dtype == dtype
    assert found.shape == exact.shape
    assert ((found.double() - exact).abs() <= 4 * torch.finfo(dtype).eps * products).all()


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("width", "outputs"), [(40, 90), (256, 64), (1024, 64), (1025, 64), (2816, 96), (96, 11000)]
)
def test_a_row_depends_on_how_many_others_there_are_by_rounding_only(
    choice: Choice, dtype: torch.dtype, width: int, outputs: int
) -> None:
    plain = head(dtype, width=width, outputs=outputs)
    layer = served(plain, choice)
    rows = torch.randn(700, width, generator=torch.Generator().manual_seed(2)).to(dtype)
    with torch.inference_mode():
        together = layer(rows).double()
        products = linear(rows.double().abs(), plain.weight.double().abs(), plain.bias.double().abs())
        sums = 4 * torch.finfo(torch.float32).eps * products
        rounding = 0 if dtype == torch.float32 else torch.finfo(dtype).eps * together.abs()
        for count in (1, 2, 3, 4, 5, 8, 17, 64, 333):
            difference = (layer(rows[-count:]).double() - together[-count:]).abs()
            assert (difference <= (sums + rounding)[-count:]).all(), count


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_what_the_others_are(choice: Choice, dtype: torch.dtype) -> None:
    layer = served(head(dtype, width=1025), choice)
    generator = torch.Generator().manual_seed(2)
    with torch.inference_mode():
        for count in (2, 3, 8, 64):
            rows = torch.randn(count, 1025, generator=generator).to(dtype)
            others = torch.cat([torch.randn(count - 1, 1025, generator=generator).to(dtype), rows[-1:]])
            assert torch.equal(layer(rows)[-1], layer(others)[-1]), count


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_whatever_a_plain_layer_takes_is_taken(choice: Choice) -> None:
    plain = head()
    layer = served(plain, choice)
    for values in (torch.randn(40, 9).T, torch.randn(9, 80)[:, ::2], torch.randn(1, 40).expand(6, 40)):
        torch.testing.assert_close(layer(values), plain(values))
    for values in (torch.zeros(5, 41), torch.zeros(41), torch.zeros(5, 40, dtype=torch.float64)):
        with pytest.raises(RuntimeError):
            layer(values)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_what_is_not_finite_stays_in_its_row(choice: Choice) -> None:
    values = torch.zeros(6, 40)
    values[1, 3], values[4, 0] = float("nan"), float("inf")
    found = served(head(), choice)(values)
    assert found.isfinite().all(-1).tolist() == [True, False, True, True, False, True]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_state_is_the_plain_models(choice: Choice, dtype: torch.dtype) -> None:
    expected = layers(dtype).state_dict()
    model = packed(layers(dtype), choice)
    assert names(model) == ({"inner.0", "inner.2", "head"} if can_pack(dtype) and choice != PLAIN else set())
    state = model.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert not any(layer.training for layer in model.modules())


@needs_packing
def test_a_deep_copy_is_plain() -> None:
    model = packed(layers(), FEW)
    copied = copy.deepcopy(model)
    assert not names(copied)
    assert names(model)
    assert not any(layer.training for layer in copied.modules())
    values = torch.randn(5, 40, dtype=torch.float64)
    assert torch.equal(copied.double()["head"](values), head().double()(values))
    copied["head"].weight.zero_()
    assert model["head"](values.float()).any()


@needs_packing
def test_packed_weights_are_neither_moved_nor_cast() -> None:
    model = packed(layers())
    for change in (model.double, model.half, lambda: model.to("meta")):
        with pytest.raises(TypeError, match="make a deep copy first"):
            change()


def timings(**ratios: list[float]) -> dict[int, Seconds]:
    """Of 1, 2, 4, ... rows, in parts of a plain layer's time; as long as that if nothing is said."""
    length = max((len(values) for values in ratios.values()), default=4)
    columns = [ratios.get(name, [1.0] * length) for name in Seconds._fields]
    return {2**power: Seconds(*row) for power, row in enumerate(zip(*columns, strict=True))}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({}, PLAIN),
        (timings(), PLAIN),
        (timings(packed=[0.7, 0.8, 0.6], blocked=[1.0, 1.0, 1.0]), PACKED),
        (timings(packed=[0.7, 0.7, 0.7], blocked=[0.6, 0.6, 0.9]), Choice(True, 2)),
        (timings(packed=[1.2, 1.1, 0.7, 0.7], blocked=[0.6, 0.6, 0.9, 1.0]), Choice(True, 2)),
        (timings(packed=[0.7, 0.7, 0.7], blocked=[0.71, 0.6, 0.6]), Choice(True, 4)),
        (timings(packed=[0.7, 0.7, 0.7], blocked=[0.6, 1.0, 0.5]), Choice(True, 4)),  # one was disturbed
        (timings(packed=[0.7, 0.7, 0.7, 0.7], blocked=[0.6, 0.8, 0.85, 1.2]), Choice(True, 4)),  # cached
        (timings(packed=[0.8, 0.8, 0.8], blocked=[0.97, 0.97, 0.97]), PACKED),  # pays without ours alone
        (timings(packed=[0.95, 0.95, 0.95], blocked=[1.0, 1.0, 1.0]), PLAIN),
        (timings(packed=[1.2, 0.5, 0.5], blocked=[1.3, 1.0, 1.0]), PLAIN),  # slower for one row
        (timings(packed=[0.5, 0.5, 1.2], blocked=[math.inf] * 3), PLAIN),
        (timings(packed=[0.5, 0.5, 1.1], blocked=[math.inf] * 3), PACKED),  # noise
    ],
)
def test_the_choice_follows_from_times_alone(seconds: dict[int, Seconds], expected: Choice) -> None:
    assert choose(seconds) == expected


@pytest.mark.parametrize("plain", [1.0, 0.51])  # the latter is no reason against packing for few rows
@pytest.mark.parametrize(("ratio", "fused"), [(0.9, True), (1.2, True), (1.3, False), (math.inf, False)])
def test_many_rows_are_ours_unless_onednn_is_much_faster(ratio: float, fused: bool, plain: float) -> None:
    few, many = Seconds(1.0, 0.5, 0.4), Seconds(plain, 0.5, 0.5 * ratio)
    times = {1: few, 16: few, 64: many, 256: many, 640: many}
    for seconds in (times, {**times, 256: Seconds(plain, 0.5, 2.0)}):  # one was disturbed
        assert choose(seconds) == Choice(True, 16, fused)


def ticks(step: float = 1e-6) -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += step


@needs_packing
def test_each_number_of_rows_is_measured_by_the_clock_given() -> None:
    found = packing.measure((40, 24, torch.float32), clock=ticks().__next__)
    assert list(found) == [1, 2, 4, 8, 16, 64, 256, 640, 1280]
    assert found[1] == pytest.approx((0.25e-6,) * 3)  # four calls a tick
    assert found[1280] == pytest.approx((1e-6,) * 3)


@needs_packing
def test_many_rows_are_measured_only_where_that_takes_no_time() -> None:
    assert list(packing.measure((40, 24, torch.float32), clock=ticks(1e-3).__next__)) == [1, 2, 4, 8, 16]


@needs_packing
def test_a_measurement_that_takes_too_long_finds_nothing() -> None:
    assert packing.measure((40, 24, torch.float32), clock=ticks(1.0).__next__, limit=20.0) == {}


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    status("cpu")  # its library is where it was
    monkeypatch.setenv("SECONDLOOK_CACHE", str(tmp_path))
    return tmp_path / "packing"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[packing.Shape]:
    """The shapes that are measured; there is time for those of 90 outputs or many inputs."""
    found: list[packing.Shape] = []

    def fake(shape: packing.Shape, *, limit: float) -> dict[int, Seconds]:
        found.append(shape)
        assert math.isfinite(limit)
        if shape[1] == 90 or shape[0] > 100:
            return timings(packed=[0.5, 0.5], blocked=[0.4, 0.4])
        return {}

    monkeypatch.setattr(packing, "measure", fake)
    return found


@needs_packing
def test_what_was_measured_is_remembered(cache: Path, measured: list[packing.Shape]) -> None:
    for _ in range(2):
        model = layers()
        pack_linear_layers(model)
        assert names(model) == {"head"}
    counts = {shape[:2]: measured.count(shape) for shape in measured}
    # again where there was no time the first time
    assert counts == {(24, 40): 2, (40, 24): 2, (40, 90): 1}
    wide = nn.Sequential(nn.Linear(2**12, 2**10), nn.Linear(2**12, 2**9)).requires_grad_(False)
    pack_linear_layers(wide)
    assert measured[5:] == [(2**12, 2**9, torch.float32)]  # of many outputs, some are enough
    (file,) = cache.glob("*.json")
    assert set(json.loads(file.read_bytes())["choices"]) == {"40x90 float32", "4096x512 float32"}


@needs_packing
def test_processes_choose_alike(cache: Path, measured: list[packing.Shape]) -> None:
    pack_linear_layers(layers())
    (file,) = cache.glob("*.json")
    known = json.loads(file.read_bytes())
    known["choices"]["40x90 float32"] = {"packed": False, "few": 0}  # as another process found
    file.write_text(json.dumps(known))
    model = layers()
    pack_linear_layers(model)
    assert not names(model)


@needs_packing
def test_other_threads_are_another_measurement(cache: Path, measured: list[packing.Shape]) -> None:
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            pack_linear_layers(nn.Sequential(head()))
    finally:
        torch.set_num_threads(threads)
    assert len(measured) == 2
    assert len(list(cache.glob("*.json"))) == 2


@needs_packing
@pytest.mark.parametrize("content", ["", "{", "[]", '{"choices": {"40x90 float32": 3}}', '{"format": 1}'])
def test_a_damaged_file_is_made_anew(
    cache: Path, measured: list[packing.Shape], content: str, caplog: pytest.LogCaptureFixture
) -> None:
    pack_linear_layers(nn.Sequential(head()))
    (file,) = cache.glob("*.json")
    file.write_text(content)
    model = nn.Sequential(head())
    pack_linear_layers(model)
    assert names(model) == {"0"}
    assert len(measured) == 2
    assert "is made anew" in caplog.text
    choice = {"packed": True, "few": 2, "fused": False}
    assert json.loads(file.read_bytes())["choices"] == {"40x90 float32": choice}


@needs_packing
def test_without_a_folder_it_is_measured_each_time(
    cache: Path, measured: list[packing.Shape], caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file")
    for _ in range(2):
        model = nn.Sequential(head())
        pack_linear_layers(model)
        assert names(model) == {"0"}
    assert len(measured) == 2
    assert "measured each time" in caplog.text


@needs_packing
def test_what_is_measured_on_this_processor_is_a_choice() -> None:
    model = layers()
    pack_linear_layers(model)
    values = torch.randn(5, 40)
    torch.testing.assert_close(model["head"](values), head()(values))


@pytest.mark.parametrize("capability", ["DEFAULT", "SVE256"])
def test_nothing_is_packed_on_other_processors(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
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


@needs_packing
@pytest.mark.parametrize("choice", [PACKED, FEW, FUSED], ids=str)
def test_answers_regions_and_digests_stay_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: Choice
) -> None:
    folder = str(write_checkpoint(tmp_path / "model", Variant(seed=5, kv_heads=2)))
    options = AnswerOptions(second_look="always", max_new_tokens=6)

    def answers(used: Choice) -> list[object]:
        monkeypatch.setattr(loading, "pack_linear_layers", lambda model: pack_linear_layers(model, used))
        engine = Engine(load_model(folder))
        linear_layers = {
            type(part) for part in engine.model.module.modules() if "Linear" in type(part).__name__
        }
        assert linear_layers == {nn.Linear if used == PLAIN else PackedLinear}
        tasks = [
            engine.start_first_look(engine.prepare(picture(seed), question, Size(1000, 800), options))
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

    assert answers(choice) == answers(PLAIN)
