"""The stages of training, a step or two each, from nothing to a checkpoint and on from it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from secondlook.engine.models.checkpoint import load_model
from training import loop, pretrain, publish, train
from training.square import Square

LLAVA = Square()
CPU = torch.device("cpu")


def states(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.name: torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))}


def run_all_stages(out: Path, steps: int) -> None:
    pretrain.pretrain(LLAVA, out, steps, batch=4, seed=1, peak=1e-3, device=CPU, lessons=1)
    for stage in train.STAGES.values():
        train.train(LLAVA, out, stage, steps, batch=2, seed=1, device=CPU)


def run_publish(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["publish", *arguments])
    publish.main()


@pytest.fixture(scope="module", autouse=True)
def few_close_ups() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "CLOSE_UPS", 2)
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    run_all_stages(folder, 1)
    return folder


def test_every_stage_leaves_its_state(out: Path) -> None:
    written = states(out)
    assert list(written) == ["language.pt", "model.pt", "tower.pt"]
    assert {state["step"] for state in written.values()} == {1}
    assert list(out.glob("*.tmp")) == []


def test_the_language_stage_leaves_the_tower_as_it_was(out: Path) -> None:
    written = states(out)
    tower = {f"model.vision_tower.{name}": weights for name, weights in written["tower.pt"]["tower"].items()}
    language, joint = (written[name]["model"] for name in ("language.pt", "model.pt"))
    assert tower
    assert all(torch.equal(language[name], weights) for name, weights in tower.items())
    assert not all(torch.equal(joint[name], weights) for name, weights in tower.items())


def test_an_interrupted_run_goes_on_and_a_finished_one_rests(out: Path, tmp_path: Path) -> None:
    out = shutil.copytree(out, tmp_path / "copy")
    before = states(out)["tower.pt"]["head"]["linear.weight"]
    pretrain.pretrain(LLAVA, out, 1, batch=4, seed=1, peak=1e-3, device=CPU, lessons=1)
    assert torch.equal(before, states(out)["tower.pt"]["head"]["linear.weight"])
    run_all_stages(out, 2)
    assert {state["step"] for state in states(out).values()} == {2}


def test_a_checkpoint_is_published_and_trained_on(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = ("--head", str(tmp_path / "head.safetensors"))
    run_publish(
        monkeypatch, "--out", str(out), "--to", str(tmp_path / "checkpoint"), "--threshold", "0.25", *head
    )
    assert load_model(str(tmp_path / "checkpoint")).settings.threshold == 0.25
    again = tmp_path / "again"
    run_publish(monkeypatch, "--out", str(again), "--resume", str(tmp_path / "checkpoint"), *head)
    assert list(states(again)) == ["language.pt", "tower.pt"]
    train.train(LLAVA, again, train.STAGES["joint"], 1, batch=2, seed=1, device=CPU, history=True)
    assert states(again)["model.pt"]["step"] == 1


def test_a_stage_without_the_one_before_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--stage", "joint", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        train.main()
    assert "language.pt is missing: run the stage before" in capsys.readouterr().err
    (tmp_path / "language.pt").touch()
    monkeypatch.setattr(sys, "argv", ["train", "--stage", "language", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        train.main()
    assert "tower.pt is missing" in capsys.readouterr().err


def test_an_unknown_device_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain", "--out", str(tmp_path), "--device", "nope"])
    with pytest.raises(SystemExit):
        pretrain.main()
    assert "there is no device 'nope'" in capsys.readouterr().err


def test_the_learning_rate_warms_up_and_falls_to_a_fiftieth() -> None:
    rates = [loop.learning_rate(step, 100, 1.0, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert loop.learning_rate(100, 100, 1.0, 10) == pytest.approx(0.02)
