"""A session as `outbox_sessions` holds it and as it is sent; no decisions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from numbers import Real
from typing import Any

from outbox.bot.records import unknown_to, with_extra
from outbox.encoding import encode_value
from outbox.errors import InvalidEntry

_FIGURES = frozenset({"balance", "total_trades", "total_pnl"})


class SessionEndReason(Enum):
    """Why a session ended."""

    NORMAL = "NORMAL"
    EMERGENCY = "EMERGENCY"
    DAY_CHANGE = "DAY_CHANGE"
    RECOVERED = "RECOVERED"
    MANUAL = "MANUAL"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Session:
    """The state that must survive a crash. Times are UTC; a balance of None is unknown."""

    session_id: str = ""
    start_time: datetime | None = None
    day_start: datetime | None = None
    last_heartbeat: datetime | None = None
    initial_balance: float | None = None
    current_balance: float | None = None
    symbols: tuple[str, ...] = ()
    version: int = 0
    # Not stored: its state in this process.
    running: bool = False
    recovered: bool = False
    ending: bool = False  # an end was tried and may be stored


def stored(session: Session) -> tuple[Any, ...]:
    """Return the first eight values of `SAVE`."""
    return (
        session.session_id,
        text(session.start_time),
        text(session.day_start),
        text(session.last_heartbeat),
        session.initial_balance,
        session.current_balance,
        encode_value(session.symbols, where="symbols"),
        session.version,
    )


def restored(row: tuple[Any, ...]) -> Session:
    """Return the session that a row of `FIND` holds."""
    session_id, start_time, day_start, last_heartbeat, initial, current, symbols, version = row
    return Session(
        session_id,
        datetime.fromisoformat(start_time),
        datetime.fromisoformat(day_start),
        datetime.fromisoformat(last_heartbeat),
        initial,
        current,
        tuple(json.loads(symbols)),
        version,
    )


def remote_row(session: Session) -> dict[str, Any]:
    """Return the remote columns that every put of a session carries."""
    return {
        "session_id": session.session_id,
        "start_time": session.start_time,
        "initial_balance": session.initial_balance,
        "symbols": session.symbols,
        "version": session.version,
    }


def end_figures(stats: Mapping[str, Any]) -> dict[str, Any]:
    """Return the remote columns that the bot's `stats` fill; unknown ones are None. Raises InvalidEntry."""
    if not isinstance(stats, Mapping):
        raise InvalidEntry(f"must be a mapping, not {type(stats).__name__}", field="stats")
    beyond = unknown_to("sessions", stats, _FIGURES | {"extra"})
    trades = figure(stats.get("total_trades"), "stats.total_trades")
    if trades is not None and not trades.is_integer():
        raise InvalidEntry("must be a whole number", field="stats.total_trades")
    return {
        "final_balance": figure(stats.get("balance"), "stats.balance"),
        "total_trades": None if trades is None else int(trades),
        "total_pnl": figure(stats.get("total_pnl"), "stats.total_pnl"),
        **with_extra(stats, beyond),
    }


def figure(value: object, field: str) -> float | None:
    """Return a number as a float, like the remote column; None, NaN and infinities are unknown: None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise InvalidEntry(f"must be a number or None, not {type(value).__name__}", field=field)
    try:
        number = float(value)
    except (OverflowError, ValueError):  # an integer too large for a float; a signaling NaN
        return None
    return number if math.isfinite(number) else None


def names(symbols: Iterable[str]) -> tuple[str, ...]:
    """Return the symbols. Raises InvalidEntry for a single text: it would count as a list of letters."""
    one = isinstance(symbols, str) or not isinstance(symbols, Iterable)
    known = () if one else tuple(symbols)
    if one or not all(isinstance(name, str) for name in known):
        raise InvalidEntry("must be a list of strings", field="symbols")
    return known


def midnight(time: datetime) -> datetime:
    """Return the midnight that began the day of `time`."""
    return time.replace(hour=0, minute=0, second=0, microsecond=0)


def text(time: datetime | None) -> str | None:
    """Return ISO 8601 with milliseconds, so that the texts of UTC times sort like the times."""
    return None if time is None else time.isoformat(timespec="milliseconds")
