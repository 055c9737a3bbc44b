"""A log's columns against the records it was written from, and which logs belong together."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.logs import header, random_records, shard_of, write_run
from benchmarks.samples import a_look, a_record
from secondlook.benchmarks.analysis.columns import Columns, LookColumns, read_columns
from secondlook.benchmarks.analysis.runs import read_family
from secondlook.benchmarks.run_log import LogError, Record
from secondlook.edge.wire import Aggregation, Measure
from secondlook.engine.method.policy import Policy

DOUBTS = st.lists(st.floats(0, 5, allow_subnormal=False), min_size=1, max_size=6)
LOOKS = st.builds(a_look, st.sampled_from([0.0, 0.3, 1.0]), DOUBTS)
RECORDS = st.lists(st.builds(a_record, first=LOOKS, second=st.none() | LOOKS), min_size=1, max_size=8)
POLICIES = st.builds(
    Policy,
    st.just(0.0),
    measure=st.sampled_from(get_args(Measure)),
    aggregation=st.sampled_from(get_args(Aggregation)),
    first_k=st.integers(1, 4),
    include_eos=st.booleans(),
)


def same(one: Columns, other: Columns) -> bool:
    """Whether all columns are equal, NaN where NaN is."""

    def equal(a: object, b: object) -> bool:
        if isinstance(a, LookColumns):
            return all(equal(getattr(a, each.name), getattr(b, each.name)) for each in fields(a))
        if isinstance(a, list):
            return [*map(repr, a)] == [*map(repr, b)] if isinstance(b, list) else False
        assert isinstance(a, np.ndarray)
        assert isinstance(b, np.ndarray)
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")

    return all(equal(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))


@given(records=RECORDS, policy=POLICIES)
def test_uncertainty_is_the_policys(records: list[Record], policy: Policy) -> None:
    columns = Columns.of(records)
    first = [policy.uncertainty(record.first.tokens) for record in records]
    second = [policy.uncertainty(record.second.tokens) if record.second else 0.0 for record in records]
    assert columns.first.uncertainty(policy) == pytest.approx(first, rel=1e-12, abs=1e-15)
    assert columns.second.uncertainty(policy) == pytest.approx(second, rel=1e-12, abs=1e-15)


@given(records=RECORDS, policy=POLICIES, upto=st.integers(1, 6))
def test_uncertainty_of_first_tokens_is_the_policys(records: list[Record], policy: Policy, upto: int) -> None:
    first = [policy.uncertainty(record.first.tokens[:upto]) for record in records]
    found = Columns.of(records).first.uncertainty(policy, upto)
    assert found == pytest.approx(first, rel=1e-12, abs=1e-15)


def test_an_answer_that_is_nothing_but_its_end_has_its_ends_doubt() -> None:
    columns = Columns.of([a_record(0, a_look(1.0, [0.7])), a_record(1, a_look(1.0, [0.2, 0.9]))])
    assert columns.first.uncertainty(Policy(0.0, include_eos=False)).tolist() == [0.7, 0.2]


def test_a_log_gives_the_columns_of_its_records(tmp_path: Path) -> None:
    records = random_records(12)
    head, columns, _ = read_columns(write_run(tmp_path / "run.jsonl", records))
    assert head == header()
    assert same(columns, Columns.of(records))
    assert same(columns.take(np.ones(len(records), np.bool_)), columns)


def test_columns_say_what_records_say() -> None:
    records = random_records(6)
    columns = Columns.of(records)
    assert len(columns) == 12
    assert columns.picture.tolist() == [record.index for record in records]
    assert columns.kind == [record.type for record in records]
    assert columns.possible.tolist() == [record.second is not None for record in records]
    assert columns.first.bytes.tolist() == [record.first.bytes for record in records]
    assert columns.second.score.tolist() == [
        record.second.score if record.second else 0 for record in records
    ]
    assert columns.region[0].tolist() == [100, 200, 436, 536]
    assert columns.second.flops.tolist() == [304e7] * 10 + [0.0] * 2
    hits = [np.nan if record.region_hit is None else record.region_hit for record in records]
    assert np.array_equal(columns.hit, hits, equal_nan=True)


@given(records=RECORDS, data=st.data())
def test_some_rows_are_the_columns_of_some_records(records: list[Record], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.booleans(), min_size=len(records), max_size=len(records)))
    kept = [record for record, taken in zip(records, chosen, strict=True) if taken]
    assert same(Columns.of(records).take(np.array(chosen, np.bool_)), Columns.of(kept))


def test_what_of_the_boxes_is_in_the_region() -> None:
    known = a_record(0, second=a_look())  # its region: 10, 20, 110, 120
    records = [
        replace(known, boxes=((10.0, 20.0, 30.0, 40.0),)),
        replace(known, boxes=((100.0, 20.0, 120.0, 40.0),)),
        replace(known, boxes=((0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 80.0))),
        known,
        replace(a_record(0), boxes=((0.0, 0.0, 10.0, 10.0),)),
    ]
    columns = Columns.of(records)
    assert columns.box_pixels.tolist()[:3] == [400, 400, 400]
    assert columns.box_covered.tolist()[:3] == [1.0, 0.5, 0.75]
    assert np.isnan(columns.box_pixels[3])
    assert np.isnan(columns.box_covered[3:]).all()
    assert columns.box_pixels[4] == 100


def test_a_log_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = write_run(tmp_path / "old.jsonl", random_records(3))
    first, *lines = path.read_text(encoding="utf-8").splitlines()
    for line, text in enumerate(lines):
        records = json.loads(text)
        for values in records:
            del values["boxes"], values["file"], values["relevance"], values["first"]["flops"]
        lines[line] = json.dumps(records)
    path.write_text("\n".join([first, *lines, ""]), encoding="utf-8")
    _, columns, _ = read_columns(path)
    assert np.isnan(columns.first.flops).all()
    assert np.isnan(columns.box_pixels).all()


@pytest.mark.parametrize("old", ['"score"', '"min_entropy"', '"region"', '"tokens":['])
def test_a_damaged_log_is_refused(tmp_path: Path, old: str) -> None:
    path = write_run(tmp_path / "run.jsonl", random_records(3))
    path.write_text(
        path.read_text(encoding="utf-8").replace(old, old.replace('"', '"x', 1)), encoding="utf-8"
    )
    with pytest.raises(LogError, match=r"run\.jsonl is not a log of an evaluation run") as caught:
        read_columns(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", ['"score":"much"', '"score":null', '"score":[1]'])
def test_a_field_of_another_kind_is_refused(tmp_path: Path, bad: str) -> None:
    path = write_run(tmp_path / "run.jsonl", random_records(3))
    path.write_text(path.read_text(encoding="utf-8").replace('"score":1.0', bad), encoding="utf-8")
    with pytest.raises(LogError, match="is not a log of an evaluation run"):
        read_columns(path)


def test_a_log_without_records_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(header().to_json() + "\n", encoding="utf-8")
    with pytest.raises(LogError, match="has no record yet"):
        read_columns(path)


@pytest.mark.parametrize("damage", [{"first": 5}, {"region": [1, 2, 3]}, {"boxes": [[1, 1, 1, 1]]}])
def test_fields_of_another_shape_are_refused(tmp_path: Path, damage: dict[str, object]) -> None:
    path = write_run(tmp_path / "run.jsonl", random_records(3))
    first, line, *rest = path.read_text(encoding="utf-8").splitlines()
    damaged = json.dumps([{**values, **damage} for values in json.loads(line)])
    path.write_text("\n".join([first, damaged, *rest, ""]), encoding="utf-8")
    with pytest.raises(LogError, match=r"run\.jsonl is not a log of an evaluation run"):
        read_columns(path)


def test_logs_that_differ_in_qualities_alone_are_a_family(tmp_path: Path) -> None:
    records = random_records(6)
    paths = [
        write_run(tmp_path / f"{quality}.jsonl", records, header(quality=quality)) for quality in (90, 50)
    ]
    family = read_family([*paths, paths[0]])
    assert [run.qualities for run in family.runs] == [(90, 90), (50, 50)]
    assert family.main.path == paths[0]
    other = write_run(tmp_path / "other.jsonl", records, header(data={"name": "pope"}))
    with pytest.raises(LogError, match=r"differ in more than JPEG qualities \(.*data.name is 'pope'"):
        read_family([paths[0], other])


def test_a_family_is_compared_on_the_pictures_that_all_have(tmp_path: Path) -> None:
    records = random_records(6)
    whole = write_run(tmp_path / "whole.jsonl", records)
    part = write_run(tmp_path / "part.jsonl", records[:8], header(quality=50))
    family = read_family([whole, part])
    assert [run.columns.picture.tolist() for run in family.compared] == [[0, 0, 1, 1, 2, 2, 3, 3]] * 2
    assert family.left_out == 2
    assert len(family.main.columns) == 12  # for all but the comparison, every picture counts


def test_a_log_joined_from_several_machines_says_what_each_does(tmp_path: Path) -> None:
    head = header()
    joined = replace(head, made={"shards": [head.made, {**head.made, "device": "another"}]})
    family = read_family([write_run(tmp_path / "run.jsonl", random_records(3), joined)])
    assert family.main.made == head.made


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    records = random_records(4)
    one = write_run(tmp_path / "one.jsonl", records)
    with pytest.raises(LogError, match=r"copy\.jsonl and .*one\.jsonl are logs of the same run"):
        read_family([one, write_run(tmp_path / "copy.jsonl", records)])
    with pytest.raises(LogError, match=r"shard\.jsonl is shard 1/2 alone; join them all first: .*merge"):
        read_family([write_run(tmp_path / "shard.jsonl", records, shard_of(header()))])
    far = write_run(tmp_path / "far.jsonl", records[4:], header(quality=50))
    near = write_run(tmp_path / "near.jsonl", records[:4])
    with pytest.raises(LogError, match="have no picture in common"):
        read_family([near, far])


@pytest.mark.parametrize("lacking", ["data", "jpeg", "model"])
def test_a_header_that_lacks_settings_is_refused(tmp_path: Path, lacking: str) -> None:
    head = header()
    less = replace(head, settings={name: each for name, each in head.settings.items() if name != lacking})
    path = write_run(tmp_path / "run.jsonl", random_records(3), less)
    with pytest.raises(LogError, match=rf"run\.jsonl is not a log of an evaluation run \('{lacking}'\)"):
        read_family([path])


def test_a_header_that_was_made_otherwise_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.jsonl", random_records(3), replace(header(), made={"shards": []}))
    with pytest.raises(LogError, match="is not a log of an evaluation run"):
        read_family([path])
