"""Who decides on a second look: the request, the threshold or the budget; and an engine under a budget."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge.support import square
from engine.checkpoints import IMAGE_SIZE, Variant, write_checkpoint
from secondlook.edge.geometry import Region, Size
from secondlook.edge.wire import AnswerOptions, View
from secondlook.edge.wire import Budget as Budgeted
from secondlook.engine.engine import Engine
from secondlook.engine.method.budget import Budget, BudgetSettings
from secondlook.engine.method.decision import Decider
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.region import RegionSettings
from secondlook.engine.models.checkpoint import load_model

LARGE, SMALL = Size(1000, 800), Size(100, 80)
POLICY = Policy(0.5)
VIEW = square(168)


def decided(deciding: Decider, uncertainty: float, original: Size = LARGE, **options: Any) -> str:
    asked = AnswerOptions(**options)
    return deciding.decide(uncertainty, original, deciding.policy.with_options(asked), asked, None)


def budgeted(rate: float = 0.5) -> tuple[Decider, Budget]:
    budget = Budget(BudgetSettings(rate), POLICY.threshold)
    return Decider(POLICY, VIEW, budget), budget


def test_without_a_budget_the_threshold_decides() -> None:
    deciding = Decider(POLICY, VIEW)
    assert decided(deciding, 0.49) == "sure"
    assert decided(deciding, 0.5) == "unsure"
    assert decided(deciding, 0.5, SMALL) == "no_detail_to_gain"
    assert decided(deciding, 9.0, second_look="never") == "disabled"
    assert decided(deciding, 0.0, second_look="always") == "unsure"
    assert deciding.threshold == 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.5},
        {"threshold": 0.1, "measure": "margin"},
        {"aggregation": "first"},
        {"include_eos": False},
        {"decide_after": 1},
        {"second_look": "always"},
        {"second_look": "never"},
    ],
)
def test_a_request_with_its_own_mind_is_left_alone_and_not_counted(options: dict[str, Any]) -> None:
    deciding, budget = budgeted()
    for _ in range(40):
        for uncertainty in (0.1, 9.0):
            assert decided(deciding, uncertainty, **options) == decided(
                Decider(POLICY, VIEW), uncertainty, **options
            )
    assert (budget.questions, budget.threshold) == (0, 0.5)


@pytest.mark.parametrize(
    "options", [{}, {"arbitration": False}, {"max_new_tokens": 3}, {"measure": "min_entropy"}]
)
def test_the_budget_decides_on_the_others_and_counts_them(options: dict[str, Any]) -> None:
    deciding, budget = budgeted()
    decisions = [decided(deciding, 1.0 + number % 10, **options) for number in range(200)]
    assert budget.questions == 200
    assert budget.looks == decisions.count("unsure") == pytest.approx(100, abs=10)
    assert deciding.threshold == budget.tracked > 4


def test_where_no_detail_is_to_be_gained_no_look_is_counted() -> None:
    deciding, budget = budgeted()
    assert [decided(deciding, 9.0, SMALL) for _ in range(3)] == ["no_detail_to_gain"] * 3
    assert (budget.questions, budget.looks) == (3, 0)


def test_seeking_counts_nothing_and_deciding_counts_once() -> None:
    deciding, budget = budgeted()
    options = AnswerOptions()
    for _ in range(3):
        assert deciding.seeks(9.0, LARGE, POLICY, options)
        assert not deciding.seeks(0.1, LARGE, POLICY, options)
        assert not deciding.seeks(9.0, SMALL, POLICY, options)
    assert budget.questions == 0
    whole = Region(0, 0, LARGE.width, LARGE.height)
    assert deciding.decide(9.0, LARGE, POLICY, options, whole) == "no_detail_to_gain"
    assert deciding.decide(9.0, LARGE, POLICY, options, Region(0, 0, 9, 9)) == "unsure"
    assert (budget.questions, budget.looks) == (2, 1)


def test_a_region_too_slender_to_be_looked_at_has_no_detail_to_gain() -> None:
    deciding, budget = budgeted()
    deciding = replace(
        deciding, local_view=View(size=Budgeted(multiple=28, least_pixels=784, most_pixels=78400))
    )
    for width, decision in ((800, "unsure"), (804, "no_detail_to_gain")):
        region = Region(0, 0, width, 4)
        assert deciding.decide(9.0, Size(9000, 4), POLICY, AnswerOptions(), region) == decision
    assert (budget.questions, budget.looks) == (2, 1)


def test_doubt_about_what_cannot_be_looked_at_takes_no_look_from_others() -> None:
    deciding, budget = budgeted(0.25)
    for number in range(400):
        decided(deciding, 50.0, SMALL)
        decided(deciding, 1.0 + number % 10)
    assert deciding.threshold == pytest.approx(5.5, abs=1)  # half of the others, a quarter of all
    assert budget.looks == pytest.approx(200, abs=20)  # a slack of 9 in every 500


def test_the_log_says_what_was_spent(caplog: pytest.LogCaptureFixture) -> None:
    deciding, _ = budgeted()
    with caplog.at_level(logging.INFO):
        for number in range(200):
            decided(deciding, float(number % 2))
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("budget: 5")
    assert "of 100 questions looked at twice, 0 bytes of local images; the threshold is " in first
    assert "of 200 questions" in second


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("budgeted"), Variant(seed=11, kv_heads=2))


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)


@pytest.mark.usefixtures("one_thread")
def test_an_engine_keeps_its_budget(folder: Path) -> None:
    budget = Budget(BudgetSettings(0.5, slack=1.0), 0.0)
    engine = Engine(load_model(str(folder)), budget=budget)
    short = AnswerOptions(max_new_tokens=1)
    assert engine.card.threshold == 0.0
    looks = [engine.first_look(picture(seed), "What is it?", LARGE, short) for seed in range(24)]
    asked = [look for look in looks if look.pending is not None]
    assert budget.looks == len(asked) == pytest.approx(12, abs=2)
    assert engine.card.threshold == budget.tracked > 0.0
    alone = engine.first_look(picture(0), "What is it?", LARGE, AnswerOptions(second_look="always"))
    assert alone.pending is not None
    assert asked[0].pending is not None
    assert (asked[0].pending.counted, alone.pending.counted) == (True, False)
    for pending, counted in ((alone.pending, 0), (asked[0].pending, 700)):
        task = engine.start_second_look(pending, engine.prepare_local(pending, picture(1)), sent_bytes=700)
        while engine.round():
            pass
        task.future.result()
        assert budget.bytes == counted
    assert budget.questions == 24


@pytest.mark.usefixtures("one_thread")
def test_a_region_of_the_whole_picture_is_not_counted_as_a_look(folder: Path) -> None:
    budget = Budget(BudgetSettings(0.5), 0.0)
    engine = Engine(load_model(str(folder)), region=RegionSettings(crop_size=5000), budget=budget)
    assert engine.first_look(picture(1), "What is it?", LARGE).decision == "no_detail_to_gain"
    assert (budget.questions, budget.looks) == (1, 0)
