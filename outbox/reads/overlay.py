"""Applies pending entries to the rows that they are bound for; no I/O, no clock, no randomness.

Rows are identified by their destination's conflict columns, or by its key column. Entries of one row apply in put
order: an insert if there is no row, an upsert either way, an update if there is one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Any, TypeAlias

from outbox.columns import ORDERED, UNKNOWN, Columns, Number, comparable, known, told
from outbox.entry import Destination, Operation, StoredEntry
from outbox.errors import Undecidable
from outbox.reads.query import Query, Term

Identity: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What one entry does to one row. names: the identity as texts, for asking. values: as they were put.

    numbered: the same, with each number as its text.
    """

    operation: Operation
    identity: Identity
    names: tuple[str, ...]
    values: Mapping[str, Any]
    numbered: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A row while changes are applied to it. texts: of the columns compared; UNKNOWN: the server's default.

    partial: the remote row may already have existed, with other values than the defaults.
    """

    values: Mapping[str, Any]
    texts: Mapping[str, object]
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """What is known about a destination: enough to do here what the server would.

    unique: the columns that identify its rows. compared: those and the ones that the query filters and orders by.
    """

    destination: Destination
    columns: Columns
    unique: tuple[str, ...]
    compared: tuple[str, ...]

    # ---------------------------------------------------------------------------------------- changes

    def change(self, entry: StoredEntry) -> Change:
        """Return what `entry` does. Raises Undecidable: which row it changes, or how, is not certain."""
        field = f"entry {entry.id}"
        try:
            values = json.loads(entry.payload)
            numbered = _with_numbers(entry.payload)
            wanted = _with_numbers(entry.match) if entry.match is not None else numbered
        except (ValueError, RecursionError):
            raise Undecidable("its JSON cannot be read", field=field) from None
        match entry.operation:
            case Operation.INSERT:
                values.setdefault(self.destination.key, entry.id)
                numbered.setdefault(self.destination.key, entry.id)
            case Operation.UPSERT:
                self._check_deciding((entry.on_conflict or "").split(","), field)
            case Operation.UPDATE:
                self._check_deciding(list(wanted), field)
        names = tuple(self._name(wanted.get(column), column, field) for column in self.unique)
        identity = tuple(self._comparable(column, name, field) for column, name in zip(self.unique, names, strict=True))
        return Change(entry.operation, identity, names, values, numbered)

    def _check_deciding(self, columns: Sequence[str], field: str) -> None:
        if set(columns) != set(self.unique):
            raise Undecidable(f"it is decided by other columns than {', '.join(self.unique)}", field=field)

    def _name(self, value: object, column: str, field: str) -> str:
        text = self._text(value, column, field)
        if text is None:
            raise Undecidable(f"it has no {column}, so its row is not known", field=field)
        return text

    def _text(self, value: object, column: str, field: str) -> str | None:
        kind = known(self.columns, column, field).kind
        try:
            text = told(kind, value)
            if text is not None:
                comparable(kind, text)
        except ValueError:
            raise Undecidable(f"its {column} is a value that PostgreSQL may read otherwise", field=field) from None
        return text

    def _comparable(self, column: str, text: str, field: str) -> Any:
        try:
            return comparable(known(self.columns, column, field).kind, text)
        except ValueError:
            raise Undecidable(f"{column} has a value that PostgreSQL may read otherwise", field=field) from None

    def identity(self, texts: Mapping[str, str | None]) -> Identity:
        """Return which row this is. texts: of a remote row."""
        return tuple(self._comparable(column, texts[column] or "", self.destination.name) for column in self.unique)

    # ---------------------------------------------------------------------------------------- applying

    def applied(self, base: Row | None, changes: Iterable[Change], *, alone: bool = False) -> Row | None:
        """Return the row after `changes`; None: there is none. Raises Undecidable.

        alone: the remote end was not asked, so an upsert without `base` may still meet an existing row.
        """
        row = base
        for change in changes:
            match change.operation:
                case Operation.INSERT:
                    row = self._inserted(change) if row is None else row
                case Operation.UPSERT:
                    row = self._inserted(change, partial=alone) if row is None else self._merged(row, change)
                case Operation.UPDATE:
                    row = None if row is None else self._merged(row, change)
        return row

    def foreseen(self, changes: Sequence[Change]) -> Row | None:
        """Return the row as far as its place needs it, if that depends on no remote row; None: it does.

        For inserts alone: if there is a remote row, the insert has no effect, and the result is not used.
        """
        if all(change.operation is Operation.INSERT for change in changes):
            return self.applied(None, changes)
        row = Row({}, {}, partial=True)
        for change in changes:
            row = row if change.operation is Operation.INSERT else self._merged(row, change)
        return row if row.texts.keys() >= set(self.compared) else None

    def stays(self, changes: Sequence[Change]) -> bool:
        """Return whether `changes` leave a remote row in its place, and create none."""
        moving = set(self.compared) - set(self.unique)
        return all(each.operation is Operation.UPDATE and moving.isdisjoint(each.numbered) for each in changes)

    def _inserted(self, change: Change, *, partial: bool = False) -> Row:
        texts: dict[str, object] = {}
        for column in self.compared:
            default = UNKNOWN if partial else known(self.columns, column, column).default
            texts[column] = default if default is None or default is UNKNOWN else _default_text(default)
        return self._merged(Row({}, texts, partial), change)

    def _merged(self, row: Row, change: Change) -> Row:
        texts = dict(row.texts)
        for column in self.compared:
            if column in change.numbered:
                texts[column] = self._text(change.numbered[column], column, self.destination.name)
        texts |= dict(zip(self.unique, change.names, strict=True))
        return Row({**row.values, **change.values}, texts, row.partial)

    # ---------------------------------------------------------------------------------------- deciding

    def check(self, query: Query) -> None:
        """Raise Undecidable if `query` cannot be decided here as PostgreSQL would, whatever the rows."""
        query.names()
        for condition in query.conditions:
            condition.check(self.columns)
        for term in query.order:
            if known(self.columns, term.column, "order").kind not in ORDERED:
                raise Undecidable(f"the order of {term.column} is a matter of the server's collation", field="order")

    def holds(self, query: Query, row: Row) -> bool:
        """Return whether `row` is one that `query` asks for."""
        return all(
            condition.holds(self.columns, _certain(row.texts[condition.column], condition.column))
            for condition in query.conditions
        )

    def place(self, query: Query, texts: Mapping[str, object]) -> tuple[Any, ...]:
        """Return what a row is ordered by; None: null."""
        found = [(term.column, _certain(texts[term.column], term.column)) for term in query.order]
        return tuple(None if text is None else self._comparable(column, text, "order") for column, text in found)

    def shown(self, query: Query, row: Row) -> dict[str, Any]:
        """Return what `query` selects of a row, its values as they were put."""
        names = query.names()
        if names is None:
            return dict(row.values)
        return {name: row.values[name] if name in row.values else self._filled_in(row, name) for name in names}

    def _filled_in(self, row: Row, name: str) -> object:
        column = self.columns.get(name)
        if row.partial or column is None or column.default is UNKNOWN:
            raise Undecidable("a row does not have it yet, and what it has there is not known here", field=name)
        return column.default


def table(destination: Destination, columns: Columns, query: Query) -> Table:
    """Return what `query` needs to know of its table."""
    unique = destination.unique
    asked = [*unique, *(each.column for each in query.conditions), *(term.column for term in query.order)]
    return Table(destination, columns, unique, tuple(dict.fromkeys(asked)))


def in_order(terms: Sequence[Term]) -> Callable[[tuple[Any, ...]], Any]:
    """Return a key for `sorted` over what `Table.place` returns."""

    def compare(left: tuple[Any, ...], right: tuple[Any, ...]) -> int:
        for term, mine, theirs in zip(terms, left, right, strict=True):
            if mine == theirs:
                continue
            # PostgreSQL treats null as greater than everything.
            greater = mine is None or (theirs is not None and mine > theirs)
            return -1 if greater is term.descending else 1
        return 0

    return cmp_to_key(compare)


def _with_numbers(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text, parse_float=Number, parse_int=Number)
    return found


def _default_text(default: object) -> str:
    return json.dumps(default) if not isinstance(default, str) else default


def _certain(text: object, column: str) -> str | None:
    if text is UNKNOWN:
        raise Undecidable("a row has the server's value there, which is not known here", field=column)
    assert text is None or isinstance(text, str)
    return text
