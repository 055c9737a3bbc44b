"""The continuation with history: what it changes, what it is held to, and how it is measured."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from secondlook.engine.embedded import DEMO, EMBEDDED
from training import context, publish
from training.closeups import IGNORED
from training.context import continue_with_history, departure
from training.lessons import Lessons, Packed, collate
from training.square import Square
from training.train import Read, losses, read

pytestmark = pytest.mark.usefixtures("one_thread")
LLAVA = Square()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return publish.published_state(EMBEDDED[DEMO], Path(publish.__file__).with_name(LLAVA.head_file))


@pytest.fixture(scope="module")
def model(state: dict[str, Any]) -> Any:
    model = LLAVA.build(LLAVA.tokenizer(), seed=0)
    model.load_state_dict(state["model"])
    model.set_attn_implementation("eager")
    return model


@pytest.fixture(scope="module")
def found(model: Any) -> tuple[Read, Packed]:
    """What the embedded model makes of two lessons' first looks."""
    lessons = Lessons(LLAVA, LLAVA.tokenizer(), seed=3, history=True)
    batch = collate(list(islice(lessons, 2)), model.config.image_token_id)
    with torch.inference_mode():
        visual = LLAVA.visual(model, LLAVA.features(LLAVA.tower(model), batch.pixels[:2]))
        return read(model, batch.first, visual), batch.first


def test_copies_are_from_the_line_of_history(found: tuple[Read, Packed]) -> None:
    tokenizer, packed = LLAVA.tokenizer(), found[1]
    assert len(packed.copies)
    for row, place, source in packed.copies.tolist():
        text = tokenizer.decode(packed.ids[row, :source])
        assert isinstance(text, str)
        assert text.rsplit("(", 1)[1].rstrip("0123456789").endswith("s ago: ")
        assert packed.history[row, place]
        assert packed.labels[row, place] != IGNORED


def test_a_model_has_not_departed_from_itself_and_is_held_without_history_alone(
    found: tuple[Read, Packed],
) -> None:
    now, packed = found
    assert float(departure(now, now, packed)) == pytest.approx(0, abs=1e-6)
    behind = packed.history[packed.labels != IGNORED]
    rows, places, _ = packed.probes.unbind(1)
    probed = packed.history[rows, places]
    assert behind.any()
    assert probed.any()
    for changed in (behind, ~behind):
        logits = torch.where(changed[:, None], now.logits.roll(1, 1), now.logits)
        apart = departure(Read(logits, now.looked, now.fetched, now.copied), now, packed)
        assert (float(apart) > 0.1) == (not torch.equal(changed, behind))
    for changed in (probed, ~probed):
        looked = torch.where(changed[:, None], now.looked.roll(1, 1), now.looked)
        apart = departure(Read(now.logits, looked, now.fetched, now.copied), now, packed)
        assert (float(apart) > 0.1) == (not torch.equal(changed, probed))


def test_attention_to_a_line_of_history_is_no_fault(found: tuple[Read, Packed]) -> None:
    now, packed = found
    rows, places, _ = packed.probes.unbind(1)
    shares = torch.where(packed.history[rows, places], 0.5, 1.0)[:, None]
    halved = Read(now.logits, now.looked * shares, now.fetched, now.copied)
    assert float(losses(halved, packed)[1]) == pytest.approx(float(losses(now, packed)[1]), abs=0.01)


def test_the_decoder_learns_and_an_interrupted_run_goes_on(state: dict[str, Any], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "language.pt")
    for steps in (1, 2):
        continue_with_history(LLAVA, tmp_path, steps, batch=2, seed=1, peak=1e-3, device=CPU)
        written = torch.load(tmp_path / "model.pt", weights_only=True)
        assert written["step"] == steps
    changed = {n for n, weights in state["model"].items() if not torch.equal(weights, written["model"][n])}
    assert changed
    assert all("language_model" in name or "lm_head" in name for name in changed)


def test_a_checkpoint_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["context", "--measure", DEMO, "--count", "6", "--device", "cpu"])
    context.main()
    told = json.loads(capsys.readouterr().out)
    assert told[">= 9 px"]["without"]["right"] > 0.7
    assert set(told["absent"]) == {"without", "correct"}
    assert told["exists"]["stale"]["asked"] == 6


def test_it_needs_weights_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["context", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        context.main()
    assert "language.pt is missing" in capsys.readouterr().err
