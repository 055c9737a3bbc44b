"""`make gpu-check`: every step runs, also after one that failed or hangs, and leaves its output."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

import gpu_check


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a check on a machine that has a GPU, as far as the check can see."""
    folder = tmp_path / "new" / "out"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "environment", lambda *_arguments: {"device": "a GPU"})
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(folder)])
    return folder


def use(monkeypatch: pytest.MonkeyPatch, **steps: gpu_check._Step) -> None:
    monkeypatch.setattr(gpu_check, "_steps", lambda _out: steps)


def python(code: str, **environment: str) -> gpu_check._Step:
    return gpu_check._Step((sys.executable, "-c", code), environment)


def status_of_main() -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    return ended.value.code


def outcome(out: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((out / "gpu-check.json").read_text(encoding="utf-8"))
    return loaded


def statuses(out: Path) -> dict[str, int]:
    return {name: step["status"] for name, step in outcome(out)["steps"].items()}


def test_every_step_runs_and_failures_are_counted(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(
        monkeypatch,
        broken=python("print('why'); raise SystemExit(9)"),
        missing=gpu_check._Step(("no-such-sanitizer",)),
        fine=python("import os; print(os.environ['SECONDLOOK_REQUIRE_CUDA'], os.environ['MORE'])", MORE="2"),
    )
    assert status_of_main() == 2
    told = [line.partition(" after ")[0] for line in capsys.readouterr().out.splitlines()]
    assert told[1::2] == ["broken: FAILED (9)", "missing: FAILED (127)", "fine: passed"]
    assert told[0] == f"broken: output in {out / 'broken.log'}"
    logs = {path.stem: path.read_text(encoding="utf-8") for path in out.glob("*.log")}
    assert logs == {
        "broken": "why\n",
        "missing": "cannot run no-such-sanitizer: No such file or directory\n",
        "fine": "1 2\n",
    }
    assert outcome(out)["environment"] == {"device": "a GPU"}
    assert statuses(out) == {"broken": 9, "missing": 127, "fine": 0}


def is_running(process: int) -> bool:
    """Whether it is there, and not as one that ended and that nobody has waited for."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/status")
        return not state.exists() or "\nState:\tZ" not in state.read_text(encoding="utf-8")
    except OSError:
        return False


def test_a_step_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    code = "import subprocess; child = subprocess.Popen(['sleep', '3600']); "
    log = tmp_path / "hangs.log"
    found = gpu_check._run(python(code + "print(child.pid, flush=True); child.wait()"), log, 2.0)
    assert found.status == 124
    child, _, end = log.read_text(encoding="utf-8").partition("\n")
    assert end == "\nended after 2 seconds\n"
    deadline = time.monotonic() + 10  # the signal was sent; when it arrives is the system's choice
    while is_running(int(child)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(child))


def test_a_step_leaves_half_of_the_time_to_the_others(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def slow(_step: gpu_check._Step, _log: Path, limit: float) -> gpu_check._Outcome:
        limits.append(limit)
        return gpu_check._Outcome(0, 0.0)

    monkeypatch.setattr(gpu_check, "_run", slow)
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: sum(limits))
    use(monkeypatch, first=python(""), second=python(""), last=python(""))
    assert status_of_main() == 0
    assert limits == [240, 120, 120]


def test_what_is_done_is_kept_when_it_is_interrupted(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(step: gpu_check._Step, _log: Path, _limit: float) -> gpu_check._Outcome:
        if step.command[-1] == "interrupted":
            raise KeyboardInterrupt
        return gpu_check._Outcome(3, 0.5)

    out.mkdir(parents=True)
    (out / "kernels.json").write_text("of an earlier check", encoding="utf-8")
    monkeypatch.setattr(gpu_check, "_run", run)
    use(monkeypatch, first=python("done"), second=python("interrupted"))
    assert status_of_main() == 130
    assert statuses(out) == {"first": 3}
    assert not (out / "kernels.json").exists()


def test_without_a_gpu_it_says_so(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status = status_of_main()
    assert isinstance(status, str)  # python writes it to stderr and exits with 1
    assert "sees no CUDA GPU" in status
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_refused(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_arguments: object) -> NoReturn:
        pytest.fail("a step was run")

    monkeypatch.setattr(gpu_check, "_run", run)
    out.parent.mkdir()
    out.write_text("a file", encoding="utf-8")
    told = f"error: cannot write {out / 'gpu-check.json'}: File exists; make room, or choose another place"
    assert status_of_main() == told


def test_tests_sanitizers_and_times_are_among_the_steps(tmp_path: Path) -> None:
    steps = gpu_check._steps(tmp_path)
    measured = ["kernels", "latency", "prefill", "load"]
    assert list(steps) == ["library", "tests", *measured, "memcheck", "racecheck"]
    assert "needs_cuda or needs_tensorrt" in steps["tests"].command
    for name in measured:
        assert str(tmp_path / f"{name}.json") in steps[name].command
    for name in ("memcheck", "racecheck"):
        assert "--error-exitcode" in steps[name].command
        assert "PYTORCH_NO_CUDA_MEMORY_CACHING" in steps[name].environment
