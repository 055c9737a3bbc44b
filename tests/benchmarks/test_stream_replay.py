"""Streams replayed on a virtual clock: networks, what arrives when, recordings, and what rows say."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.benchmarks.run_log import LogError
from secondlook.benchmarks.streams.bench import replay_all
from secondlook.benchmarks.streams.metrics import outcome
from secondlook.benchmarks.streams.network import LOST, Network
from secondlook.benchmarks.streams.recording import (
    CloserKey,
    CloserLook,
    CloudAnswer,
    ContextKey,
    ContextLook,
    Key,
    Looks,
    OwnLook,
    Recording,
    read_recording,
)
from secondlook.benchmarks.streams.replay import Replayed, Run, Way
from secondlook.benchmarks.streams.scenes import FPS, sample_stream
from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Region
from secondlook.edge.wire import Fixed, View
from secondlook.engine.stream.keyframes import KeyFrames
from secondlook.engine.stream.rules import Newest
from secondlook.engine.stream.state import Method

VIEW = View(size=Fixed(width=168, height=168))
TIMES = [n / FPS for n in range(100)]
BUSY = Method(rule=Newest(), key_frames=KeyFrames("busy"))
NEVER = [LOST] * 100


def looks(own_doubts: Sequence[float], cloud_doubts: Sequence[float] | None = None) -> Looks:
    """Of each frame the small model says "own N", the large one "cloud N"."""
    cloud_doubts = [0.0] * len(own_doubts) if cloud_doubts is None else cloud_doubts
    cells = tuple(bytes(12) for _ in range(12))
    return Looks(
        [OwnLook(f"own {n}", doubt, cells, 1000 + n) for n, doubt in enumerate(own_doubts)],
        [
            CloudAnswer(f"cloud {n}", doubt, Region(100 + n, 200, 500 + n, 600), (1000 + n, 500))
            for n, doubt in enumerate(cloud_doubts)
        ],
    )


def replayed(of: Looks) -> Replayed:
    drawn = sample_stream("test", 5, 1, len(of.own) / FPS)
    return Replayed(drawn, of, VIEW, shared=True, features=(7000, 3000))


def run(of: Looks, way: Way, delays: Sequence[float], ask: Callable[[list[Key]], None] | None = None) -> Run:
    def refuse(keys: list[Key]) -> None:
        raise AssertionError(f"not recorded: {keys}")

    return replay_all(replayed(of), [(way, delays)], 10.0, ask or refuse)[0]


@pytest.mark.parametrize("kind", ["constant", "lognormal", "trace"])
def test_delays_are_a_function_of_network_and_stream(kind: str) -> None:
    network = Network(kind, 1.0, 0.3, seed=4)  # type: ignore[arg-type]
    delays = network.delays(2, TIMES)
    assert network.delays(2, TIMES) == delays
    assert network.delays(3, TIMES) != delays
    assert replace(network, seed=5).delays(2, TIMES) != delays
    doubled = replace(network, delay=2.0).delays(2, TIMES)
    assert doubled == pytest.approx([2 * delay for delay in delays])


def test_delays_are_as_long_as_said_and_messages_are_lost_as_often() -> None:
    many = [n / FPS for n in range(20_000)]
    assert set(Network("constant", 0.5).delays(0, many)) == {0.5}
    drawn = np.array(Network("lognormal", 2.0).delays(0, many))
    assert np.median(drawn) == pytest.approx(2.0, rel=0.05)
    assert np.std(np.log(drawn)) == pytest.approx(0.5, rel=0.05)
    trace = np.array(Network("trace", 2.0, 0.3).delays(0, many))
    assert np.mean(np.isinf(trace)) == pytest.approx(0.3, abs=0.02)
    came = np.log(trace[np.isfinite(trace)])
    assert np.median(np.exp(came)) == pytest.approx(2.0, rel=0.25)
    steps = np.abs(np.diff(np.log(np.array(Network("trace", 2.0).delays(0, many)))))
    assert np.median(steps) < np.std(came) / 2  # it wanders, and does not jump


@pytest.mark.parametrize("kind", ["lognormal", "trace"])
def test_answers_overtake_each_other(kind: str) -> None:
    delays = Network(kind, 1.0, seed=1).delays(0, TIMES)  # type: ignore[arg-type]
    arrivals = np.add(TIMES, delays)
    assert (np.diff(arrivals) < 0).any()


@pytest.mark.parametrize("wrong", [{"kind": "slow"}, {"delay": -1.0}, {"loss": 1.0}, {"seed": -1}])
def test_a_network_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Network(**wrong)  # type: ignore[arg-type]


def test_the_small_model_alone_says_what_it_sees() -> None:
    found = run(looks([1.0] * 100), Way("small", replace(BUSY, in_flight=0, memory=False)), NEVER)
    assert found.texts == [f"own {n}" for n in range(100)]
    assert set(found.ages) == {0.0}
    assert not any([*found.missed, *found.asked, *found.to_cloud])
    assert found.from_camera == [1000 + n for n in range(100)]


def test_the_large_model_alone_is_held_until_its_next_answer() -> None:
    way = Way("large", replace(BUSY, own=False, rule=Newest(cloud=None)), kind="cloud")
    found = run(looks([1.0] * 100), way, [1.0] * 100)
    assert [n for n, asked in enumerate(found.asked) if asked] == list(range(0, 100, 5))
    assert found.texts[:5] == [""] * 5
    assert found.texts[5:] == [f"cloud {n // 5 * 5 - 5}" for n in range(5, 100)]
    assert found.ages[:7] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
    assert all(found.missed)
    assert found.from_camera == found.to_cloud
    assert found.to_cloud[:6] == [1500, 0, 0, 0, 0, 1505]


def test_a_split_large_model_says_the_same_and_sends_features() -> None:
    method = replace(BUSY, own=False, rule=Newest(cloud=None))
    whole, split = (
        run(looks([1.0] * 100), Way("", method, kind=kind), [0.5] * 100) for kind in ("cloud", "partition")
    )
    assert split.texts == whole.texts
    assert {size for size in split.to_cloud if size} == {10_000}


def test_a_frame_that_is_answered_by_its_deadline_is_no_miss() -> None:
    way = Way("large", replace(BUSY, own=False, rule=Newest(cloud=None)), kind="cloud")
    assert not any(run(looks([1.0] * 100), way, [0.2] * 100).missed)


def test_unsure_answers_give_way_to_the_newest_that_counts() -> None:
    doubts = [0.0 if n % 10 == 0 else 1.0 for n in range(100)]
    clouds = [5.0 if n % 2 else 0.0 for n in range(100)]
    found = run(looks(doubts, clouds), Way("", BUSY), [0.4] * 100)
    sent = [n for n, asked in enumerate(found.asked) if asked]
    assert sent == list(range(0, 100, 2))
    for n, text in enumerate(found.texts):
        came = [k for k in sent if k + 2 <= n and k % 2 == 0]
        newest = max(came, default=-1)
        own = max(k for k in range(n + 1) if k % 10 == 0)
        expected = f"own {n}" if n == own else f"own {own}" if own > newest else f"cloud {newest}"
        assert text == expected


@given(st.lists(st.one_of(st.floats(0.0, 12.0), st.just(LOST)), min_size=30, max_size=30))
def test_what_is_said_depends_on_what_has_come_and_not_on_the_order(delays: list[float]) -> None:
    method = replace(BUSY, in_flight=1000, memory=False, history_seconds=3.0)
    found = run(looks([1.0] * 30), Way("", method), delays)
    assert all(found.asked)
    for n, text in enumerate(found.texts):
        came = [k for k in range(n) if TIMES[k] + min(delays[k], 1e9) <= TIMES[n] + 1e-9 and delays[k] < 10.0]
        newest = max((k for k in came if TIMES[n] - TIMES[k] <= 3.0), default=None)
        assert text == (f"own {n}" if newest is None else f"cloud {newest}")
        assert found.ages[n] == pytest.approx(0.0 if newest is None else TIMES[n] - TIMES[newest])


def test_what_is_lost_makes_room_when_it_is_too_late() -> None:
    found = run(looks([1.0] * 100), Way("", BUSY), NEVER)
    assert [n for n, asked in enumerate(found.asked) if asked] == [0, 50]  # after ten seconds


def test_offloading_waits_for_no_longer_than_the_deadline() -> None:
    doubts = [0.0 if n % 2 else 1.0 for n in range(100)]
    way = Way("", BUSY, kind="offload")
    near = run(looks(doubts), way, [0.1] * 100)
    assert near.texts == [f"own {n}" if n % 2 else f"cloud {n}" for n in range(100)]
    assert sum(near.asked) == 50
    far = run(looks(doubts), way, [1.0] * 100)
    assert far.texts == [f"own {n}" for n in range(100)]
    assert sum(far.asked) == 2  # it is tried again once a history has gone by


def test_what_is_not_recorded_is_asked_once_by_frame() -> None:
    of, asked = looks([1.0] * 100), list[list[Key]]()

    def ask(keys: list[Key]) -> None:
        asked.append(keys)
        for key in keys:
            assert not of.has(key)
            of.keep(
                key, CloserLook("closer", 0.0, 77) if isinstance(key, CloserKey) else ContextLook("told", 0.1)
            )

    context = replace(BUSY, context="{question} ({age:.1f} s ago: {answer})")
    jobs = [
        (Way("", context), [0.4] * 100),
        (Way("", context), [0.6] * 100),
        (Way("", replace(BUSY, focus="crop"), windows=True), [0.4] * 100),
    ]
    first = replay_all(replayed(of), jobs, 10.0, ask)
    assert "closer" in first[2].texts
    assert "told" in first[0].texts
    keys = [key for some in asked for key in some]
    assert len(set(keys)) == len(keys)
    assert all(len({key.frame for key in some}) == 1 for some in asked)
    assert [some[0].frame for some in asked] == sorted(some[0].frame for some in asked)
    lines = [key.question for key in keys if isinstance(key, ContextKey)]
    assert any(line.endswith("(0.4 s ago: cloud 0)") for line in lines)
    asked.clear()
    assert replay_all(replayed(of), jobs, 10.0, ask) == first
    assert not asked


def test_a_focus_follows_known_motion() -> None:
    """The place that the camera cuts out shows the same part of the scene as the cloud's region did."""
    of = looks([1.0] * 100, [0.0] + [9.0] * 99)
    drawn, regions = sample_stream("test", 5, 1), dict[int, Region]()

    def ask(keys: list[Key]) -> None:
        for key in keys:
            assert isinstance(key, CloserKey)
            regions[key.frame] = Region(*key.region)
            of.keep(key, CloserLook("", 2.0, 77))

    run(of, Way("", replace(BUSY, focus="crop"), windows=True), [0.2] * 100, ask)
    assert len(regions) > 5

    def centre(region: Region, window: Region) -> tuple[float, float]:
        x, y = region.centre
        return window.left + x * window.width / 2400, window.top + y * window.height / 1800

    expected = centre(of.cloud[0].region, drawn.moments[0].window)
    for number, region in regions.items():
        window = drawn.moments[number].window
        free = region.left > 0 and region.top > 0 and region.right < 2400 and region.bottom < 1800
        if free:
            assert centre(region, window) == pytest.approx(expected, abs=4 * window.width / 2400)


