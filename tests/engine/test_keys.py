"""Keys and their limits, without a server."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from properties import examples
from secondlook.edge.errors import SettingsError
from secondlook.engine.errors import RateLimitError, UnauthorizedError
from secondlook.engine.serve.keys import Key, KeyRing, Meter, owner_of, read_keys
from secondlook.engine.serve.settings import KeyLimits

USUAL = KeyLimits(concurrent=4)


def line(name: str, secret: str, limits: str = "") -> str:
    return f"{name}:{hashlib.sha256(secret.encode()).hexdigest()}{limits}"


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_file_of_keys(tmp_path: Path) -> None:
    path = written(
        tmp_path / "keys",
        "# who may ask",
        "",
        line("cams", "one"),
        "  " + line("cams", "two") + "  ",
        line("lab-2", "three", ":concurrent=8, looks=120,bytes=50M"),
    )
    cams, also, lab = read_keys(path, USUAL)
    assert (cams.name, cams.limits) == (also.name, also.limits) == ("cams", USUAL)
    assert cams.digest != also.digest
    assert lab.limits == KeyLimits(8, 120, 50 * 2**20)
    assert (owner_of(lab.client), owner_of("10.0.0.1"), owner_of("::1")) == (lab.client, "", "")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["# none"], "has no keys"),
        (["secret"], "line 1: the name"),
        (["a b:" + "0" * 64], "line 1: the name"),
        (["", "cams:secret"], "line 2: behind 'cams'"),
        ([line("a", "x"), line("b", "x")], "line 2: the key of 'b' is there already"),
        ([line("a", "x"), line("a", "y", ":looks=2")], "line 2: the limits of 'a' stand in its first line"),
        ([line("a", "x", ":loks=2")], "not 'loks=2'"),
        ([line("a", "x", ":looks=0")], "not 'looks=0'"),
        ([line("a", "x", ":")], "not ''"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_line_and_no_secret(
    tmp_path: Path, lines: list[str], told: str
) -> None:
    path = written(tmp_path / "keys", *lines)
    with pytest.raises(SettingsError) as refused:
        read_keys(path, USUAL)
    assert told in str(refused.value)
    assert str(path) in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("there", [False, True])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "keys"
    if there:
        path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"keys of .*keys cannot be read"):
        KeyRing(path, USUAL)


def test_a_key_is_compared_with_all_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "keys", *(line(f"n{number}", f"s{number}") for number in range(5)))
    ring, compared = KeyRing(path, USUAL), 0
    compare = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        nonlocal compared
        compared += 1
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for number in range(5):
        assert ring.find(f"s{number}".encode()).name == f"n{number}"
    for secret in (b"", b"s9", None, b"\xff"):
        with pytest.raises(UnauthorizedError):
            ring.find(secret)
    assert compared == 9 * 5


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "keys", line("a", "old"))
    ring = KeyRing(path, USUAL)
    new = written(tmp_path / "new", line("a", "old"), line("a", "new"))
    os.replace(new, path)
    assert ring.find(b"old").client == ring.find(b"new").client == "key:a"
    written(path, "nonsense")
    for _ in range(3):
        assert ring.find(b"new").name == "a"
    path.unlink()
    assert ring.find(b"new").name == "a"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [text.partition(":")[0] for text in told] == ["the keys stay as they were"] * 2
    written(path, line("a", "new"))
    assert ring.find(b"new").name == "a"
    with pytest.raises(UnauthorizedError):
        ring.find(b"old")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def key(**limits: int) -> Key:
    return Key("a", b"", KeyLimits(**limits))


def test_questions_in_progress_are_bounded() -> None:
    meter, two = Meter(Clock()), key(concurrent=2)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(meter.asking(two))
        with pytest.raises(RateLimitError, match="'a' has 2 questions in progress") as refused:
            stack.enter_context(meter.asking(two))
        assert refused.value.retry_after == 1
        with meter.asking(Key("b", b"", two.limits)):
            pass
    with meter.asking(two):
        pass


def test_bytes_that_were_too_many_are_waited_for() -> None:
    clock = Clock()
    meter, some = Meter(clock), key(bytes_per_minute=600)
    with meter.asking(some) as asking:
        asking.arrived(500)
        asking.arrived(700)  # a body is let in whole
    with pytest.raises(RateLimitError, match="600 bytes a minute") as refused, meter.asking(some):
        pass
    assert refused.value.retry_after == pytest.approx(60, abs=0.2)
    clock.now += refused.value.retry_after
    with meter.asking(some):
        pass


def test_looks_that_were_too_many_are_waited_for() -> None:
    clock = Clock()
    meter, some = Meter(clock), key(looks_per_minute=2)
    with meter.asking(some):
        pass
    with meter.asking(some) as asking:
        asking.looked()  # a second look is not refused in the middle of a question
    with pytest.raises(RateLimitError, match="2 looks a minute") as refused, meter.asking(some):
        pass
    assert refused.value.retry_after == pytest.approx(60)
    clock.now += refused.value.retry_after
    with meter.asking(some):
        pass


@settings(max_examples=examples(200), deadline=None)
@given(
    limit=st.integers(1, 300),
    waits=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=400),
)
def test_in_any_minute_there_are_at_most_twice_the_looks_and_retry_after_is_enough(
    limit: int, waits: list[float]
) -> None:
    """As many as have gathered, and as many as come meanwhile."""
    clock = Clock()
    meter, some, let_in = Meter(clock), key(looks_per_minute=limit), list[float]()
    for wait in waits:
        clock.now += wait
        try:
            with meter.asking(some):
                let_in.append(clock.now)
        except RateLimitError as refused:
            clock.now += refused.retry_after + 1e-6
            with meter.asking(some):
                let_in.append(clock.now)
    for index, since in enumerate(let_in):
        within = sum(1 for time in let_in[index:] if time < since + 60)
        assert within <= 2 * limit
    span = let_in[-1] - let_in[0]
    assert len(let_in) <= limit + span * limit / 60 + 1
