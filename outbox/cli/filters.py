"""Which entries a command selects: the options that all commands share, and the selection built from them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial, wraps
from typing import Annotated, Any

import typer

from outbox.clock import SystemClock
from outbox.entry import State
from outbox.errors import InvalidRequest
from outbox.store.selection import Selection

OfState = Annotated[State | None, typer.Option("--state", help="Only entries in this state.")]
OfDestination = Annotated[
    str | None, typer.Option("--destination", metavar="TABLE", help="Only entries for this table.")
]
OfSession = Annotated[
    str | None, typer.Option("--session", metavar="ID", help="Only those whose row names this session_id.")
]
_OfCode = Annotated[
    str | None, typer.Option("--code", metavar="CODE", help="Only those last refused with this code, or HTTP status.")
]
_Said = Annotated[
    str | None, typer.Option("--said", metavar="TEXT", help="Only those whose last refusal contains this.")
]
Since = Annotated[
    str | None, typer.Option("--since", metavar="WHEN", help="Since then: 90s, 30min, 2h, 3d, or ISO 8601.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Until then, as --since. Both are UTC.")]
_Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="COLUMN=VALUE", help="Only those whose row has this value; repeatable."),
]
LIMIT = 20
Limit = Annotated[int, typer.Option(min=1, metavar="N", help="At most this many.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count; change nothing.")]

# Builds the selection from the options, plus what a command adds.
Chosen = Callable[..., Selection]

_UNITS_MS = {"s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


def sharing(name: str, shared: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that replaces the parameter `name` of a command by the options of `shared`.

    The command is given, as `name`, `shared` with what was typed, and adds what is keyword-only.
    """
    declared = inspect.signature(shared, eval_str=True).parameters.values()
    options = [each for each in declared if each.kind is each.POSITIONAL_OR_KEYWORD]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def call(**values: Any) -> None:
            typed = {each.name: values.pop(each.name) for each in options}
            command(**{name: partial(shared, **typed)}, **values)

        own = inspect.signature(command, eval_str=True)
        parameters = [each for mine in own.parameters.values() for each in (options if mine.name == name else [mine])]
        call.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {each.name: each.annotation for each in parameters}
        return call

    return decorate


def _selection(
    destination: OfDestination = None,
    session: OfSession = None,
    code: _OfCode = None,
    said: _Said = None,
    since: Since = None,
    until: Until = None,
    where: _Where = None,
    **more: Any,
) -> Selection:
    """Return the selection from the options, plus what a command adds. Raises InvalidRequest, which names an option."""
    now_ms = SystemClock().now_ms()
    return Selection.of(
        {
            "destination": destination,
            "session": session,
            "code": code,
            "said": said,
            "since_ms": moment_ms(since, now_ms=now_ms, field="since"),
            "until_ms": moment_ms(until, now_ms=now_ms, field="until"),
            "where": dict(_told(each) for each in where) if where else None,
            **more,
        }
    )


selecting: Callable[[Callable[..., None]], Callable[..., None]] = sharing("chosen", _selection)


def _told(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not (column.strip() and equals):
        raise InvalidRequest(f"{text!r} is not COLUMN=VALUE, such as symbol=EURUSD", field="where")
    return column.strip(), value.strip()


def moment_ms(text: str | None, *, now_ms: int, field: str) -> int | None:
    """Return the Unix time in milliseconds that `text` means: an age before `now_ms`, or ISO 8601, UTC unless it says.

    None, which was not given, stays None. Raises InvalidRequest.
    """
    if text is None:
        return None
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
        raise InvalidRequest(f"{text!r} is not an age, such as 30min, 2h or 7d", field=field)
    return found


def _age_ms(text: str) -> int | None:
    match = _AGE.fullmatch(text)
    unit = _UNITS_MS.get(match[2]) if match else None
    # Ten thousand years: SQLite has no later time.
    return None if match is None or unit is None or float(match[1]) > 1e7 else round(float(match[1]) * unit)