def test_rows_say_how_right_how_old_and_how_late() -> None:
    truths = ["a"] * 4 + ["b"] * 4
    times = [n / FPS for n in range(8)]
    one = Run()
    for text, age in zip("aaxaaabb", (0.0, 0.0, 0.0, 0.6, 0.0, 0.2, 0.0, 0.0), strict=True):
        one.add(text, age, missed=False, asked=text == "x", sent=(10, 4))
    row = outcome([one, one], [truths, truths], [times, times]).row
    assert row["accuracy"] == row["low"] == row["high"] == pytest.approx(5 / 8)
    assert row["calls_per_frame"] == pytest.approx(1 / 8)
    assert (row["bytes_up_edge"], row["bytes_up_site"]) == (10, 4)
    assert row["age"] == pytest.approx(0.1)
    # The newest captures that right answers rested on: frames 0, 1, 1, 1, 1, 1, 6, 7.
    assert row["age_right"] == pytest.approx(0.2 * (0 + 0 + 1 + 2 + 3 + 4 + 0 + 0) / 8)
    assert row["correct_after"] == pytest.approx(0.4)
    still = ["a"] * 8
    assert outcome([one, one], [truths, still], [times, times]).row["correct_after"] == pytest.approx(0.4)
    assert outcome([one], [still], [times]).row["correct_after"] is None


