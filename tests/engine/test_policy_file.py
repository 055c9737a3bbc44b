"""A calibrated policy's file: what is read, what is refused, and which model it is for."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from engine.calibrated import a_policy_file
from secondlook.edge.errors import WriteError
from secondlook.engine.errors import PolicyFileError
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import read_policy, write_policy


def changed(path: Path, *keys: str, value: Any) -> Path:
    """A policy's file with one value in place of another."""
    values = json.loads(a_policy_file().model_dump_json())
    inside = values
    for key in keys[:-1]:
        inside = inside[key]
    inside[keys[-1]] = value
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "policy.json"
    found = a_policy_file(threshold=0.25, measure="margin", aggregation="first_k", first_k=3)
    write_policy(found, path)
    assert read_policy(path) == found
    assert read_policy(path).policy == Policy(0.25, "margin", "first_k", 3)
    write_policy(a_policy_file(), path)
    assert read_policy(path) == a_policy_file()


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [
        (("thresholds",), 0.4, "unknown key thresholds; known are format, threshold, measure,"),
        (("format",), 2, "format should be 1, not 2"),
        (("threshold",), "0.4", "threshold should be a valid number, not '0.4'"),
        (("threshold",), -0.5, "threshold should be greater than or equal to 0, not -0.5"),
        (("measure",), "doubt", "measure should be 'min_entropy', 'shannon_entropy' or 'margin', not"),
        (("first_k",), 0, "first_k should be greater than 0, not 0"),
        (("include_eos",), 1, "include_eos should be a valid boolean, not 1"),
        (("target", "kind"), "speed", "target.kind should be 'retransmission_rate', 'bytes' or"),
        (("wrong_unrefined", "bound"), 1.5, "wrong_unrefined.bound should be less than or equal to 1"),
        (("calibrated_on", "who"), "me", "unknown key calibrated_on.who"),
    ],
)
def test_other_values_are_named_and_refused(
    keys: tuple[str, ...], value: Any, told: str, tmp_path: Path
) -> None:
    path = changed(tmp_path / "policy.json", *keys, value=value)
    with pytest.raises(PolicyFileError) as error:
        read_policy(path)
    assert told in str(error.value)
    assert str(path) in str(error.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    values = json.loads(a_policy_file().model_dump_json())
    del values["arbitration"], values["target"]["value"]
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(PolicyFileError, match=r"arbitration is missing; target\.value is missing"):
        read_policy(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"threshold": NaN}'])
def test_other_files_are_no_policy(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_bytes(content)
    with pytest.raises(PolicyFileError, match=r"policy\.json"):
        read_policy(path)


def test_files_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match="No such file"):
        read_policy(tmp_path / "none.json")
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="File exists; make room, or choose another place"):
        write_policy(a_policy_file(), tmp_path / "file" / "policy.json")


def test_other_weights_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    found = a_policy_file()
    found.check_model("whatever it is called", found.calibrated_on.weights, "float32", {})
    with pytest.raises(
        PolicyFileError, match=r"demo \(weights 0123456789abcdef\), and not on b \(weights fe\)"
    ):
        found.check_model("b", "fe", "float32", {})
    assert not caplog.records


def test_another_dtype_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        a_policy_file().check_model("demo", "another digest", "bfloat16", {})
    (record,) = caplog.records
    assert "calibrated on demo (weights 0123456789abcdef) in float32" in record.getMessage()


@pytest.mark.parametrize(
    ("now", "before"),
    [
        ("float32 with int8 weights", "float32"),
        ("float32", "float32 with int8 weights"),
        ("float32 with int4 weights", "float32 with int8 weights"),
        ("bfloat16 with AWQ int4 weights", "bfloat16"),
    ],
)
def test_weights_of_other_bits_are_refused(now: str, before: str) -> None:
    found = a_policy_file()
    on = found.calibrated_on.model_copy(update={"dtype": before})
    with pytest.raises(PolicyFileError, match=f"calibrated on demo in {before}, and not on it in {now}"):
        found.model_copy(update={"calibrated_on": on}).check_model("it", on.weights, now, {})


def test_few_bits_in_another_dtype_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    found = a_policy_file()
    on = found.calibrated_on.model_copy(update={"dtype": "float32 with AWQ int4 weights"})
    with caplog.at_level(logging.WARNING):
        found.model_copy(update={"calibrated_on": on}).check_model(
            "demo", "another digest", "bfloat16 with AWQ int4 weights", {}
        )
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (
            {"layers": {"2": None}, "rule": "squares"},
            {"layers": {"2": None}, "rule": "box"},
            "by other rule;",
        ),
        ({"layers": {"2": None}}, {"layers": {"2": {"1": 1.0}}, "rule": "box"}, "by other layers;"),
        ({"layers": {"2": None}}, {"layers": {"2": None}, "rule": "box"}, None),  # as logs were before
        (None, {"rule": "box"}, None),
    ],
)
def test_another_profile_is_told_in_one_line(
    before: dict[str, Any] | None, now: dict[str, Any], told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    found = a_policy_file(localisation=before)
    with caplog.at_level(logging.WARNING):
        found.check_model("demo", found.calibrated_on.weights, "float32", now)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (told is not None)
    assert all(str(told) in line and "\n" not in line for line in lines)
