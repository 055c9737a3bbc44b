"""Gates from logs: how they are fitted, what they are compared with, and the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.logs import header, write_run
from benchmarks.samples import a_look, a_record
from engine.calibrated import a_policy_file
from engine.gates import a_gate
from secondlook.benchmarks.analysis.columns import Columns
from secondlook.benchmarks.analysis.gating import compare_gates
from secondlook.benchmarks.analysis.replay import Replay
from secondlook.benchmarks.analysis.runs import read_run
from secondlook.benchmarks.calibration.gate import fit_gate, halves
from secondlook.benchmarks.calibration.policy import calibrate
from secondlook.benchmarks.report.gating import parts
from secondlook.benchmarks.run_log import LogError, Record
from secondlook.edge.errors import SettingsError
from secondlook.engine.cli import command_line, run
from secondlook.engine.errors import PolicyFileError
from secondlook.engine.method.gate import FEATURES
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import Target, read_policy, write_policy
from secondlook.engine.method.uncertainty import TokenStatistics

WEIGHTS = "c0ffee"  # those of the logs made up by `header`


def records(pictures: int = 400, seed: int = 0, truth: str = "42") -> list[Record]:
    """Of three kinds of first answers: sure and right; doubtful, and mended by a second look; and the most
    doubtful, of five tokens, that no second look mends."""
    rng, found = np.random.default_rng(seed), []
    for index in range(pictures):
        kind = index % 3
        doubt = rng.gamma(4.0, (0.01, 0.15, 0.3)[kind], 5 if kind == 2 else 2).tolist()
        right = float(rng.random() < (0.98, 0.1, 0.3)[kind])
        mended = max(right, float(kind == 1 and rng.random() < 0.9))
        first = replace(a_look(right, doubt, sent=100), tokens=tokens(doubt))
        second = a_look(mended, [0.0], sent=int(rng.integers(50, 70)))
        one = a_record(index, first, second)
        found.append(replace(one, truth=truth))
    return found


def tokens(doubts: list[float]) -> tuple[TokenStatistics, ...]:
    """As they would be of two likely answers."""
    return tuple(TokenStatistics(x, 1.4 * x, 1 - np.exp(-x), is_eos=False) for x in doubts)


@given(
    st.lists(st.lists(st.floats(0, 20), min_size=1, max_size=7), min_size=1, max_size=6),
    st.integers(1, 8),
)
def test_a_log_tells_a_gate_what_a_server_does(doubts: list[list[float]], decide_after: int) -> None:
    weights = {name: (-1) ** place * (0.1 + place / 9) for place, name in enumerate(FEATURES)}
    policy = Policy(0.0, decide_after=decide_after, gate=a_gate(0.3, **weights))
    asked = [a_record(place, a_look(1.0, each), a_look()) for place, each in enumerate(doubts)]
    served = [policy.need(one.first.tokens[:decide_after]) for one in asked]
    np.testing.assert_allclose(Replay(asked, policy).need, served, rtol=1e-9)


@pytest.mark.parametrize("aim", ["gain", "change"])
def test_a_gate_is_fitted_as_scikit_learn_would(aim: Any) -> None:
    policy = Policy(0.0, decide_after=3)
    made = records()
    gate = fit_gate(Columns.of(made), policy, aim)
    measures = ("min_entropy", "shannon_entropy", "margin")
    rows, reached = [], []
    for one in made:
        assert one.second is not None
        taken = np.array([[getattr(token, name) for name in measures] for token in one.first.tokens[:3]])
        doubts = np.log(np.concatenate([taken.mean(axis=0), taken.max(axis=0)]) + 0.001)
        rows.append([*doubts, len(taken)])
        surer = policy.uncertainty(one.second.tokens) <= policy.uncertainty(one.first.tokens)
        better, other = one.second.score > one.first.score, one.second.text != one.first.text
        reached.append(surer and (better if aim == "gain" else other))
    scaler = StandardScaler().fit(rows)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(rows), reached)
    expected = model.predict_proba(scaler.transform(rows))[:, 1]
    found = [gate.expects(one.first.tokens[:3]) for one in made]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (gate.aim, gate.pictures, gate.questions) == (aim, 400, 400)


def test_without_truth_it_is_fitted_on_whether_the_answer_changes() -> None:
    known, unknown = (Columns.of(records(truth=truth)) for truth in ("42", ""))
    assert fit_gate(unknown, Policy(0.0), "gain") == fit_gate(known, Policy(0.0), "change")


def test_questions_that_cannot_be_looked_at_twice_are_left_out() -> None:
    made = records()
    more = [replace(a_record(900 + n, a_look(0.0, [5.0])), truth="42") for n in range(200)]
    assert fit_gate(Columns.of(made + more), Policy(0.0), "gain") == fit_gate(
        Columns.of(made), Policy(0.0), "gain"
    )


def test_where_all_second_looks_come_to_the_same_there_is_no_gate() -> None:
    right = [a_record(index, a_look(1.0, [index / 9]), a_look(1.0, [0.0])) for index in range(9)]
    with pytest.raises(
        LogError, match=r"of 9 second looks .* none makes the answer better: there is nothing"
    ):
        fit_gate(Columns.of(right), Policy(0.0), "gain")
    mended = [a_record(index, a_look(0.0, [index / 9 + 1]), a_look(1.0, [0.0])) for index in range(9)]
    with pytest.raises(LogError, match=r"of 9 second looks .* every one changes the answer"):
        fit_gate(Columns.of(mended), Policy(0.0), "change")


def test_halves_have_no_picture_in_common() -> None:
    columns = Columns.of([replace(one, index=one.index // 2) for one in records(100)])
    one, other = halves(columns)
    assert len(one) + len(other) == 100
    assert len(set(one.picture)) == len(set(other.picture)) == 25
    assert not set(one.picture) & set(other.picture)
    with pytest.raises(LogError, match="two pictures at least"):
        halves(Columns.of([a_record(3), a_record(3)]))


def test_what_a_gate_is_fitted_on_is_not_what_its_threshold_is_chosen_on(tmp_path: Path) -> None:
    log = write_run(tmp_path / "log.jsonl", records())
    target = Target(kind="retransmission_rate", value=0.3)
    found = calibrate(log, target, Policy(0.0), gate="gain", resamples=100)
    fitted_on, rest = halves(read_run(log).columns)
    assert found.gate == fit_gate(fitted_on, Policy(0.0), "gain")
    assert (found.calibrated_on.pictures, found.calibrated_on.questions) == (200, 200)
    replay = Replay(rest, found.policy)
    assert (
        found.expected["retransmission_rate"].value == replay.at(found.threshold).retransmission_rate == 0.3
    )
    assert found.expected["accuracy"].value == pytest.approx(replay.at(found.threshold).accuracy)
    unrefined = ~replay.looked(found.threshold)
    wrong = (replay.first[unrefined] < 0.5).sum()
    assert (found.wrong_unrefined.unrefined, found.wrong_unrefined.wrong) == (unrefined.sum(), wrong)


def gated(folder: Path, seed: int = 1, aim: Any = "gain") -> Path:
    log = write_run(folder / f"log-{seed}.jsonl", records(600, seed))
    target = Target(kind="retransmission_rate", value=0.35)
    path = folder / f"{aim}-{seed}.json"
    write_policy(calibrate(log, target, Policy(0.0), gate=aim, resamples=100), path)
    return path


def test_a_gate_saves_what_doubt_spends_in_vain(tmp_path: Path) -> None:
    new = read_run(write_run(tmp_path / "new.jsonl", records(900, 9)))
    report = compare_gates(new, [gated(tmp_path)])
    assert report == json.loads(json.dumps(report))
    doubt, gate = (report["deciding"][name] for name in ("doubt", "gain"))
    assert gate["auroc"] > 0.9 > doubt["auroc"]
    saved = report["gates"]["gain"]["saved"]
    assert saved["value"] == pytest.approx(1 - gate["least"]["value"] / doubt["least"]["value"])
    assert 0.2 < saved["low"] <= saved["value"] <= saved["high"] < 1
    assert report["oracle"] <= gate["least"]["value"]
    assert report["gates"]["gain"]["worst"]["better"]["value"] >= -0.02
    served = report["gates"]["gain"]["served"]
    for name, expected in served["expected"].items():
        assert served["here"][name]["value"] == pytest.approx(expected["value"], rel=0.15)
    assert served["wrong_unrefined"]["value"] < served["bound"]


def test_least_bytes_are_those_of_every_threshold_in_turn(tmp_path: Path) -> None:
    made = records(90, 3)
    report = compare_gates(read_run(write_run(tmp_path / "new.jsonl", made)), [gated(tmp_path)])
    policy = read_policy(tmp_path / "gain-1.json").policy
    for name, one in (("gain", policy), ("doubt", replace(policy, gate=None, threshold=0.0))):
        needs = [one.need(each.first.tokens[:5]) for each in made]
        seconds = [each.second for each in made if each.second is not None]
        full = sum(second.score for second in seconds) / 90
        reached = []
        for threshold in [*needs, np.inf]:
            looked = [need >= threshold for need in needs]
            kept = [
                second.score if again and one.uncertainty(second.tokens) <= one.uncertainty(r.first.tokens)
                else r.first.score
                for r, second, again in zip(made, seconds, looked, strict=True)
            ]  # fmt: skip
            spent = sum(second.bytes for second, again in zip(seconds, looked, strict=True) if again)
            if sum(kept) / 90 >= full - 0.01 - 1e-12:
                reached.append(spent / sum(each.first.bytes for each in made))
        assert report["deciding"][name]["least"]["value"] == pytest.approx(min(reached))


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    path, new = gated(tmp_path), read_run(write_run(tmp_path / "new.jsonl", records(60, 9)))
    with pytest.raises(LogError, match=r"gain-1\.json was calibrated on .*log-1\.jsonl, where it flatters"):
        compare_gates(read_run(tmp_path / "log-1.jsonl"), [path])
    with pytest.raises(SettingsError, match="differ in their aim"):
        compare_gates(new, [path, gated(tmp_path, 2)])
    write_policy(a_policy_file(weights=WEIGHTS), tmp_path / "plain.json")
    with pytest.raises(SettingsError, match=r"plain\.json has no gate; write one with .* --gate"):
        compare_gates(new, [tmp_path / "plain.json"])
    other = header(model={**header().settings["model"], "weights": "beef"})
    with pytest.raises(PolicyFileError, match=r"weights c0ffee.*and not on demo \(weights beef\)"):
        compare_gates(read_run(write_run(tmp_path / "other.jsonl", records(60, 9), other)), [path])


def status(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run(command_line(), list(map(str, arguments)))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, new = (write_run(tmp_path / f"{n}.jsonl", records(300, n)) for n in (1, 2))
    paths = {aim: tmp_path / f"{aim}.json" for aim in ("gain", "change")}
    for aim, told in (
        ("gain", "they made the answer better"),
        ("change", "the surer answer was another one"),
    ):
        options = ("--gate", aim, "--retransmission-rate", 0.3, "--output", paths[aim], "--resamples", 100)
        assert status("calibrate", "threshold", log, *options) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"on whether {told}" in said
        assert "A gate decides, fitted on 150 second looks at 150 other pictures of the log" in said
    output, both = tmp_path / "gate.json", [word for path in paths.values() for word in ("--policy", path)]
    assert status("bench", "gate", new, *both, "--output", output) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == json.loads(output.read_text(encoding="utf-8"))
    assert set(json.loads(last)["gates"]) == {"gain", "change"}
    page = tmp_path / "out"
    assert status("report", new, "--output", page, "--resamples", 50, "--examples", 0, *both) == 0
    assert "A gate on gain" in (page / "index.html").read_text(encoding="utf-8")
    assert (page / "plots" / "gate.svg").stat().st_size
    assert status("bench", "gate", log, *both) == 1
    assert "where it flatters itself" in capsys.readouterr().err


def test_a_log_without_truth_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_run(tmp_path / "log.jsonl", records(300, truth=""))
    options = ("--gate", "gain", "--retransmission-rate", 0.3, "--output", tmp_path / "policy.json")
    assert status("calibrate", "threshold", log, *options) == 0
    assert "the surer answer was another one, not on the truth" in " ".join(capsys.readouterr().out.split())
    found = read_policy(tmp_path / "policy.json").gate
    assert found is not None
    assert found.aim == "change"


def test_whether_the_aims_are_reached_is_said(tmp_path: Path) -> None:
    new = read_run(write_run(tmp_path / "new.jsonl", records(300, 9)))
    report = compare_gates(new, [gated(tmp_path)])
    gate = report["gates"]["gain"]
    for saved, worst, said in (
        ((0.1, 0.01), -0.003, ("reached", "reached")),
        ((0.099, 0.01), -0.0031, ("missed", "missed")),
        ((0.5, 0.0), 0.0, ("missed", "reached")),
    ):
        gate["saved"] |= {"value": saved[0], "low": saved[1]}
        gate["worst"]["better"]["value"] = worst
        text, _, plot = parts(report)
        assert f"with an interval above 0, {said[0]}; never more than 0.3 points behind" in text
        assert text.endswith(f"at equal bytes, {said[1]}.")
        assert plot.name == "gate"
