from __future__ import annotations

import pytest

from secondlook.edge.errors import SettingsError
from secondlook.engine.errors import AnsweredSessionError, ExpiredSessionError, UnknownSessionError
from secondlook.engine.serve.sessions import SessionStore
from secondlook.engine.serve.settings import ServerSettings, SessionLimits


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def store(clock: Clock | None = None, **limits: float) -> SessionStore[str, str]:
    """Sessions that keep a text, a byte a letter, and leave it in capitals."""
    return SessionStore(SessionLimits(**limits), str.upper, len, clock or Clock())  # type: ignore[arg-type]


def opened(sessions: SessionStore[str, str], question: str) -> str:
    return sessions.open(question)[0]


def test_a_session_waits_is_claimed_and_ends() -> None:
    sessions = store()
    name, seconds = sessions.open("why?")
    assert seconds == SessionLimits().seconds
    assert sessions.look(name) == "why?"
    assert sessions.claim(name) == "why?"
    sessions.finish(name, "because")
    assert len(sessions) == 0
    for use in (sessions.look, sessions.claim):
        with pytest.raises(AnsweredSessionError, match="already answered"):
            use(name)
    assert sessions.give_up(name) == "because"


def test_ids_are_long_and_never_the_same() -> None:
    sessions = store()
    names = {opened(sessions, "q") for _ in range(100)}
    assert len(names) == 100
    assert min(map(len, names)) >= 32


def test_an_unknown_id_is_refused() -> None:
    sessions = store()
    for use in (sessions.look, sessions.claim, sessions.give_up):
        with pytest.raises(UnknownSessionError):
            use("nobody")


def test_a_second_claim_is_refused_until_the_first_is_released() -> None:
    sessions = store()
    name = opened(sessions, "q")
    sessions.claim(name)
    with pytest.raises(AnsweredSessionError, match="is being answered"):
        sessions.claim(name)
    with pytest.raises(AnsweredSessionError):
        sessions.give_up(name)
    sessions.release(name)
    assert sessions.claim(name) == "q"


def test_a_session_expires_when_its_time_is_over_and_not_before() -> None:
    clock = Clock()
    sessions = store(clock, seconds=30.0)
    name = opened(sessions, "q")
    clock.now += 29.9
    assert sessions.look(name) == "q"
    clock.now += 0.1
    with pytest.raises(ExpiredSessionError, match="within 30 seconds: the first answer stands"):
        sessions.claim(name)
    assert len(sessions) == 0
    assert sessions.give_up(name) == "Q"


def test_a_session_that_just_expired_can_still_be_given_up() -> None:
    clock = Clock()
    sessions = store(clock, seconds=30.0)
    name = opened(sessions, "q")
    clock.now += 31
    assert sessions.give_up(name) == "Q"
    with pytest.raises(ExpiredSessionError, match="within 30 seconds"):
        sessions.look(name)


def test_purging_frees_what_is_over_time() -> None:
    clock = Clock()
    sessions = store(clock, seconds=30.0)
    opened(sessions, "old")
    clock.now += 20
    opened(sessions, "new")
    clock.now += 15
    assert sessions.purge() == 1
    assert len(sessions) == 1


def test_a_claimed_session_does_not_expire_before_it_is_released() -> None:
    clock = Clock()
    sessions = store(clock, seconds=30.0)
    finished, released = opened(sessions, "a"), opened(sessions, "b")
    sessions.claim(finished)
    sessions.claim(released)
    clock.now += 31
    assert sessions.purge() == 0
    sessions.finish(finished, "A")
    sessions.release(released)
    with pytest.raises(AnsweredSessionError):
        sessions.claim(finished)
    with pytest.raises(ExpiredSessionError):
        sessions.claim(released)


def test_one_session_too_many_gives_the_oldest_waiting_one_up() -> None:
    sessions = store(max_waiting=2)
    claimed, first, second = (opened(sessions, "c"), *(opened(sessions, q) for q in "ab"))
    assert len(sessions) == 2
    with pytest.raises(ExpiredSessionError, match="too many open sessions"):
        sessions.look(claimed)
    sessions.claim(first)
    third = opened(sessions, "d")
    assert [sessions.look(name) for name in (second, third)] == ["b", "d"]
    sessions.finish(first, "A")


def test_one_byte_too_many_gives_the_oldest_waiting_ones_up() -> None:
    sessions = store(max_bytes=10)
    claimed, first, second, third = (
        opened(sessions, q * n) for q, n in (("c", 1), ("a", 2), ("b", 3), ("d", 4))
    )
    sessions.claim(claimed)
    assert sessions.look(first) == "aa"  # nothing was too much so far
    fourth = opened(sessions, "eee")  # 2 + 3 + 4 + 3: the oldest must go, and what is claimed does not count
    with pytest.raises(ExpiredSessionError, match="too many open sessions"):
        sessions.look(first)
    assert [sessions.look(name) for name in (second, third, fourth)] == ["bbb", "dddd", "eee"]
    large = opened(sessions, "f" * 11)  # alone it is too large, and waits all the same
    assert len(sessions) == 2
    assert sessions.look(large) == "f" * 11
    assert sessions.give_up(third) == "DDDD"  # its first answer stands
    last = opened(sessions, "g")
    assert sessions.look(last) == "g"
    with pytest.raises(ExpiredSessionError):
        sessions.look(large)


def test_a_session_given_up_is_gone() -> None:
    sessions = store()
    name = opened(sessions, "q")
    assert sessions.give_up(name) == "Q"
    assert len(sessions) == 0
    with pytest.raises(ExpiredSessionError, match="gave this session up"):
        sessions.claim(name)
    assert sessions.give_up(name) == "Q"  # it may be told again


def test_only_the_latest_ends_are_remembered() -> None:
    sessions = store(max_remembered=1)
    first, second = opened(sessions, "a"), opened(sessions, "b")
    sessions.give_up(first)
    sessions.give_up(second)
    with pytest.raises(ExpiredSessionError):
        sessions.look(second)
    for use in (sessions.look, sessions.give_up):
        with pytest.raises(UnknownSessionError):
            use(first)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_waiting": 0},
        {"max_bytes": 0},
        {"max_remembered": -1},
        {"seconds": 0},
        {"seconds": float("nan")},
    ],
)
def test_impossible_limits_are_refused_with_their_value(limits: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=str(next(iter(limits.values())))):
        SessionLimits(**limits)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["queue_size", "max_body_bytes", "max_new_tokens", "decoding_threads"])
def test_impossible_server_settings_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} should be greater than 0, not 0"):
        ServerSettings(**{name: 0})  # type: ignore[arg-type]
