"""The gate: it lets the right encoder through, and tells everything that is wrong with another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from export.support import CPU, QUICK, Exported, asked
from secondlook.edge.errors import SettingsError
from secondlook.engine.encoders.manifest import TOLERANCES, GraphDType, Parity
from secondlook.engine.encoders.onnx_runtime import open_onnx
from secondlook.engine.errors import EncoderError
from secondlook.engine.method.uncertainty import TokenStatistics
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.results import Look
from secondlook.export.errors import ExportError, Failure, GateError
from secondlook.export.gate import AnswerTally, GateSettings, pass_gate
from secondlook.export.graph import narrowed, write_encoder

pytestmark = pytest.mark.usefixtures("one_thread")


def altered(exported: Exported, change: Callable[[Tensor], Tensor]) -> VisionLanguageModel:
    """The model with an encoder whose features are changed."""
    (right,) = open_onnx(exported.folder, exported.manifest, CPU)
    return exported.model.with_encoder(lambda pixels: change(right(pixels)))


def gate(exported: Exported, change: Callable[[Tensor], Tensor], dtype: GraphDType = "float32") -> Parity:
    return pass_gate("it", exported.model, altered(exported, change), dtype, asked(), QUICK)


def failures(exported: Exported, change: Callable[[Tensor], Tensor]) -> dict[str, str]:
    with pytest.raises(GateError) as caught:
        gate(exported, change)
    found = {failure.check: failure.message for failure in caught.value.failures}
    assert all(message in str(caught.value) for message in found.values())
    return found


def test_the_tolerances_are_the_projects() -> None:
    assert TOLERANCES["float32"] == 1e-5
    assert TOLERANCES["float16"] == 5e-3
    assert TOLERANCES["bfloat16"] == 2e-2


def test_the_right_encoder_passes(exported: Exported) -> None:
    parity = gate(exported, lambda features: features)
    assert 0 < parity.relative_error <= parity.tolerance == 1e-5
    assert (parity.pictures, parity.questions, parity.answers) == (3, 6, 12)  # two questions a picture
    assert parity.same_answers + parity.within_rounding == 12
    assert parity.same_regions == parity.regions == 6
    assert parity.entropy_difference < 1e-3


def test_a_small_error_fails_where_the_precision_allows_none(exported: Exported) -> None:
    assert set(failures(exported, lambda features: features * (1 + 2e-5))) == {"features"}
    assert gate(exported, lambda features: features * (1 + 2e-5), "float16").relative_error < 1e-4


def test_everything_that_is_wrong_is_told(exported: Exported) -> None:
    found = failures(exported, lambda features: features.flip(1))
    assert {"features", "answers", "regions"} <= set(found)
    assert "more than 1e-05" in found["features"]
    assert "answers differ beyond rounding, such as to 'What is on the sign'" in found["answers"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_nan_and_no_infinity_passes(exported: Exported, value: float) -> None:
    with pytest.raises(GateError) as caught:
        gate(exported, lambda features: features.index_fill(2, torch.tensor([5]), value))
    assert [failure.check for failure in caught.value.failures] == ["finite", "finite"]
    assert "36 of 2304 features are NaN or infinite; finite: no answer after 0 questions" in str(caught.value)


def test_features_of_another_shape_do_not_pass(exported: Exported) -> None:
    (right,) = open_onnx(exported.folder, exported.manifest, CPU)
    shorter = exported.model.with_encoder(lambda pixels: right(pixels)[:, :-1])
    with pytest.raises(GateError, match=r"the features have the shape \(35, 64\), not \(36, 64\)"):
        pass_gate("it", exported.model, shorter, "float32", asked(), QUICK)


def test_what_was_found_before_is_told_too(exported: Exported) -> None:
    before = [Failure("graph", "it has a hole")]
    with pytest.raises(GateError, match="it has a hole"):
        pass_gate("it", exported.model, exported.model, "float32", asked(), QUICK, before)


def test_a_graph_of_another_interface_is_not_run(exported: Exported) -> None:
    def refusing(pixels: Tensor) -> Tensor:
        raise EncoderError(f"no {len(pixels)} pictures")

    before = [Failure("interface", "its input is [2, 3, 84, 84], not [batch, 3, 84, 84]")]
    fixed = exported.model.with_encoder(refusing)
    with pytest.raises(GateError, match=r"interface: its input is \[2, 3, 84, 84\]"):
        pass_gate("it", exported.model, fixed, "float32", asked(), QUICK, before)


def test_too_few_questions_are_no_gate(exported: Exported) -> None:
    few = islice(asked(), 2)
    with pytest.raises(ExportError, match="only 4 questions about 2 pictures, and 6 about 3 must be asked"):
        pass_gate("it", exported.model, exported.model, "float32", few, QUICK)
    with pytest.raises(SettingsError, match="questions should be greater than 0, not 0"):
        GateSettings(questions=0)


def test_just_enough_questions_are_enough(exported: Exported) -> None:
    enough = islice(asked(), 3)
    assert pass_gate("it", exported.model, exported.model, "float32", enough, QUICK).questions == 6


def look(ids: tuple[int, ...], gap: float = 9.0, uncertainty: float = 0.3) -> Look:
    """An answer whose tokens all have their runner-up `gap` nats below them."""
    best = 0.5
    margin = 1 - (best - best * float(torch.exp(torch.tensor(-gap, dtype=torch.float64))))
    statistics = TokenStatistics(-float(torch.tensor(best).log()), 0.7, margin, is_eos=False)
    return Look("".join(map(chr, ids)), ids, (statistics,) * len(ids), uncertainty, 9, 4)


def tallied(theirs: Look, mine: Look) -> AnswerTally:
    tally = AnswerTally(rounding=0.1)
    tally.add("what?", theirs, mine)
    return tally


def test_answers_are_compared_token_by_token() -> None:
    same = tallied(look((65, 66)), look((65, 66), uncertainty=0.25))
    assert (same.answers, same.same_answers, same.within_rounding, same.different) == (1, 1, 0, [])
    assert same.entropy_difference == pytest.approx(0.05)
    close = tallied(look((65, 66), gap=0.05), look((65, 67), uncertainty=9.0))
    assert (close.same_answers, close.within_rounding, close.different) == (0, 1, [])
    assert close.entropy_difference == 0  # of different answers it says nothing
    far = tallied(look((65, 66), gap=0.2), look((65, 67)))
    assert (far.same_answers, far.within_rounding) == (0, 0)
    assert far.different == ["'what?': 'AC', not 'AB', which torch prefers by 0.200 nats"]


def test_only_the_first_difference_counts() -> None:
    theirs = replace(
        look((65, 66, 67), gap=0.2), tokens=(look((65,), 5.0).tokens[0], *look((66, 67), 0.05).tokens)
    )
    assert tallied(theirs, look((65, 99, 98))).within_rounding == 1
    assert tallied(theirs, look((64, 66, 67))).within_rounding == 0
    assert tallied(theirs, look((65, 66))).within_rounding == 1  # it ended where torch nearly had


def test_a_bfloat16_graph_is_computed_as_torch_computes_it(exported: Exported, tmp_path: Path) -> None:
    pixels = torch.randn(2, 3, 84, 84, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = exported.model.vision_module()(pixels)
        module = narrowed(exported.model.vision_module(), torch.bfloat16)
        narrow = module(pixels.bfloat16()).float()
    (encoder,) = write_encoder(exported.model, "bfloat16", 18, tmp_path).open()
    found = encoder(pixels)
    assert torch.equal(found, found.bfloat16().float())  # its output is bfloat16
    error, theirs = ((each - exact).norm() / exact.norm() for each in (found, narrow))
    assert 0.5 * theirs < error < 2 * theirs
    assert {file.name for file in tmp_path.iterdir()} == {"encoder.onnx", "encoder.onnx.data"}
