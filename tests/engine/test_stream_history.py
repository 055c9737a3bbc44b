"""What a stream remembers and where it looks, on paper: history, key frames, a line of history, focus."""

from __future__ import annotations

import ast
import importlib
import inspect
import random
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Region, Size, target
from secondlook.edge.wire import Fit, Fixed, View
from secondlook.engine.context import MOST_CHARACTERS, check_template, condensed, with_history
from secondlook.engine.method.grid import GridMap
from secondlook.engine.stream.focus import anchored
from secondlook.engine.stream.history import MOST_ANSWERS, MOST_FRAMES, Entry, History
from secondlook.engine.stream.keyframes import KeyFrames

SECONDS = 5.0
PLACE = Region(1, 2, 3, 4)

STEPS = st.lists(st.integers(0, 8).map(lambda quarter: quarter / 4), min_size=1, max_size=30)
"""Seconds from frame to frame, which are exact."""


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[float], list[Entry]]:
    """Frames' times of capture, and answers about some of them, in the order that they come in."""
    captured = [0.0]
    for step in draw(STEPS):
        captured.append(captured[-1] + step)
    each = st.builds(
        lambda frame, by, doubt, text, placed: Entry(
            frame, captured[frame], text, doubt, by, PLACE if placed else None
        ),
        st.integers(0, len(captured) - 1),
        st.sampled_from(("own", "cloud")),
        st.sampled_from((0.0, 0.1, 0.2)),
        st.sampled_from("abc"),
        st.booleans(),
    )
    # Two answers that differ in nothing but the place would be one answer told differently.
    entries = draw(st.lists(each, max_size=40, unique_by=lambda entry: entry.rank))
    return captured, entries


def implied(entries: list[Entry], frame: int, captured: float) -> list[Entry]:
    """What is known before a frame, from frames' numbers and answers alone."""
    best = {}
    for entry in sorted(entries, key=lambda entry: entry.rank):
        best[entry.frame, entry.by] = entry
    known = [each for each in best.values() if each.frame < frame and captured - each.captured <= SECONDS]
    return sorted(known, key=lambda entry: entry.rank)


@given(answers(), st.randoms(use_true_random=False), st.sampled_from((0.0, 0.1, 0.2)))
def test_the_history_is_what_frame_numbers_imply(
    drawn: tuple[list[float], list[Entry]], chance: random.Random, doubt: float
) -> None:
    """However often, in whatever order, and at whatever time the answers come that do come."""
    captured, entries = drawn
    come = [entry for entry in entries if chance.random() < 0.8]
    events = [*come, *(entry for entry in come if chance.random() < 0.3), *captured[1:]]
    chance.shuffle(events)
    history = History(SECONDS)
    for event in events:
        if isinstance(event, Entry):
            history.put(event)
        else:
            history.reach(event)
    frame, now = len(captured), captured[-1]
    expected = implied(come, frame, now)
    assert history.before(frame, now) == expected
    placed = [entry for entry in expected if entry.region and entry.uncertainty <= doubt]
    assert history.place(frame - 1, now, doubt) == (placed[-1] if placed else None)
    assert len(history) <= len(come)


def test_a_cloud_answer_comes_after_the_frames_own_and_before_a_newer_own() -> None:
    history = History(SECONDS)
    for frame, by in ((3, "cloud"), (3, "own"), (2, "cloud"), (4, "own")):
        history.put(Entry(frame, frame / 5, by, 0.1, by))  # type: ignore[arg-type]
    known = [(entry.frame, entry.by) for entry in history.before(9, 1.0)]
    assert known == [(2, "cloud"), (3, "own"), (3, "cloud"), (4, "own")]
    assert history.before(2, 1.0) == []


@pytest.mark.parametrize("step", [0.1, 0.0])
def test_the_history_is_bounded(step: float) -> None:
    """By time, and where a camera's clock stands still, in number."""
    history = History(SECONDS)
    for frame in range(MOST_FRAMES + 1000):
        history.put(Entry(frame, frame * step, "a", 0.0, "own"))
    assert len(history) == (51 if step else MOST_ANSWERS)
    assert history.before(10**9, (MOST_FRAMES + 999) * step)[-1].frame == MOST_FRAMES + 999


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("doubt", [(0.0, 0.0, None), (0.96, 0.1, 0.0)]),
        ("busy", [(1.0, 0.0, None), (0.0, 0.1, 0.0)]),
        ("every:0.5", [(1.0, 0.0, None), (1.0, 0.7, 0.2), (0.0, 1.2, 0.7)]),
    ],
)
def test_key_frames(text: str, wanted: list[tuple[float, float, float | None]]) -> None:
    rule = KeyFrames.parsed(text)
    assert all(rule.wants(partial(float, chance), *times) for chance, *times in wanted)


def test_other_frames_are_no_key_frames() -> None:
    assert not KeyFrames.parsed("doubt").wants(lambda: 0.98, 9.0, None)
    assert not KeyFrames.parsed("every:0.5").wants(lambda: 0.0, 0.6, 0.2)


@pytest.mark.parametrize(
    "text",
    ["", "never", "every", "every:", "every:x", "every:0", "every:-1", "every:nan", "every:inf", "doubt:"],
)
def test_what_is_no_rule_is_an_error(text: str) -> None:
    with pytest.raises(SettingsError, match=r"key frames|seconds should be"):
        KeyFrames.parsed(text)


