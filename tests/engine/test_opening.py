"""The engine that options describe, and what is shown while it is loaded."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from edge.support import square
from engine.calibrated import WEIGHTS, a_policy_file
from secondlook.engine.errors import PolicyFileError
from secondlook.engine.method.budget import BudgetSettings
from secondlook.engine.method.policy import Policy
from secondlook.engine.models.settings import Localisation, LookSettings
from secondlook.engine.opening import EngineOptions, load_engine, loading_status


def test_what_was_chosen_reaches_the_engine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import secondlook.engine.engine
    import secondlook.engine.models.checkpoint

    adapter = SimpleNamespace(
        name="demo",
        precision="float32",
        local_view=square(100),
        localisation=Localisation({2: None}, crop_size=100),
        settings=LookSettings(threshold=0.3),
        digest=lambda: WEIGHTS,
    )
    monkeypatch.setattr(secondlook.engine.models.checkpoint, "load_model", lambda *_, **__: adapter)
    monkeypatch.setattr(
        secondlook.engine.engine, "Engine", lambda _adapter, policy, *, cache, budget: (policy, budget)
    )
    calibrated, rate = a_policy_file(0.25, measure="margin"), BudgetSettings(0.4)
    policy, budget = load_engine(EngineOptions(calibrated=calibrated, budget=rate))
    assert policy == calibrated.policy
    assert (budget.settings, budget.threshold) == (rate, 0.25)
    for threshold, start in ((None, 0.3), (0.7, 0.7)):
        policy, budget = load_engine(EngineOptions(threshold=threshold, budget=rate))
        assert policy == (None if threshold is None else Policy(threshold))
        assert budget.threshold == start
    assert load_engine(EngineOptions()) == (None, None)
    assert not caplog.records
    adapter.settings = LookSettings()
    load_engine(EngineOptions("a/b"))
    (line,) = caplog.records
    assert "threshold of demo is not calibrated: 0.5 nats" in line.getMessage()
    assert "`secondlook eval DATASET --model a/b --log LOG`" in line.getMessage()
    with pytest.raises(PolicyFileError):
        load_engine(EngineOptions(calibrated=a_policy_file(weights="another")))


@pytest.mark.parametrize(
    ("model", "terminal", "bars"),
    [("demo", True, False), ("owner/model", True, True), ("owner/model", False, False)],
)
def test_bars_are_for_terminals_and_models_that_take_time(
    model: str, terminal: bool, bars: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import secondlook.engine.engine
    import secondlook.engine.models.checkpoint

    wanted: list[bool] = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(secondlook.engine.engine, "Engine", lambda adapter, _policy, **_more: adapter)

    def load(*_: Any, progress: bool, **__: Any) -> Any:
        wanted.append(progress)
        return SimpleNamespace(name=model, settings=LookSettings())

    monkeypatch.setattr(secondlook.engine.models.checkpoint, "load_model", load)
    load_engine(EngineOptions(model))
    assert wanted == [bars]


def test_what_is_written_while_bars_are_drawn_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with loading_status("owner/model") as stop:
        print("a bar", file=sys.stderr)  # noqa: T201  # as tqdm does
        assert terminal.getvalue() == "a bar\n"
        stop()
