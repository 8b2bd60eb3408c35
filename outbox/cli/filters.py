"""Which entries a command shows: the options that `ls`, `tail` and `export` share."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

import typer

from outbox.clock import SystemClock
from outbox.entry import State
from outbox.errors import InvalidRequest
from outbox.forensics.entries import Wanted

OfState = Annotated[State | None, typer.Option("--state", help="Only entries in this state.")]
OfDestination = Annotated[
    str | None, typer.Option("--destination", metavar="TABLE", help="Only entries for this table.")
]
OfSession = Annotated[
    str | None, typer.Option("--session", metavar="ID", help="Only those whose row names this session_id.")
]
OfCode = Annotated[
    str | None, typer.Option("--code", metavar="CODE", help="Only those last refused with this code, or HTTP status.")
]
Since = Annotated[
    str | None, typer.Option("--since", metavar="WHEN", help="Only those put since: 90s, 30min, 2h, 3d, or ISO 8601.")
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="WHEN", help="Only those put before: as --since; both are UTC.")
]

_UNITS_MS = {"s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


def wanted(
    state: State | None,
    destination: str | None,
    session: str | None,
    code: str | None,
    since: str | None,
    until: str | None,
) -> Wanted:
    """Return the filter that the options mean. Raises InvalidRequest: a time that is none."""
    now_ms = SystemClock().now_ms()
    bounds = [
        None if text is None else moment_ms(text, now_ms=now_ms, field=field)
        for field, text in (("since", since), ("until", until))
    ]
    return Wanted(state, destination, session, code, *bounds)


def moment_ms(text: str, *, now_ms: int, field: str) -> int:
    """Return the Unix time in milliseconds that `text` means: an age before `now_ms`, or ISO 8601, UTC unless it says.

    Raises InvalidRequest.
    """
    age_ms = _age_ms(text.strip())
    if age_ms is not None:
        return now_ms - age_ms
    try:
        found = datetime.fromisoformat(text.strip())
        aware = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{text!r} is neither an age such as 90s, 30min, 2h or 3d nor a time such as 2026-01-31T03:00", field=field
        ) from None


def age_ms(text: str, *, field: str) -> int:
    """Return the milliseconds that an age such as `7d` means. Raises InvalidRequest."""
    found = _age_ms(text.strip())
    if found is None:
        raise InvalidRequest(f"{text!r} is no age such as 30min, 2h or 7d", field=field)
    return found


def _age_ms(text: str) -> int | None:
    match = _AGE.fullmatch(text)
    unit = _UNITS_MS.get(match[2]) if match else None
    # Ten thousand years: more is no time that SQLite knows.
    return None if match is None or unit is None or float(match[1]) > 1e7 else round(float(match[1]) * unit)
