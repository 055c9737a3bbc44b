from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.edge import ClientSettings, SettingsError
from secondlook.edge.retry import backoff_seconds, retry_after_seconds

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 2.5 ", 2.5),
        ("Fri, 02 Jan 2026 03:04:35 GMT", 30.0),
        ("Fri, 02 Jan 2026 05:04:35 +0200", 30.0),
        ("Fri, 02 Jan 2026 03:04:35 -0000", 30.0),
        ("Thu, 01 Jan 2026 03:04:05 GMT", 0.0),
        ("-3", None),
        ("inf", None),
        ("soon", None),
        ("9" * 12, 999999999999.0),
        ("Fri, 02 Jan 2026 03:04:35 +99999999999999", None),
        ("Fri, 02 Jan 99999 03:04:35 GMT", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


@given(st.text())
def test_retry_after_survives_any_text(header: str) -> None:
    seconds = retry_after_seconds(header, NOW)
    assert seconds is None or seconds >= 0


def test_waits_grow_to_a_bound() -> None:
    settings = ClientSettings(first_wait=0.5, wait_factor=3, longest_wait=10)
    assert [backoff_seconds(settings, attempt, 0) for attempt in range(5)] == [0.5, 1.5, 4.5, 10, 10]
    assert backoff_seconds(settings, 1, 1) == 0.75


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(1, 1e6))
def test_a_wait_is_between_half_and_all_of_the_longest(attempt: int, jitter: float, factor: float) -> None:
    settings = ClientSettings(first_wait=8, wait_factor=factor, longest_wait=8)
    assert 4 <= backoff_seconds(settings, attempt, jitter) <= 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 0),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("connect_timeout", -1),
        ("retries", -1),
        ("retries", 1.5),
        ("first_wait", -0.1),
        ("wait_factor", 0.5),
        ("longest_wait", "8"),
        ("wait_budget", True),
    ],
)
def test_impossible_settings_are_refused_by_name_and_value(name: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        ClientSettings(**{name: value})
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ClientSettings().retries = 9  # type: ignore[misc]
