"""The operators' benchmark: a comparison in every row, one JSON object at the end, errors in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from typer.testing import CliRunner

from engine.packing import can_pack
from secondlook.benchmarks import cli, operators, timing
from secondlook.engine.cli import command_line, run
from secondlook.kernels import Status, multiplies_bytes

KEYS = {
    *("operator", "device", "dtype", "shape"),
    *("microseconds", "composition_microseconds", "floor_microseconds", "speedup"),
}
OPERATORS = {
    *("token_statistics", "record_tokens", "attention_row", "decode_attention", "find_region"),
    *("blocked_linear", "decoder_layers", "attention", "gated_silu", "quick_gelu", "rms_norm", "rotate"),
    *("norm_linears", "output_mlp", "encoder_layers"),
    *(["dynamic_linear"] if multiplies_bytes() else []),
    *(["PackedLinear"] if can_pack(torch.float32) else []),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_ROUNDS", 1)
    monkeypatch.setattr(timing, "_ROUND_SECONDS", 0.0)
    monkeypatch.setattr(operators, "_CAPACITY", 16)
    monkeypatch.setattr(cli, "configure_logging", lambda _verbose: None)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_arguments: object) -> NoReturn:
        pytest.fail("measured")

    monkeypatch.setattr(operators, "copy_bandwidth", measure)
    monkeypatch.setattr(operators, "side_by_side", measure)


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int | str | None, str, str]:
    """Status, output and errors of `secondlook bench kernels`, with progress left out."""
    with pytest.raises(SystemExit) as stopped:
        run(command_line(), ["bench", "kernels", *arguments])
    out, err = capsys.readouterr()
    return stopped.value.code, out, err


def test_the_last_line_is_one_json_object(tmp_path: Path) -> None:
    output = tmp_path / "new" / "kernels.json"
    done = CliRunner().invoke(
        command_line(), ["bench", "kernels", "--device", "cpu", "--output", str(output)]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.output.splitlines()[-1])
    assert report == json.loads(output.read_text(encoding="utf-8"))
    assert {row["operator"] for row in report["rows"]} == OPERATORS
    for row in report["rows"]:
        assert set(row) == KEYS
        assert row["speedup"] == pytest.approx(row["composition_microseconds"] / row["microseconds"])
        assert row["floor_microseconds"] > 0


@pytest.mark.usefixtures("unmeasured")
def test_a_file_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    for output, reason in ((tmp_path, "Is a directory"), (tmp_path / "file" / "k.json", "File exists")):
        status, out, err = ended(capsys, "--device", "cpu", "--output", str(output))
        assert (status, out) == (1, "")
        assert err == f"error: cannot write {output}: {reason}; make room, or choose another place\n"
    assert (tmp_path / "file").read_text(encoding="utf-8") == "kept"


@pytest.mark.usefixtures("unmeasured")
def test_cuda_without_a_gpu_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = "error: device 'cuda' is not available: torch sees no CUDA GPU; use cpu\n"
    assert ended(capsys, "--device", "cuda") == (1, "", line)


@pytest.mark.usefixtures("unmeasured")
def test_a_gpu_without_compiled_operators_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Status("cuda", "reference", None, "no nvcc was found")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "a GPU")
    monkeypatch.setattr(operators, "status", lambda _backend: found)
    status, out, err = ended(capsys, "--device", "cuda")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: there are no compiled operators for the GPU")
    assert "Traceback" not in err


@pytest.mark.usefixtures("unmeasured")
def test_a_mode_that_is_none_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECONDLOOK_KERNELS", "fast")
    status, out, err = ended(capsys, "--device", "cpu")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1] == "error: the kernels' mode must be one of auto, reference, not 'fast'"
    assert "Traceback" not in err


def test_an_interrupted_measurement_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_arguments: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(operators, "side_by_side", interrupt)
    status, out, err = ended(capsys, "--device", "cpu", "--output", str(tmp_path / "kernels.json"))
    assert status == 130
    assert out == ""
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_operations_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_ROUNDS", 2)
    called: list[str] = []
    seconds = timing.side_by_side(
        [lambda: called.append("a"), lambda: called.append("b")], torch.device("cpu")
    )
    assert called == ["a"] * 3 + ["b"] * 3 + ["a", "b"] * 2
    assert all(value > 0 for value in seconds)
