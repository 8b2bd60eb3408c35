"""The rows of the bot's vocabulary, and what its classes need of an outbox.

`TradeLogger` and `SupabaseClient` write the same trades: how one is made stands here once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from outbox import logs
from outbox.columns import SHIPPED, Kind
from outbox.encoding import encode_value
from outbox.entry import Operation, mint_id
from outbox.errors import InvalidEntry, UsageError
from outbox.foreign_types import is_row
from outbox.outbox import Outbox
from outbox.store.receipts import Receipt
from outbox.transaction import AnyTransaction

logger = logs.named("outbox.records")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The columns of `trades` that come from a trade's key of the same name, and what a missing key means.
_NOTHING = {Kind.TEXT: "", Kind.INTEGER: 0, Kind.FLOAT: 0, Kind.BOOLEAN: False}
_TRADE_DEFAULTS: Mapping[str, object] = {
    name: _NOTHING[column.kind]
    for name, column in SHIPPED["trades"].items()
    if name not in {"id", "trade_id", "timestamp", "created_at", "source"}
}
_TRADE_KEYS = frozenset({*_TRADE_DEFAULTS, "id", "trade_id", "timestamp"})
# NOT NULL in the remote table: None there would be a refusal, so it counts as missing.
_NEVER_NULL = frozenset({"session_id", "symbol"})


def check_outbox(outbox: object, taker: str) -> None:
    """Raise UsageError if `outbox` cannot be one: at the construction, not at the first trade."""
    if not isinstance(outbox, Outbox):
        raise UsageError(
            f"{taker} takes the Outbox, not a {type(outbox).__name__}; nothing was written."
            f" For a BlockingOutbox there is outbox.blocking.{taker}"
        )


def moment(now_ms: int) -> datetime:
    """Return Unix milliseconds as a time in UTC."""
    return _EPOCH + timedelta(milliseconds=now_ms)


async def put_trade(outbox: Outbox, trade: Mapping[str, object], tx: AnyTransaction | None) -> Receipt:
    """Put one trade; `tx`: as part of that transaction. Raises what `put` raises."""
    now_ms = outbox.clock.now_ms()
    own_id = mint_id(now_ms, os.urandom(10))
    row = trade_row(trade, own_id=own_id, now=moment(now_ms))
    return await (outbox if tx is None else tx.transaction).put("trades", row, operation=Operation.INSERT, id=own_id)


def trade_row(trade: Mapping[str, object], *, own_id: str, now: datetime) -> dict[str, object]:
    """Return the row of `trades` for a bot's own trade, which is not changed. Raises InvalidEntry.

    own_id: the trade_id of a trade that brings neither `id` nor `trade_id`. now: the timestamp of one without.
    None is null, except where the table has no null. Keys that the table has no column for are left out and named
    once in a warning.
    """
    if not isinstance(trade, Mapping):
        raise InvalidEntry(f"a trade must be a mapping, not {type(trade).__name__}", field="trades")
    _warn_about_unknown(trade)
    row = {column: _value(trade, column, default) for column, default in _TRADE_DEFAULTS.items()}
    row["trade_id"] = _given(trade, "id") or _given(trade, "trade_id") or own_id
    timestamp = trade.get("timestamp")
    row["timestamp"] = now if _is_null(timestamp, "timestamp") else timestamp
    return row


def event_row(event_type: str, data: object, session_id: str | None, *, now: datetime) -> dict[str, object]:
    """Return the row of `events`. Raises InvalidEntry: `data` is no JSON object, such as an encoded text."""
    content = {} if data is None else data
    if not is_row(content):
        raise InvalidEntry(f"must be a mapping, not {type(data).__name__}", field="events.data")
    return {"session_id": session_id, "timestamp": now, "event_type": event_type, "data": content}


def _value(trade: Mapping[str, object], column: str, default: object) -> object:
    value = trade.get(column, default)
    return default if column in _NEVER_NULL and _is_null(value, column) else value


def _is_null(value: object, column: str) -> bool:
    """Whether `value` would be sent as null: None, and what pandas has for it, NaT and NA."""
    return value is None or encode_value(value, where=f"trades.{column}") == "null"


def _given(trade: Mapping[str, object], name: str) -> str:
    value = trade.get(name)
    return "" if value is None else str(value)


def _warn_about_unknown(trade: Mapping[str, object]) -> None:
    unknown = {str(name) for name in trade.keys() - _TRADE_KEYS} - _warned
    if unknown and len(_warned) < 1000:  # a bot that makes up keys must not make this grow for ever
        _warned.update(unknown)
        logger.warning("keys without a column are left out", extra={"destination": "trades", "keys": sorted(unknown)})


_warned: set[str] = set()