def recorded() -> Recording:
    recording = Recording({"split": "test", "seed": 5, "seconds": 20.0}, {"torch": "2"}, {"bytes_whole": 9})
    of = recording.looks[1] = looks([0.5] * 100)
    of.keep(CloserKey(3, (1, 2, 3, 4)), CloserLook("7", 0.25, 99))
    of.keep(ContextKey(4, "what (0.2 s ago: 8)"), ContextLook("8", 0.125))
    return recording


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    recording, path = recorded(), tmp_path / "recording.jsonl.gz"
    recording.save(path)
    found = read_recording(path)
    assert (found.settings, found.made, found.partition) == (
        recording.settings,
        recording.made,
        recording.partition,
    )
    assert found.looks == recording.looks
    before = path.read_bytes()
    found.save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-30],
        lambda data: b"no gzip",
        lambda data: gzip.compress(b""),
        lambda data: gzip.compress(b'{"format": 0}\n'),
        lambda data: gzip.compress(b"[]\n"),
        lambda data: gzip.compress(gzip.decompress(data) + b'{"stream": 2}\n'),
        lambda data: gzip.compress(gzip.decompress(data).replace(b'"own 3"', b"3,4")),
    ],
)
def test_what_is_no_recording_is_refused_in_one_line(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "recording.jsonl.gz"
    recorded().save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LogError) as caught:
        read_recording(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lines_of_a_recording_are_json(tmp_path: Path) -> None:
    path = tmp_path / "recording.jsonl.gz"
    recorded().save(path)
    header, line = map(json.loads, gzip.decompress(path.read_bytes()).splitlines())
    assert header["settings"]["seed"] == 5
    assert line["closer"]["region"] == [[1, 2, 3, 4]]
