"""A gate on gain: its arithmetic, its file, and what it decides."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from edge.support import square
from engine.calibrated import a_policy_file
from engine.checkpoints import IMAGE_SIZE, Variant, write_checkpoint
from engine.gates import a_gate
from engine.looks import drawn
from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Region, Size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.engine import Engine
from secondlook.engine.errors import PolicyFileError
from secondlook.engine.method.budget import BudgetedThreshold, BudgetSettings
from secondlook.engine.method.decision import Decider
from secondlook.engine.method.gate import FEATURES, Gate, feature_table
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import read_policy, write_policy
from secondlook.engine.method.uncertainty import TokenStatistics
from secondlook.engine.models.checkpoint import load_model

LARGE = Size(1000, 800)
TOKENS = (TokenStatistics(0.5, 1.0, 0.25, False), TokenStatistics(0.1, 0.2, 0.75, True))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def test_a_gate_is_scikit_learns_logistic_regression() -> None:
    generator = np.random.default_rng(0)
    table = generator.normal(size=(500, len(FEATURES))) * generator.uniform(0.1, 5, len(FEATURES))
    gained = generator.random(500) < 1 / (1 + np.exp(-table[:, 0] - table[:, 6]))
    model = LogisticRegression(max_iter=1000).fit(table, gained)
    weights = dict(zip(FEATURES, model.coef_[0].tolist(), strict=True))
    gate = Gate(1, "gain", float(model.intercept_[0]), weights, pictures=500, questions=500)
    expected = model.predict_proba(table)[:, 1]
    np.testing.assert_allclose(gate.gain(table), expected, rtol=1e-12, atol=0)
    one_by_one = [float(gate.gain(row)) for row in table]
    np.testing.assert_allclose(one_by_one, expected, rtol=1e-12, atol=0)


def test_features_are_what_they_are_called() -> None:
    expected = {
        "min_entropy_mean": math.log(0.301),
        "shannon_entropy_mean": math.log(0.601),
        "margin_mean": math.log(0.501),
        "min_entropy_max": math.log(0.501),
        "shannon_entropy_max": math.log(1.001),
        "margin_max": math.log(0.751),
        "tokens": 2.0,
    }
    for name, value in expected.items():
        gate = a_gate(0.25, **{name: -3.0})
        assert gate.expects(TOKENS) == pytest.approx(sigmoid(0.25 - 3 * value), rel=1e-12)
    every = a_gate(-1.0, **{name: place / 7 for place, name in enumerate(FEATURES)})
    summed = math.fsum(place / 7 * value for place, value in enumerate(expected.values()))
    assert every.expects(TOKENS) == pytest.approx(sigmoid(summed - 1.0), rel=1e-12)


@pytest.mark.parametrize(("sign", "certain"), [(1, 1.0), (-1, 0.0)])
def test_no_sum_is_too_large(sign: int, certain: float) -> None:
    largest = a_gate(sign * 1e6, **dict.fromkeys(FEATURES, sign * 1e6))
    assert largest.expects([TokenStatistics(1e6, 1e6, 1.0, False)] * 10_000) == certain


def test_no_doubt_at_all_is_a_number_too() -> None:
    gate = a_gate(0.0, min_entropy_mean=1.0)
    assert gate.expects([TokenStatistics(0.0, 0.0, 0.0, True)]) == pytest.approx(0.001 / 1.001, rel=1e-9)


def test_nearly_impossible_gains_are_still_told_apart() -> None:
    gate = a_gate(tokens=-1.0)
    table = np.concatenate([feature_table(np.ones(3), np.ones(3), count)[None] for count in (200, 201)])
    more, less = gate.gain(table).tolist()
    assert more == pytest.approx(math.exp(-200), rel=1e-12)
    assert 0 < less < more


def test_a_file_keeps_its_gate(tmp_path: Path) -> None:
    gate = a_gate(-1.25, "change", min_entropy_mean=-3.5, margin_max=1 / 3)
    write_policy(a_policy_file(0.3, gate=gate), tmp_path / "policy.json")
    found = read_policy(tmp_path / "policy.json")
    assert found == a_policy_file(0.3, gate=gate)
    assert found.policy == Policy(0.3, gate=gate)
    assert found.policy.need(TOKENS) == gate.expects(TOKENS)


def test_a_policy_without_a_gate_has_the_file_it_always_had(tmp_path: Path) -> None:
    write_policy(a_policy_file(), tmp_path / "policy.json")
    assert "gate" not in json.loads((tmp_path / "policy.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [
        (("version",), 2, "gate.version should be 1, not 2"),
        (("aim",), "speed", "gate.aim should be 'gain' or 'change', not 'speed'"),
        (("intercept",), "0", "gate.intercept should be a valid number, not '0'"),
        (("weights", "tokens"), 2e6, "gate.weights.tokens should be less than or equal to 1000000, not"),
        (("weights", "tokens"), float("inf"), "gate.weights.tokens should be a finite number, not inf"),
        (("weights", "tokens"), float("nan"), "gate.weights.tokens should be a finite number, not nan"),
        (("weights", "doubt"), 1.0, "gate.weights.doubt"),
        (
            ("weights",),
            {"tokens": 1.0},
            "a gate has a weight for every feature, but none for min_entropy_mean,",
        ),
        (("questions",), 0, "gate.questions should be greater than 0, not 0"),
        (("more",), 1, "unknown key gate.more"),
    ],
)
def test_other_gates_are_named_and_refused(
    keys: tuple[str, ...], value: Any, told: str, tmp_path: Path
) -> None:
    values = json.loads(a_policy_file(gate=a_gate()).model_dump_json())
    inside = values["gate"]
    for key in keys[:-1]:
        inside = inside[key]
    inside[keys[-1]] = value
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(PolicyFileError) as error:
        read_policy(path)
    assert told in str(error.value)
    assert str(path) in str(error.value)


def test_a_request_with_a_threshold_of_its_own_means_doubt() -> None:
    policy = Policy(0.3, gate=a_gate())
    assert policy.with_options(AnswerOptions()) == policy
    assert policy.with_options(AnswerOptions(measure="min_entropy")) == policy
    assert policy.with_options(AnswerOptions(threshold=7.0)) == Policy(7.0)
    with pytest.raises(SettingsError, match="margin needs a threshold of its own"):
        policy.with_options(AnswerOptions(measure="margin"))


def test_a_budget_moves_a_gates_threshold() -> None:
    policy = Policy(0.5, gate=a_gate())
    budget = BudgetedThreshold(BudgetSettings(0.5), policy.threshold)
    deciding, options = Decider(policy, square(168), budget), AnswerOptions()
    for number in range(400):
        deciding.decide(0.01 * (number * 37 % 100), LARGE, policy, options, Region(0, 0, 9, 9))
    assert deciding.threshold == pytest.approx(0.5, abs=0.06)
    assert budget.looks == pytest.approx(200, abs=10)
    own = AnswerOptions(threshold=0.0)
    assert not deciding.counts(policy.with_options(own), own)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("gated"), Variant(seed=11, kv_heads=2))


def picture(seed: int) -> Image.Image:
    return drawn((IMAGE_SIZE, IMAGE_SIZE), seed)


@pytest.mark.usefixtures("one_thread")
class TestServed:
    """An engine with a gate."""

    def test_the_gate_decides_on_the_tokens_that_are_there(self, folder: Path) -> None:
        gate = a_gate(0.5, min_entropy_mean=0.4, shannon_entropy_max=-0.7, tokens=0.1)
        asked, model = (picture(1), "What is it?", LARGE), load_model(str(folder))
        for decide_after in (2, 5):
            known = Engine(model, Policy(0.0, decide_after=decide_after)).first_look(*asked)
            expected = gate.expects(known.tokens[:decide_after])
            for threshold, decision in ((expected, "unsure"), (math.nextafter(expected, 1), "sure")):
                policy = Policy(threshold, decide_after=decide_after, gate=gate)
                found = Engine(model, policy).first_look(*asked)
                assert found.decision == decision
                assert found.uncertainty == known.uncertainty
                assert found.region == (known.region if decision == "unsure" else None)

    def test_a_request_may_decide_otherwise(self, folder: Path) -> None:
        engine = Engine(load_model(str(folder)), Policy(0.5, gate=a_gate(-9.0)))  # it expects nothing
        assert (engine.card.gated, engine.card.threshold) == (True, 0.5)
        asked = (picture(2), "What is it?", LARGE)
        assert engine.first_look(*asked).decision == "sure"
        for options, decision in (
            (AnswerOptions(threshold=0.0), "unsure"),
            (AnswerOptions(threshold=1e9), "sure"),
            (AnswerOptions(second_look="always"), "unsure"),
            (AnswerOptions(second_look="never"), "disabled"),
        ):
            assert engine.first_look(*asked, options).decision == decision

    def test_the_surer_answer_is_kept_by_doubt(self, folder: Path) -> None:
        engine = Engine(load_model(str(folder)), Policy(0.0, gate=a_gate()))
        first = engine.first_look(picture(3), "What is it?", LARGE)
        assert first.pending is not None
        final = engine.second_look(first.pending, picture(4))
        surer = final.second.uncertainty <= final.first.uncertainty
        assert final.decision == ("took_second" if surer else "kept_first")
        assert final.first.uncertainty == Policy(0.0).uncertainty(final.first.tokens)
