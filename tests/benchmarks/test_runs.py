"""Which logs belong together, and which are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.logs import header, random_records, shard_of, write_run
from secondlook.benchmarks.analysis.runs import read_families
from secondlook.benchmarks.run_log import LogError


def test_logs_that_differ_in_qualities_alone_are_a_family(tmp_path: Path) -> None:
    records = random_records(6)
    paths = [
        write_run(tmp_path / f"{quality}.jsonl", records, header(quality=quality)) for quality in (90, 50)
    ]
    other = write_run(tmp_path / "other.jsonl", records, header(data={"name": "pope"}))
    families = read_families([paths[0], other, paths[1], paths[0]])
    assert [[run.qualities for run in family.runs] for family in families] == [
        [(90, 90), (50, 50)],
        [(90, 90)],
    ]
    assert [family.data["name"] for family in families] == ["signs", "pope"]
    assert families[0].main.path == paths[0]


def test_a_family_is_compared_on_the_pictures_that_all_have(tmp_path: Path) -> None:
    records = random_records(6)
    whole = write_run(tmp_path / "whole.jsonl", records)
    part = write_run(tmp_path / "part.jsonl", records[:8], header(quality=50))
    (family,) = read_families([whole, part])
    assert [run.columns.picture.tolist() for run in family.compared] == [[0, 0, 1, 1, 2, 2, 3, 3]] * 2
    assert family.left_out == 2
    assert len(family.main.columns) == 12  # for all but the comparison, every picture counts


def test_questions_of_one_kind_may_be_taken_alone(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.jsonl", random_records(4))
    (family,) = read_families([path], ["exists"])
    assert family.main.columns.kind == ["exists"] * 4
    with pytest.raises(LogError, match=r"run\.jsonl has no question of kind describe; it has exists, read"):
        read_families([path], ["describe"])


def test_a_log_joined_from_several_machines_says_what_each_does(tmp_path: Path) -> None:
    head = header()
    joined = replace(head, made={"shards": [head.made, {**head.made, "device": "another"}]})
    (family,) = read_families([write_run(tmp_path / "run.jsonl", random_records(3), joined)])
    assert family.main.made == head.made


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    records = random_records(4)
    one = write_run(tmp_path / "one.jsonl", records)
    with pytest.raises(LogError, match=r"copy\.jsonl and .*one\.jsonl are logs of the same run"):
        read_families([one, write_run(tmp_path / "copy.jsonl", records)])
    with pytest.raises(LogError, match=r"shard\.jsonl is shard 1/2 alone; join them all first: .*merge"):
        read_families([write_run(tmp_path / "shard.jsonl", records, shard_of(header()))])
    far = write_run(tmp_path / "far.jsonl", records[4:], header(quality=50))
    near = write_run(tmp_path / "near.jsonl", records[:4])
    with pytest.raises(LogError, match="have no picture in common"):
        read_families([near, far])


@pytest.mark.parametrize("lacking", ["data", "jpeg", "model"])
def test_a_header_that_lacks_settings_is_refused(tmp_path: Path, lacking: str) -> None:
    head = header()
    less = replace(head, settings={name: each for name, each in head.settings.items() if name != lacking})
    path = write_run(tmp_path / "run.jsonl", random_records(3), less)
    with pytest.raises(LogError, match=rf"run\.jsonl is not a log of an evaluation run \('{lacking}'\)"):
        read_families([path])


@pytest.mark.parametrize("made", [{"sizes": {"layers": 4}}, {"shards": []}])
def test_a_header_that_was_made_otherwise_is_refused(tmp_path: Path, made: dict[str, object]) -> None:
    path = write_run(tmp_path / "run.jsonl", random_records(3), replace(header(), made=made))
    with pytest.raises(LogError, match="is not a log of an evaluation run"):
        read_families([path])
