"""When to try again."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given, strategies as st

from outbox.flusher.backoff import delay_s, remaining_s, retry_after_s
from tests.support import in_zone

NOW_MS = 1_767_225_600_000
ALMOST_ONE = 1 - 2**-53


@pytest.mark.parametrize(
    ("failures", "most_s"),
    [
        pytest.param(1, 0.5, id="first"),
        pytest.param(2, 1.0, id="second"),
        pytest.param(3, 2.0, id="third"),
        pytest.param(10, 256.0, id="tenth"),
        pytest.param(11, 300.0, id="capped"),
        pytest.param(1_000_000, 300.0, id="a million, which would overflow a float"),
    ],
)
def test_the_wait_doubles_up_to_the_cap(failures: int, most_s: float) -> None:
    assert delay_s(failures, base_s=0.5, cap_s=300, draw=0.0) == 0.0
    assert delay_s(failures, base_s=0.5, cap_s=300, draw=0.5) == most_s / 2
    assert delay_s(failures, base_s=0.5, cap_s=300, draw=ALMOST_ONE) == pytest.approx(most_s)


@given(st.integers(1, 10**9), st.floats(0.001, 100), st.floats(0.001, 10_000), st.floats(0, ALMOST_ONE))
def test_the_wait_is_never_negative_nor_above_the_cap(failures: int, base_s: float, cap_s: float, draw: float) -> None:
    assert 0 <= delay_s(failures, base_s=base_s, cap_s=cap_s, draw=draw) <= cap_s


@pytest.mark.parametrize(("failures", "draw"), [(0, 0.5), (-1, 0.5), (1, 1.0), (1, -0.1), (1, float("nan"))])
def test_what_is_no_failure_or_no_draw_is_refused(failures: int, draw: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        delay_s(failures, base_s=1, cap_s=1, draw=draw)


def date(offset_s: int) -> str:
    return format_datetime(datetime.fromtimestamp(NOW_MS / 1000 + offset_s, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param(None, None, id="missing"),
        pytest.param("120", 120.0, id="seconds"),
        pytest.param(" 7 ", 7.0, id="blanks around"),
        pytest.param("0", 0.0, id="at once"),
        pytest.param("99999999999999999999", 300.0, id="more than the cap"),
        pytest.param("9" * 5000, 300.0, id="more digits than a number has"),
        pytest.param("-5", None, id="negative"),
        pytest.param("1.5", None, id="no whole number"),
        pytest.param("١٢", None, id="digits of another script"),
        pytest.param("", None, id="empty"),
        pytest.param("soon", None, id="a word"),
        pytest.param(date(90), 90.0, id="a date"),
        pytest.param(date(-90), 0.0, id="a date that has passed"),
        pytest.param(date(86_400), 300.0, id="a date beyond the cap"),
        pytest.param("Thu, 01 Jan 2026 00:00:30 -0000", 30.0, id="a date without a zone"),
        pytest.param("Thu, 01 Jan 99999999999 00:00:30 GMT", None, id="a year that no calendar has"),
        pytest.param("Thu, 01 Jan 2026 00:00:30 +9999999999", None, id="a zone that no clock has"),
    ],
)
def test_retry_after_is_read_and_capped(header: str | None, expected: float | None) -> None:
    assert retry_after_s(header, now_ms=NOW_MS, cap_s=300) == expected


def test_a_date_means_the_same_wherever_the_bot_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with in_zone("Pacific/Kiritimati", monkeypatch):
        for text in ("Thu, 01 Jan 2026 00:00:30 -0000", "Thu, 01 Jan 2026 01:00:30 +0100"):
            assert retry_after_s(text, now_ms=NOW_MS, cap_s=300) == 30.0


@pytest.mark.slow
@given(st.one_of(st.text(max_size=40), st.from_regex(r"\w{3}, \d+ Jan \d+ \d+:\d+:\d+ [-+]?\d+", fullmatch=True)))
def test_no_header_breaks_the_reading_of_it(header: str) -> None:
    found = retry_after_s(header, now_ms=NOW_MS, cap_s=300)
    assert found is None or 0 <= found <= 300


@pytest.mark.parametrize(
    ("offset_ms", "expected"),
    [
        pytest.param(1500, 1.5, id="in a while"),
        pytest.param(-1, 0.0, id="due"),
        pytest.param(86_400_000, 300.0, id="the clock was set back a day"),
        pytest.param(-86_400_000, 0.0, id="the clock was set forward a day"),
    ],
)
def test_a_stored_time_is_never_further_away_than_the_cap(offset_ms: int, expected: float) -> None:
    assert remaining_s(NOW_MS + offset_ms, now_ms=NOW_MS, cap_s=300) == expected
