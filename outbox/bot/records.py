"""The rows of the bot's vocabulary, and what its classes need of an outbox.

`TradeLogger` and `SupabaseClient` write the same trades, so both make them here.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

from outbox import logs
from outbox.columns import SHIPPED, Kind
from outbox.encoding import encode_value
from outbox.entry import Operation
from outbox.errors import InvalidEntry, UsageError
from outbox.foreign_types import is_row
from outbox.outbox import Outbox
from outbox.prepare import as_id, mint_id, uuid_of
from outbox.store.receipts import Receipt
from outbox.transaction import AnyTransaction

logger: logs.Logger = logs.named("outbox.records")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The columns of `trades` that come from a trade's key of the same name, and what a missing key means.
_NOTHING = {Kind.TEXT: "", Kind.INTEGER: 0, Kind.FLOAT: 0, Kind.BOOLEAN: False}
_TRADE_DEFAULTS: Mapping[str, object] = {
    name: _NOTHING[column.kind]
    for name, column in SHIPPED["trades"].items()
    if name not in {"id", "trade_id", "timestamp", "created_at", "source", "extra"}
}
_TRADE_KEYS = frozenset({*_TRADE_DEFAULTS, "id", "trade_id", "timestamp", "extra"})
# NOT NULL in the remote table: None would be refused, so it counts as missing.
_NEVER_NULL = frozenset({"session_id", "symbol"})


def check_outbox(outbox: object, taker: str) -> None:
    """Raise UsageError if `outbox` is not an outbox: at construction, not at the first trade."""
    if not isinstance(outbox, Outbox):
        raise UsageError(
            f"{taker} takes the Outbox, not a {type(outbox).__name__}; nothing was written."
            f" For a BlockingOutbox there is outbox.blocking.{taker}"
        )


def moment(now_ms: int) -> datetime:
    """Return Unix milliseconds as a time in UTC."""
    return _EPOCH + timedelta(milliseconds=now_ms)


async def put_trade(
    outbox: Outbox, trade: Mapping[str, object], tx: AnyTransaction | None, *, id: object = None
) -> Receipt:
    """Put one trade; `tx`: as part of that transaction. Raises what `put` raises.

    id: the broker's name for it, or None. If the same id is put again, the first stays: `Receipt.duplicate`.
    """
    now_ms = outbox.clock.now_ms()
    declared = outbox.destination("trades")
    name = as_id(id, "id")
    own_id = mint_id(now_ms, os.urandom(10)) if name is None else name
    row = trade_row(trade, own_id=own_id, now=moment(now_ms), columns=declared.columns)
    target = outbox if tx is None else tx.transaction
    if name is None:
        return await target.put("trades", row, operation=Operation.INSERT, id=own_id)
    if declared.key_kind is Kind.UUID and not is_uuid(name):
        name = uuid_of(name)
    return await target.put("trades", row, operation=Operation.INSERT, id=name, if_exists="keep")


def trade_row(
    trade: Mapping[str, object], *, own_id: str, now: datetime, columns: frozenset[str] = frozenset()
) -> dict[str, object]:
    """Return the row of `trades` for a bot's own trade, which is not changed. Raises InvalidEntry.

    own_id: the trade_id of a trade that has neither `id` nor `trade_id`. now: the timestamp of one without.
    None is null, except where the table allows no null. columns: the bot's own. A key without a column is kept in
    `extra` and named once in a warning; a column that it may be a misspelling of is left out instead of being 0.
    """
    if not isinstance(trade, Mapping):
        raise InvalidEntry(f"a trade must be a mapping, not {type(trade).__name__}", field="trades")
    beyond = unknown_to("trades", trade, _TRADE_KEYS | columns)
    meant = {meant_by(name, _TRADE_DEFAULTS) for name in beyond} - trade.keys() - _NEVER_NULL
    row = {column: _value(trade, column, default) for column, default in _TRADE_DEFAULTS.items() if column not in meant}
    row |= {str(column): trade[column] for column in trade.keys() & columns}
    row |= with_extra(trade, beyond)
    row["trade_id"] = _given(trade, "id") or _given(trade, "trade_id") or own_id
    timestamp = trade.get("timestamp")
    row["timestamp"] = now if _is_null(timestamp, "timestamp") else timestamp
    return row


def event_row(event_type: str, data: object, session_id: str | None, *, now: datetime) -> dict[str, object]:
    """Return the row of `events`. Raises InvalidEntry: `data` is not a JSON object, but for example an encoded text."""
    content = {} if data is None else data
    if not is_row(content):
        raise InvalidEntry(f"must be a mapping, not {type(data).__name__}", field="events.data")
    return {"session_id": session_id, "timestamp": now, "event_type": event_type, "data": content}


def _value(trade: Mapping[str, object], column: str, default: object) -> object:
    value = trade.get(column, default)
    return default if column in _NEVER_NULL and _is_null(value, column) else value


def _is_null(value: object, column: str) -> bool:
    """Whether `value` would be sent as null: None, and pandas' NaT and NA."""
    return value is None or encode_value(value, where=f"trades.{column}") == "null"


def _given(trade: Mapping[str, object], name: str) -> str:
    value = trade.get(name)
    return "" if value is None else str(value)


def with_extra(said: Mapping[str, object], beyond: Mapping[str, object]) -> dict[str, object]:
    """Return the column `extra`, if not empty: what `said` has there, and `beyond`: keys without a column."""
    own = said.get("extra")
    if not beyond:
        return {} if own is None else {"extra": own}
    return {"extra": {**(own if isinstance(own, Mapping) else {} if own is None else {"extra": own}), **beyond}}


def unknown_to(table: str, said: Mapping[str, object], columns: frozenset[str]) -> dict[str, object]:
    """Return the items of `said` that have no column in `columns`, and warn of each name once."""
    beyond = {str(name): value for name, value in said.items() if name not in columns}
    new = {(table, name) for name in beyond} - _warned
    if new and len(_warned) < 1000:  # a bot that invents keys must not make this grow for ever
        _warned.update(new)
        keys = sorted(name for _, name in new)
        hints = [f"{key}: did you mean {guess}?" for key in keys if (guess := meant_by(key, columns))]
        logger.warning(
            "keys without a column are kept in extra", extra={"destination": table, "keys": keys, "hints": hints}
        )
    return beyond


def meant_by(name: str, columns: Iterable[str]) -> str | None:
    """Return the column that `name` may be a misspelling of."""
    return next(iter(difflib.get_close_matches(name.lower(), columns, 1, 0.75)), None)


_warned: set[tuple[str, str]] = set()


def is_uuid(text: str) -> bool:
    """Return whether PostgreSQL could read `text` as a UUID."""
    try:
        UUID(text)
    except ValueError:
        return False
    return True
