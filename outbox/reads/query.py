"""What a read asks for, as a path, and what its answer means; no I/O, no clock, no dice.

Nothing that a caller passes can change a query's spec: see `conditions`. The few names that PostgREST keeps for
itself are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from outbox.encoding import NAME, identifier
from outbox.errors import InvalidEntry, InvalidQuery, OutboxError, RemoteError, Undecidable, Unreachable
from outbox.reads.filters import COLUMN, Condition, column_name, conditions, encoded

# What Supabase gives at most in one answer, unless the project says otherwise.
PAGE_ROWS = 1000

_ITEM = rf"(?:{NAME}:)?(?:\*|{COLUMN})(?:::{NAME})?"  # reason:data->>reason, pnl::text
_SELECT_RE = re.compile(rf"{_ITEM}(?:,{_ITEM})*")
_PLAIN_RE = re.compile(rf"\*|{NAME}(?:,{NAME})*")


@dataclass(frozen=True, slots=True)
class Term:
    """One column of an order. Nulls stand where PostgreSQL puts them: last, and first if descending."""

    column: str
    descending: bool = False

    def __str__(self) -> str:
        return f"{encoded(self.column)}.{'desc' if self.descending else 'asc'}"


@dataclass(frozen=True, slots=True)
class Query:
    """A read that has been checked. select: as it stands in the path."""

    table: str
    select: str
    conditions: tuple[Condition, ...]
    order: tuple[Term, ...]

    def shows(self, column: str) -> bool:
        """Whether each row of the answer holds `column` under its own name."""
        items = self.select.split(",")
        return ("*" in items or column in items) and not any(item.startswith(f"{column}:") for item in items)

    def names(self) -> tuple[str, ...] | None:
        """Return the columns of each row of the answer; None: all. Raises Undecidable: it asks for more."""
        if not _PLAIN_RE.fullmatch(self.select):
            raise Undecidable("renaming and casting is the server's to do", field="select")
        return None if self.select == "*" else tuple(self.select.split(","))

    def ordered_by(self, last: Sequence[str]) -> tuple[Term, ...]:
        """Return the order, settled by the columns `last`: behind all of them nothing is left to order."""
        terms: dict[str, Term] = {}
        for term in (*self.order, *map(Term, last)):
            if not last or not terms.keys() >= set(last):
                terms.setdefault(term.column, term)
        return tuple(terms.values())

    def path(self, *, limit: int, offset: int = 0, last: Sequence[str] = ()) -> str:
        """Return the path of one page; `last` as `ordered_by`."""
        parts = [f"select={self.select}", *(condition.parameter for condition in self.conditions)]
        if order := self.ordered_by(last):
            parts.append(f"order={','.join(map(str, order))}")
        parts.append(f"limit={limit}")
        if offset:
            parts.append(f"offset={offset}")
        return f"{self.table}?{'&'.join(parts)}"


def asked(
    table: str,
    select: str = "*",
    filters: Mapping[str, object] | None = None,
    order: str | Sequence[str] | None = None,
) -> Query:
    """Return the query. Raises InvalidQuery, which names the argument.

    select: columns, comma-separated. filters: column → value, column → (operator, value), or column → a list of the
    latter; all of them hold. order: a column or several, with "-" in front for descending.
    """
    terms = () if order is None else (order,) if isinstance(order, str) else tuple(order)
    return Query(_table(table), _selected(select), conditions(filters), tuple(map(_term, terms)))


_NUMBERS = {
    "limit": (1, "must be a positive number, or None for everything"),
    "offset": (0, "must be a number, 0 or more"),
    "page": (1, "must be a positive number of rows"),
}


def check_numbers(**given: int) -> None:
    """Raise InvalidQuery unless each of `limit`, `offset` and `page` is a whole number that it can be."""
    for field, value in given.items():
        least, problem = _NUMBERS[field]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidQuery(problem, field=field)


_AWAY = frozenset({402, 408, 429})
# PostgreSQL or its pool is not there: no connection, out of resources, shutting down.
_AWAY_CODES = ("PGRST000", "PGRST001", "PGRST002", "PGRST003", "08", "53", "57P")


def is_away(error: RemoteError) -> bool:
    """Return whether the remote end as a whole did not answer, and not this query was refused."""
    if isinstance(error, Unreachable):
        return True
    if error.code is not None and (error.code == "" or error.code.startswith(_AWAY_CODES)):
        return True  # "": PostgreSQL died under PostgREST
    by_gateway = error.code is None or not re.fullmatch(r"PGRST[0-9A-Z]{1,3}|[0-9A-Z]{5}", error.code)
    return by_gateway and error.status is not None and (error.status >= 500 or error.status in _AWAY)


def _table(name: str) -> str:
    try:
        return identifier(name, field="table")
    except InvalidEntry:
        raise InvalidQuery("is not a plain SQL identifier", field="table") from None


def _selected(select: str) -> str:
    text = re.sub(r"\s*,\s*", ",", select.strip()) if isinstance(select, str) else ""
    if not _SELECT_RE.fullmatch(text):
        raise InvalidQuery('must be "*" or a list of columns such as "symbol,pnl"', field="select")
    return quote(text, safe="*,:-")


def _term(order: object) -> Term:
    text = order if isinstance(order, str) else ""
    return Term(column_name(text.removeprefix("-"), "order"), text.startswith("-"))


class ReadSource(StrEnum):
    """Where rows are read.

    remote: Supabase. local: what this outbox has put and still holds, delivered or pending. merged: Supabase, with
    what is pending laid over it: a bot sees what it has just written.
    """

    REMOTE = "remote"
    LOCAL = "local"
    MERGED = "merged"


def chosen_source(source: str | ReadSource) -> ReadSource:
    """Return the member that `source` is or names. Raises InvalidQuery."""
    try:
        return ReadSource(source)
    except ValueError:
        listed = ", ".join(repr(each.value) for each in ReadSource)
        raise InvalidQuery(f"must be one of {listed}", field="source") from None


class Rows(list[dict[str, Any]]):
    """The rows of a read, and what they are worth.

    source: where they are from. complete: False if the remote end may have more of them. error: why a merged read
    had to make do with local rows, or None.
    """

    __slots__ = ("complete", "error", "source")

    def __init__(
        self,
        rows: Iterable[dict[str, Any]] = (),
        *,
        source: ReadSource = ReadSource.REMOTE,
        error: OutboxError | None = None,
    ) -> None:
        super().__init__(rows)
        self.source: ReadSource = source
        self.complete: bool = source is not ReadSource.LOCAL
        self.error: OutboxError | None = error
