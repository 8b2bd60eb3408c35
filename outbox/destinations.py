"""From a caller's row to an entry: the declared destinations, and what a put becomes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace

from outbox import logs
from outbox.clock import Clock
from outbox.columns import SHIPPED, Kind, described, integer_columns
from outbox.encoding import identifier
from outbox.entry import (
    Destination,
    Entry,
    LaneSpec,
    Operation,
    OperationName,
    PutOptions,
    SharedOptions,
    mint_id,
    mint_ids,
)
from outbox.errors import ConfigError, InvalidEntry
from outbox.prepare import member, written, written_alike
from outbox.store.store import Store

logger: logs.Logger = logs.named("outbox")

# The old module's tables (supabase_sql/).
DECLARED = (
    Destination("trades", integers=integer_columns("trades"), key_kind=Kind.UUID),
    Destination("events", integers=integer_columns("events"), key_kind=Kind.UUID),
    Destination("sessions", on_conflict=("session_id",), integers=integer_columns("sessions"), key_kind=Kind.UUID),
)

# How many rows of one put_many are encoded in one go if they are alike: one that differs slows down this many.
_ALIKE = 128

# A caller with a deadline collects here the ids of the entries that its call puts.
put_ids: ContextVar[list[str] | None] = ContextVar("outbox_put_ids", default=None)


class Destinations:
    """Makes entries. Everything here happens in the caller's thread, before its first await."""

    def __init__(self, store: Store, *, clock: Clock, source: str | None) -> None:
        self._store = store
        self._clock = clock
        self._repeating = logs.Repeating(clock)
        self._source = source
        self._destinations = {destination.name: destination for destination in DECLARED}

    def register(
        self,
        name: str,
        *,
        key: str,
        on_conflict: Sequence[str],
        operation: OperationName | Operation,
        integers: Sequence[str],
        columns: Mapping[str, object] | Sequence[str],
    ) -> Destination:
        """Declare a destination; arguments and errors as `Outbox.register`."""
        if isinstance(on_conflict, str) or isinstance(integers, str) or isinstance(columns, str):
            raise ConfigError(
                "on_conflict, integers and columns are sequences of column names, not one string",
                field="on_conflict, integers, columns",
            )
        shipped = {column: known.kind for column, known in SHIPPED.get(name, {}).items()}
        told = (
            {column: known.kind for column, known in described(columns).items()} if isinstance(columns, Mapping) else {}
        )
        kinds = shipped | dict.fromkeys(integers, Kind.INTEGER) | told
        destination = Destination(
            identifier(name, field="name"),
            key=identifier(key, field="key"),
            on_conflict=tuple(identifier(column, field="on_conflict") for column in on_conflict),
            operation=member(Operation, operation, field="operation"),
            integers=frozenset(
                identifier(column, field="integers") for column, kind in kinds.items() if kind is Kind.INTEGER
            ),
            key_kind=kinds.get(key),
            columns=frozenset(identifier(column, field="columns") for column in columns) - shipped.keys(),
        )
        self._destinations[name] = destination
        return destination

    def declare(self, destinations: Iterable[Destination]) -> None:
        """Declare all of `destinations`, as `register` each. Raises ConfigError, InvalidEntry, InvalidQuery."""
        for each in destinations:
            if not isinstance(each, Destination):
                raise ConfigError(
                    f"destinations holds a {type(each).__name__} where a Destination is needed", field="destinations"
                )
            known = self.register(
                each.name,
                key=each.key,
                on_conflict=each.on_conflict,
                operation=each.operation,
                integers=sorted(each.integers),
                columns=sorted(each.columns),
            )
            if each.key_kind is not None:
                self._destinations[each.name] = replace(known, key_kind=each.key_kind)

    def destination(self, name: str) -> Destination:
        """Return what is declared for `name`, or the defaults. Raises InvalidEntry: it is not an identifier."""
        if not isinstance(name, str):
            raise InvalidEntry(
                f'must be the name of a table, not a {type(name).__name__}; it comes first: put("trades", row)',
                field="destination",
            )
        known = self._destinations.get(name)
        return known if known is not None else Destination(identifier(name, field="destination"))

    def entry(self, destination: str, row: object, options: PutOptions) -> tuple[Entry, LaneSpec, bool]:
        """Return the entry that a put of `row` stores, its lane's spec, and whether its id was minted.

        Raises InvalidEntry.
        """
        ready = written(self.destination(destination), row, **options)
        if ready.repaired:
            self._tell_repaired(destination, ready.repaired)
        now_ms, spec = self._clock.now_ms(), ready.intent.spec
        entry = ready.entry(
            ready.id or mint_id(now_ms, os.urandom(10)),
            created_at_ms=now_ms,
            source=self._source,
            lane=self._store.writer.lanes.get(spec),
        )
        if (ids := put_ids.get()) is not None:
            ids.append(entry.id)
        return entry, spec, ready.id is None

    def entries(
        self, destination: str, rows: Iterable[object], ids: Iterable[object] | None, options: SharedOptions
    ) -> list[tuple[Entry, LaneSpec]]:
        """Return the entries of one put_many, each with its lane's spec. Raises InvalidEntry, which names the row."""
        if isinstance(rows, Mapping | str | bytes) or not isinstance(rows, Iterable):
            raise InvalidEntry(f"must be rows, such as a list of mappings, not one {type(rows).__name__}", field="rows")
        known = self.destination(destination)
        rows = list(rows)
        chosen = [None] * len(rows) if ids is None else list(ids)
        if len(chosen) != len(rows):
            raise InvalidEntry(f"{len(chosen)} ids for {len(rows)} rows", field="ids")
        now_ms = self._clock.now_ms()
        minted = mint_ids(now_ms, os.urandom(10 * len(rows)))
        plain = ids is None and all(value is None for value in options.values())
        ready: list[tuple[Entry, LaneSpec]] = []
        for start in range(0, len(rows), _ALIKE):
            part = slice(start, start + _ALIKE)
            alike = written_alike(known, rows[part]) if plain else None
            if alike is not None:
                spec = alike.intent.spec
                lane = self._store.writer.lanes.get(spec)
                made = alike.entries(minted[part], created_at_ms=now_ms, source=self._source, lane=lane)
                ready += [(entry, spec) for entry in made]
                continue
            for number, row in enumerate(rows[part], start):
                try:
                    each = written(known, row, id=chosen[number], **options)
                except InvalidEntry as error:
                    raise InvalidEntry(error.reason, field=f"rows[{number}].{error.field}") from None
                if each.repaired:
                    self._tell_repaired(destination, each.repaired)
                spec, own = each.intent.spec, each.id or minted[number]
                lane = self._store.writer.lanes.get(spec)
                ready.append((each.entry(own, created_at_ms=now_ms, source=self._source, lane=lane), spec))
        if (noted := put_ids.get()) is not None:
            noted += [entry.id for entry, _ in ready]
        return ready

    def _tell_repaired(self, destination: str, fields: Sequence[str]) -> None:
        """Log the repaired fields: PostgreSQL stores neither NUL nor lone surrogates."""
        if (news := self._repeating.news(destination, str(fields))) is not None:
            logger.warning("text repaired", extra={"destination": destination, "fields": fields, **news})
