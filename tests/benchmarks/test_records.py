"""Records and their log: round trips, interruptions, and files that are none."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.samples import a_look, a_record
from secondlook.benchmarks.records import LogError, Record, RunLog

HEADER = {"run": "signs", "split": "test", "seed": 1}
FULL = a_record(0, a_look(0.0, [1.5, 0.1]), a_look(1.0, [0.2]))
LOGGED = [[FULL], [a_record(1)], [a_record(2), replace(FULL, index=2), a_record(2, kind="describe")]]


def write(path: Path, pictures: list[list[Record]]) -> None:
    with closing(RunLog(path, HEADER)) as log:
        for records in pictures:
            log.append(records)


def read(path: Path) -> list[Record]:
    with closing(RunLog(path, HEADER)) as log:
        return log.records


@given(
    score=st.floats(0, 1),
    doubts=st.lists(st.floats(0, 50), min_size=1, max_size=4),
    answer=st.text(),
    twice=st.booleans(),
)
def test_a_record_survives_json(score: float, doubts: list[float], answer: str, twice: bool) -> None:
    look = replace(a_look(score, doubts), text=answer)
    record = a_record(3, look, a_look(0.5, doubts) if twice else None)
    text = record.to_json()
    assert Record.from_json(text) == record
    assert "\n" not in text


def test_a_log_is_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.jsonl"
    write(path, LOGGED)
    with closing(RunLog(path, HEADER)) as log:
        assert log.records == [record for records in LOGGED for record in records]
        assert log.done() == {0, 1, 2}


def test_a_log_is_a_header_and_a_line_a_picture(tmp_path: Path) -> None:
    write(tmp_path / "run.jsonl", LOGGED)
    header, *lines = (tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(header) == HEADER
    assert [len(json.loads(line)) for line in lines] == [1, 1, 3]


def test_records_are_on_disk_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with closing(RunLog(path, HEADER)) as log:
        log.append([FULL])
        assert read(path) == [FULL]


def test_an_interrupted_run_goes_on_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(path, LOGGED)
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    last = len(content) - len(lines[-1])
    for cut in range(last, len(content), 97):
        path.write_bytes(content[:cut])
        with closing(RunLog(path, HEADER)) as log:
            # The picture cut short is forgotten as a whole, so that all of its questions are asked again.
            assert log.done() == {0, 1}
            log.append(LOGGED[2])
        assert path.read_bytes() == content


def test_another_runs_log_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(path, LOGGED)
    content = path.read_bytes() + b"[{"
    path.write_bytes(content)
    with pytest.raises(LogError, match=r"run\.jsonl logs another run .*'seed': 1.*'seed': 2") as caught:
        RunLog(path, {**HEADER, "seed": 2})
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"no newline",
        b"\n",
        b"notes about a holiday\n",
        b"\xff\xfe\x00\n",
        json.dumps(HEADER).encode(),
        json.dumps(HEADER).encode() + b"\n[{]\n",
        json.dumps(HEADER).encode() + b"\n\n[]\n",
        json.dumps(HEADER).encode() + b"\n7\n",
        json.dumps(HEADER).encode() + b'\n["record"]\n',
        json.dumps(HEADER).encode() + b'\n[{"index": 1}]\n',
        json.dumps(HEADER).encode()
        + b"\n["
        + FULL.to_json().replace('"score"', '"scores"').encode()
        + b"]\n",
        json.dumps(HEADER).encode() + b"\n" + FULL.to_json().encode()[:-9] + b"\n[]\n",
    ],
)
def test_a_damaged_log_is_refused_with_one_line_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with pytest.raises(LogError, match=r"run\.jsonl is not a log of an evaluation run") as caught:
        RunLog(path, HEADER)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_place_where_no_log_can_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot keep a log in"):
        RunLog(tmp_path, HEADER)
