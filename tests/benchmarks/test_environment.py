"""The commit beside a figure says whether the figure is that commit's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from secondlook.benchmarks import environment


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a checkout with one commit, whose module of this name is the one asked."""
    module = tmp_path / "benchmarks" / "secondlook" / "benchmarks" / "environment.py"
    module.parent.mkdir(parents=True)
    module.touch()
    (tmp_path / ".gitignore").write_text("ignored.py\n", encoding="utf-8")
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    for command in (("init", "--quiet"), ("add", "."), (*author, "commit", "--quiet", "--message=first")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setattr(environment, "__file__", str(module))
    return tmp_path


def is_changed() -> bool:
    commit = environment.environment("cpu", "float32")["commit"]
    assert commit is not None
    assert len(commit.removesuffix("+")) == 12
    return str(commit).endswith("+")


@pytest.mark.parametrize("root", ["edge", "kernels", "engine", "export", "benchmarks"])
def test_a_module_that_git_does_not_know_is_a_change(checkout: Path, root: str) -> None:
    folder = checkout / root / "secondlook" / "part"
    folder.mkdir(parents=True)
    (folder / "ignored.py").touch()
    (folder / "notes.txt").touch()
    (checkout / "notes.py").touch()
    assert not is_changed()
    (folder / "module.py").touch()
    assert is_changed()


def test_a_changed_module_is_a_change(checkout: Path) -> None:
    assert not is_changed()
    (checkout / "benchmarks" / "secondlook" / "benchmarks" / "environment.py").write_text("1")
    assert is_changed()
