"""A run's log: round trips, interruptions, logs of other runs, and files that are none."""

from __future__ import annotations

import gzip
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.samples import a_look, a_record
from limits import files_of_at_most
from secondlook.benchmarks.run_log import (
    LINE,
    LogError,
    Record,
    RunHeader,
    RunLog,
    Shard,
    differences,
    read_log,
    write_log,
)
from secondlook.edge.errors import SettingsError, WriteError

SETTINGS: dict[str, Any] = {"data": {"name": "signs", "seed": 1}, "model": {"weights": "c0ffee"}}
HEADER = RunHeader(SETTINGS, {"device": "a processor"}, Shard(1, 1))
FULL = a_record(0, a_look(0.0, [1.5, 0.1]), a_look(1.0, [0.2]))
LOGGED = [[FULL], [a_record(1)], [a_record(2), replace(FULL, index=2), a_record(2, kind="describe")]]


def write(path: Path, pictures: list[list[Record]]) -> None:
    with closing(RunLog(path, HEADER)) as log:
        for records in pictures:
            log.append(records)


def read(path: Path) -> list[Record]:
    with closing(RunLog(path, HEADER)) as log:
        return log.records


def test_a_log_is_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.jsonl"
    write(path, LOGGED)
    with closing(RunLog(path, HEADER)) as log:
        assert log.records == [record for records in LOGGED for record in records]
        assert log.done() == {0, 1, 2}