def test_a_number_of_seconds_belongs_to_one_rule() -> None:
    with pytest.raises(SettingsError, match="no other rule takes one"):
        KeyFrames("busy", 1.0)
    with pytest.raises(SettingsError, match="need that number"):
        KeyFrames("every")


@given(st.text())
def test_what_is_condensed_is_one_short_line(text: str) -> None:
    line = condensed(text)
    assert len(line) <= MOST_CHARACTERS
    assert line.isprintable()
    assert line == line.strip()
    assert condensed(line) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("75", "75"),
        ("  seventy\n\tfive ", "seventy five"),
        ("It says 75. The sign is red.", "It says 75. The sign is red."),
        (
            f"It says 75. {'The sign is very large. ' * 9}",
            f"It says 75. {'The sign is very large. ' * 2}".strip(),
        ),
        (f"It says, {'far ' * 40}", f"It says, {'far ' * 18}".strip(" ,")),
        ("9" * 200, "9" * 80),
        ("", ""),
    ],
)
def test_condensing(text: str, line: str) -> None:
    assert condensed(text) == line


def test_a_line_of_history_stands_behind_the_question() -> None:
    template = "{question} ({age:.1f} s ago: {answer})"
    check_template(template)
    assert with_history(template, "What?", 0.8123, "se\nventy") == "What? (0.8 s ago: se venty)"
    # Of what is put in, nothing is a template.
    assert with_history(template, "{answer}?", 1.0, "{age}") == "{answer}? (1.0 s ago: {age})"


@pytest.mark.parametrize(
    "template",
    [
        "{question} {answer}",
        "{question} {age} {answer} {answer}",
        "{question} {age} {answer} {other}",
        "{question} {age} {answer:9}",
        "{question} {age:x} {answer}",
        "{question.real} {age} {answer}",
        "{question} {age} {answer",
        "{} {age} {answer}",
        "",
    ],
)
def test_what_is_no_template_is_an_error(template: str) -> None:
    with pytest.raises(SettingsError, match="a template of context needs"):
        check_template(template)


def grid(original: Size, fit: Fit, cells: int = 12) -> GridMap:
    view = View(size=Fixed(width=168, height=168), fit=fit)
    return GridMap(original, target(view, original), fit, cells, cells)


def attention(where: GridMap, *points: tuple[float, float, int], cells: int = 12) -> list[list[int]]:
    """A map that stands out in the cells of some pixels, by so much."""
    rows = [[0] * cells for _ in range(cells)]
    for x, y, strength in points:
        column, row = where.to_grid(x, y)
        rows[int(row)][int(column)] = strength
    return rows


@pytest.mark.parametrize("fit", ["squash", "pad"])
@pytest.mark.parametrize("size", [Size(1200, 600), Size(600, 1200), Size(960, 960)])
def test_a_place_follows_attention_near_it(size: Size, fit: Fit) -> None:
    """To the middle of the cell, as large as it was; not to what is brighter far away."""
    where = grid(size, fit)
    x, y = size.width / 2, size.height / 2
    place = Region(int(x) - 60, int(y) - 60, int(x) + 60, int(y) + 60)
    to = x + 70, y - 40
    moved = anchored(attention(where, (*to, 200), (5, 5, 255)), where, place)
    assert moved.size == place.size
    cell = max(size.width, size.height) / 12 if fit == "pad" else size.width / 12
    high = cell if fit == "pad" else size.height / 12
    assert abs(moved.centre[0] - to[0]) <= cell / 2 + 1
    assert abs(moved.centre[1] - to[1]) <= high / 2 + 1


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_a_place_stays_where_nothing_says_otherwise(fit: Fit) -> None:
    where, place = grid(Size(1200, 600), fit), Region(500, 200, 640, 340)
    assert anchored(attention(where), where, place) == place
    assert anchored(attention(where, (570, 270, 50), (20, 20, 255)), where, place) == place


@given(
    st.lists(st.lists(st.integers(0, 255), min_size=6, max_size=6), min_size=6, max_size=6),
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    st.sampled_from(("squash", "pad")),
)
def test_a_place_stays_in_the_picture(
    cells: list[list[int]], size: tuple[int, int], at: tuple[float, float, float, float], fit: Fit
) -> None:
    original = Size(*size)
    left, top = int(at[0] * (original.width - 1)), int(at[1] * (original.height - 1))
    right = left + 1 + int(at[2] * (original.width - left - 1))
    bottom = top + 1 + int(at[3] * (original.height - top - 1))
    place = Region(left, top, right, bottom)
    moved = anchored(cells, grid(original, fit, 6), place)
    assert moved.within(original)
    assert moved.size == place.size


@pytest.mark.parametrize(
    "name", ["stream.history", "stream.keyframes", "stream.focus", "stream.state", "context"]
)
def test_the_arithmetic_has_no_clock(name: str) -> None:
    """Nor chance, nor anything that happens elsewhere: a replay comes to the same."""
    module = importlib.import_module(f"secondlook.engine.{name}")
    imported = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert not imported & {"time", "datetime", "random", "secrets", "asyncio", "threading", "httpx", "torch"}