def test_a_log_is_a_header_and_a_line_a_picture(tmp_path: Path) -> None:
    write(tmp_path / "run.jsonl", LOGGED)
    header, *lines = (tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(header) == {
        "format": 2,
        "shard": "1/1",
        "settings": SETTINGS,
        "made": {"device": "a processor"},
    }
    assert [len(json.loads(line)) for line in lines] == [1, 1, 3]


def test_records_are_on_disk_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with closing(RunLog(path, HEADER)) as log:
        log.append([FULL])
        assert read_log(path).records == [FULL]


def test_an_interrupted_run_goes_on_wherever_it_was_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.jsonl"
    write(path, LOGGED)
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    last = len(content) - len(lines[-1])
    for cut in range(last, len(content), 97):
        path.write_bytes(content[:cut])
        caplog.clear()
        with closing(RunLog(path, HEADER)) as log:
            cut_short = f"{path} was cut short in its last line; its picture is asked about again"
            assert [one.message for one in caplog.records] == [cut_short] * (cut > last)
            # The picture cut short is forgotten as a whole, so that all of its questions are asked again.
            assert log.done() == {0, 1}
            log.append(LOGGED[2])
        assert path.read_bytes() == content


def test_two_runs_never_write_the_same_log(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with closing(RunLog(path, HEADER)) as log:
        with pytest.raises(LogError, match=r"another process is writing .*run\.jsonl"):
            RunLog(path, HEADER)
        log.append([FULL])
    assert read(path) == [FULL]


def test_another_runs_log_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(path, LOGGED)
    content = path.read_bytes() + b"[{"
    path.write_bytes(content)
    other = {"data": {"name": "signs", "seed": 2}, "model": {"weights": "c0ffee"}, "dtype": "float16"}
    with pytest.raises(LogError) as caught:
        RunLog(path, replace(HEADER, settings=other))
    assert str(caught.value) == (
        f"{path} logs another run: data.seed is 1, not 2; dtype is absent, not 'float16'; choose another file"
    )
    with pytest.raises(LogError, match=r"logs another run: shard is 1/1, not 2/3;"):
        RunLog(path, replace(HEADER, shard=Shard(2, 3)))
    assert path.read_bytes() == content


def test_a_run_may_go_on_on_another_machine_and_says_where_it_began(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(path, LOGGED[:1])
    with closing(RunLog(path, replace(HEADER, made={"device": "another"}))) as log:
        assert log.header == HEADER
        log.append(LOGGED[1])
    assert read_log(path).header == HEADER


def test_reading_leaves_a_cut_line_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(path, LOGGED)
    whole = path.read_bytes()
    path.write_bytes(whole + b'[{"index"')
    found = read_log(path)
    assert (found.records, found.whole_bytes) == ([one for records in LOGGED for one in records], len(whole))
    assert path.read_bytes() == whole + b'[{"index"'


def test_a_log_written_at_once_is_the_one_written_bit_by_bit(tmp_path: Path) -> None:
    write(tmp_path / "bits.jsonl", LOGGED)
    write_log(tmp_path / "new" / "once.jsonl", HEADER, LOGGED)
    assert (tmp_path / "new" / "once.jsonl").read_bytes() == (tmp_path / "bits.jsonl").read_bytes()
    with pytest.raises(WriteError, match="cannot write"):
        write_log(tmp_path / "new", HEADER, LOGGED)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["once.jsonl"]


def test_an_old_log_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    write_log(log, HEADER, LOGGED)
    whole = log.read_bytes()
    with files_of_at_most(100), pytest.raises(WriteError, match=r"cannot write .*log\.jsonl: File too large"):
        write_log(log, HEADER, LOGGED[:1])
    assert log.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [log]


def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"cannot read the log .*none\.jsonl: No such file"):
        read_log(tmp_path / "none.jsonl")


def test_differences_are_named_with_both_values() -> None:
    here = {"a": 1, "b": {"c": [1, 2], "d": {}}, "e": None}
    there = {"a": 1, "b": {"c": [1, 3]}, "f": {"g": "h"}, "e": None}
    assert differences(here, here) == []
    assert differences(here, there) == [
        "b.c is [1, 2], not [1, 3]",
        "b.d is {}, not absent",
        "f.g is absent, not 'h'",
    ]


def test_shards_part_every_picture_once() -> None:
    shards = [Shard(number, 3) for number in (1, 2, 3)]
    assert [[index for index in range(8) if shard.has(index)] for shard in shards] == [
        [0, 3, 6],
        [1, 4, 7],
        [2, 5],
    ]
    assert [Shard.parse(str(shard)) for shard in shards] == shards


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "a/2", "1/2/3", "-1/2", "1.0/2", "½/2", "1 / 2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="a shard is written i/n"):
        Shard.parse(text)


@pytest.mark.parametrize("text", ["0/2", "3/2", "0/0"])
def test_a_shard_is_one_of_them(text: str) -> None:
    with pytest.raises(SettingsError, match=r"needs i from 1 to n|greater than 0"):
        Shard.parse(text)


FIRST = HEADER.to_json().encode()


@pytest.mark.parametrize(
    "content",
    [
        b"no newline",
        b"\n",
        b"notes about a holiday\n",
        b"\xff\xfe\x00\n",
        FIRST + b"\n[{]\n",
        FIRST.replace(b'"format":2', b'"format":3') + b"\n",
        FIRST.replace(b'"shard":"1/1"', b'"shard":1') + b"\n",
        FIRST.replace(b'"made"', b'"mad"') + b"\n",
        FIRST + b"\n\n[]\n",
        FIRST + b"\n7\n",
        FIRST + b'\n["record"]\n',
        FIRST + b'\n[{"index": 1}]\n',
        FIRST + b"\n[" + LINE.dump_json([FULL])[1:-1].replace(b'"score"', b'"scores"') + b"]\n",
        FIRST + b"\n" + LINE.dump_json([FULL])[1:-10] + b"\n[]\n",
    ],
)
def test_a_damaged_log_is_refused_with_one_line_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with pytest.raises(LogError, match=r"run\.jsonl is not a log of an evaluation run") as caught:
        RunLog(path, HEADER)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "broken",
    [
        LINE.dump_json([FULL])[:-40],
        b"",
        b"\0" * 512,
        LINE.dump_json([FULL]).replace(b'"text"', b'"texts"'),
        LINE.dump_json([FULL]).replace(b"red", b"\x00") + b"\xff",
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "run.jsonl"
    write(path, LOGGED)
    lines = path.read_bytes().split(b"\n")
    lines[2] = broken
    path.write_bytes(b"\n".join(lines))
    for opened in (read_log, read):
        with pytest.raises(
            LogError, match=r"run\.jsonl is not a log of an evaluation run \(line 3: "
        ) as caught:
            opened(path)
        assert "line 1" not in str(caught.value)
    assert path.read_bytes() == b"\n".join(lines)


def test_an_empty_log_is_begun_anew_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run.jsonl"
    write(path, LOGGED)
    assert caplog.messages == []
    path.write_bytes(b"")
    with pytest.raises(LogError, match=r"run\.jsonl is empty; begin it"):
        read_log(path)
    write(path, LOGGED)
    assert caplog.messages == [f"{path} was empty, and is begun anew"]
    assert read(path) == [one for records in LOGGED for one in records]


def test_a_place_where_no_log_can_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot keep a log in"):
        RunLog(tmp_path, HEADER)


def test_a_finished_log_may_be_compressed(tmp_path: Path) -> None:
    path, packed = tmp_path / "run.jsonl", tmp_path / "run.jsonl.gz"
    write(path, LOGGED)
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_log(packed) == read_log(path)
    with pytest.raises(LogError, match=r"a log is compressed when it is finished; leave \.gz out"):
        RunLog(packed, HEADER)
    whole = packed.read_bytes()
    for damaged in (whole[:-20], b"text", whole[:20] + b"\0\0\0\0" + whole[24:]):
        packed.write_bytes(damaged)
        with pytest.raises(LogError, match=r"cannot read the log .*run\.jsonl\.gz: ") as caught:
            read_log(packed)
        assert "None" not in str(caught.value)


def test_a_whole_log_is_compressed_if_its_name_says_so(tmp_path: Path) -> None:
    path, packed = tmp_path / "run.jsonl", tmp_path / "run.jsonl.gz"
    for one in (path, packed):
        write_log(one, HEADER, LOGGED)
    assert gzip.decompress(packed.read_bytes()) == path.read_bytes()
    assert read_log(packed) == read_log(path)


def test_a_full_disk_is_told_and_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    log = RunLog(path, HEADER)
    log.append(LOGGED[0])
    whole = path.read_bytes()
    with files_of_at_most(len(whole) + 20):
        with pytest.raises(LogError, match=r"run\.jsonl: File too large; make room"):
            log.append(LOGGED[1])
        log.close()  # says nothing of its own
    assert log.records == LOGGED[0]
    assert path.read_bytes() == whole
    with closing(RunLog(path, HEADER)) as again:
        again.append(LOGGED[1])
    assert read(path) == LOGGED[0] + LOGGED[1]


@pytest.mark.parametrize("end", [b"", b"\0" * 4096])
def test_a_log_cut_in_its_first_line_is_begun_anew_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, end: bytes
) -> None:
    path = tmp_path / "run.jsonl"
    for cut in range(1, len(FIRST) + 1, 13):
        caplog.clear()
        path.write_bytes(FIRST[:cut] + end)
        with pytest.raises(LogError, match="was cut short in its first line, with no record"):
            read_log(path)
        write(path, LOGGED)
        assert [one.message for one in caplog.records] == [
            f"{path} was cut short in its first line, and is begun anew"
        ]
        assert read(path) == [one for records in LOGGED for one in records]


def test_another_runs_log_cut_in_its_first_line_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    content = FIRST.replace(b'"seed":1', b'"seed":2')[:-9]
    assert content != FIRST[:-9]
    path.write_bytes(content)
    with pytest.raises(LogError, match="not a log of an evaluation run, or was cut short"):
        RunLog(path, HEADER)
    assert path.read_bytes() == content


@given(
    score=st.floats(0, 1),
    doubts=st.lists(st.floats(0, 50), min_size=1, max_size=4),
    answer=st.text(),
    twice=st.booleans(),
    boxes=st.lists(st.tuples(*[st.floats(0, 1e4)] * 4), max_size=3),
)
def test_a_record_survives_json(
    score: float,
    doubts: list[float],
    answer: str,
    twice: bool,
    boxes: list[tuple[float, float, float, float]],
) -> None:
    look = replace(a_look(score, doubts), text=answer, prompt_tokens=200)
    record = a_record(3, look, a_look(0.5, doubts) if twice else None)
    record = replace(record, id="random/7", boxes=tuple(boxes))
    text = LINE.dump_json([record])
    assert LINE.validate_json(text) == [record]
    assert b"\n" not in text


def test_what_may_be_unknown_may_be_absent() -> None:
    record = a_record(0, a_look(), a_look())
    values = json.loads(LINE.dump_json([record]))
    del values[0]["id"], values[0]["boxes"], values[0]["first"]["prompt_tokens"]
    assert LINE.validate_json(json.dumps(values)) == [record]


def test_probabilities_can_be_had_from_a_record() -> None:
    token = a_look(1.0, [0.25]).tokens[0]
    assert token.max_probability > token.second_probability >= 0
