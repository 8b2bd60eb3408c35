"""What a read asks for, as a path and as a test of one row, and what its answer means; no I/O, no clock, no randomness.

Nothing that a caller passes can change a query's spec: names are checked against a pattern, values are
percent-encoded and, where PostgREST has syntax of its own inside them, quoted. The few names that PostgREST reserves
are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import eq, ge, gt, le, lt, ne
from typing import Any
from urllib.parse import quote

from outbox.columns import NAME, ORDERED, Columns, Comparable, Kind, comparable, identifier, known
from outbox.encoding import encode_value
from outbox.errors import InvalidEntry, InvalidQuery, OutboxError, RemoteError, Undecidable, Unreachable
from outbox.ordering import RESERVED

COLUMN = rf"{NAME}(?:->>?(?:{NAME}|[0-9]{{1,9}}))*"  # pnl, data->>reason, data->legs->0
_COLUMN_RE = re.compile(COLUMN)

# The most rows that Supabase returns in one answer, unless the project sets another limit.
PAGE_ROWS = 1000

_ITEM = rf"(?:{NAME}:)?(?:\*|{COLUMN})(?:::{NAME})?"  # reason:data->>reason, pnl::text
_SELECT_RE = re.compile(rf"{_ITEM}(?:,{_ITEM})*")
_PLAIN_RE = re.compile(rf"\*|{NAME}(?:,{NAME})*")


@dataclass(frozen=True, slots=True)
class Term:
    """One column of an order. Nulls sort as in PostgreSQL: last, and first if descending."""

    column: str
    descending: bool = False

    def __str__(self) -> str:
        return f"{encoded(self.column)}.{'desc' if self.descending else 'asc'}"


@dataclass(frozen=True, slots=True)
class Query:
    """A read that has been checked. select: as in the path."""

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
        """Return the order, made total by the columns `last`: terms after all of them are dropped."""
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
    table: str, select: str = "*", filters: Mapping[str, object] | None = None, order: str | Sequence[str] | None = None
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
    """Raise InvalidQuery unless each of `limit`, `offset` and `page` is a whole number in its range."""
    for field, value in given.items():
        least, problem = _NUMBERS[field]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidQuery(problem, field=field)


_AWAY = frozenset({402, 408, 429})
# PostgreSQL or its pool is unavailable: no connection, out of resources, shutting down.
_AWAY_CODES = ("PGRST000", "PGRST001", "PGRST002", "PGRST003", "08", "53", "57P")


def is_away(error: RemoteError) -> bool:
    """Return whether the remote end as a whole is away, as opposed to refusing this query."""
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

    Attributes:
        REMOTE: Supabase.
        LOCAL: What this outbox has put and still holds, delivered or pending.
        MERGED: Supabase, overlaid with what is pending: a bot sees what it has just written.
    """

    REMOTE = "remote"
    LOCAL = "local"
    MERGED = "merged"


def chosen_source(source: str | ReadSource) -> ReadSource:
    """Return the member that `source` is or names.

    Raises:
        InvalidQuery: It names none.
    """
    try:
        return ReadSource(source)
    except ValueError:
        listed = ", ".join(repr(each.value) for each in ReadSource)
        raise InvalidQuery(f"must be one of {listed}", field="source") from None


class Rows(list[dict[str, Any]]):
    """The rows of a read, and how complete they are.

    Attributes:
        source: Where they are from.
        complete: False if the remote end may have more of them.
        error: Why a merged read had to make do with local rows, or None.
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


# ------------------------------------------------------------------------------------------ filters


class Operator(StrEnum):
    """How a column is compared; the members are PostgREST's own words."""

    EQ = "eq"
    NEQ = "neq"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    IN = "in"
    IS = "is"
    LIKE = "like"
    ILIKE = "ilike"


OPERATORS = frozenset(Operator)
_BY_ORDER = frozenset({Operator.GT, Operator.GTE, Operator.LT, Operator.LTE})
_PATTERNS = frozenset({Operator.LIKE, Operator.ILIKE})
# How a row's value is compared with each of the filter's, of which one must do; `Condition.check` refuses the others.
_TESTS: Mapping[str, Callable[[Any, Any], bool]] = {
    Operator.EQ: eq, Operator.IN: eq, Operator.NEQ: ne,
    Operator.GT: gt, Operator.GTE: ge, Operator.LT: lt, Operator.LTE: le,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """One filter. values: texts as PostgreSQL reads them, one unless the operator is `in`. negated: not that."""

    column: str
    operator: Operator
    values: tuple[str, ...]
    negated: bool = False

    @property
    def parameter(self) -> str:
        """What stands in the URL."""
        not_ = "not." if self.negated else ""
        if self.operator is Operator.IN:
            listed = quote(",".join(map(quoted, self.values)), safe="")
            return f"{encoded(self.column)}={not_}in.({listed})"
        return f"{encoded(self.column)}={not_}{self.operator}.{quote(self.values[0], safe='')}"

    @property
    def field(self) -> str:
        """What an error names."""
        return f"filters.{self.column}"

    def check(self, columns: Columns) -> None:
        """Raise Undecidable if this cannot be decided here as PostgreSQL would, whatever the row."""
        kind = known(columns, self.column, self.field).kind
        if self.operator in _PATTERNS:
            raise Undecidable(f"{self.operator} is the server's to decide", field=self.field)
        if self.operator in _BY_ORDER and kind not in ORDERED:
            raise Undecidable("the order of texts is a matter of the server's collation", field=self.field)
        if self.operator is Operator.IS:
            if self.values[0] != "null" and kind is not Kind.BOOLEAN:
                raise Undecidable(f"a {kind} is never {self.values[0]}", field=self.field)
            return
        for value in self.values:
            _compared_as(kind, value, self.field)

    def holds(self, columns: Columns, text: str | None) -> bool:
        """Return whether the condition holds for a row with `text` in the column (None: null). Raises Undecidable."""
        if self.operator is Operator.IS:
            found = text is None if self.values[0] == "null" else text == self.values[0]
            return found is not self.negated
        if text is None:
            return False  # SQL's unknown
        kind = columns[self.column].kind
        test, mine = _TESTS[self.operator], _compared_as(kind, text, self.field)
        return any(test(mine, _compared_as(kind, value, self.field)) for value in self.values)


def conditions(filters: Mapping[str, object] | None) -> tuple[Condition, ...]:
    """Return the conditions in `filters`; all must hold. Raises InvalidQuery, which names the column."""
    return tuple(found for column, wanted in (filters or {}).items() for found in _of_column(column, wanted))


def column_name(name: object, field: str) -> str:
    """Return `name` if it is a column or a path into a JSON column. Raises InvalidQuery."""
    if not isinstance(name, str) or not _COLUMN_RE.fullmatch(name):
        raise InvalidQuery('must be a column such as "pnl" or "data->>reason"', field=field)
    return name


def encoded(column: str) -> str:
    """Return a column's name encoded for a URL."""
    return quote(column, safe="-")


_BARE_RE = re.compile(r"(?!null\Z)[A-Za-z0-9_-]+", re.IGNORECASE)


def quoted(value: str) -> str:
    """Return `value` quoted, so that PostgREST reads no comma, parenthesis or dot in it as syntax."""
    if _BARE_RE.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# ------------------------------------------------------------------------------------------ what is asked


def _of_column(column: str, wanted: object) -> Iterable[Condition]:
    name = column_name(column, "filters")
    if name in RESERVED:
        raise InvalidQuery("PostgREST has another meaning for a parameter of this name", field=f"filters.{name}")
    several = isinstance(wanted, list) and bool(wanted) and all(isinstance(each, tuple) for each in wanted)
    for each in wanted if several and isinstance(wanted, list) else [wanted]:
        yield _condition(name, each, f"filters.{name}")


def _condition(column: str, wanted: object, field: str) -> Condition:
    if not isinstance(wanted, tuple):
        return _single(column, Operator.EQ, wanted, field)
    if len(wanted) != 2 or not isinstance(wanted[0], str) or wanted[0] not in OPERATORS:
        listed = ", ".join(sorted(OPERATORS))
        raise InvalidQuery(f"must be a value or (operator, value) with one of {listed}", field=field)
    operator, value = Operator(wanted[0]), wanted[1]
    if operator is not Operator.IN:
        return _single(column, operator, value, field)
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise InvalidQuery("in takes a list of values", field=field)
    texts = [_text(each, field) for each in value]
    if any(text is None for text in texts):
        raise InvalidQuery('null is in no list; ("is", None) finds it', field=field)
    return Condition(column, operator, tuple(text for text in texts if text is not None))


def _single(column: str, operator: Operator, value: object, field: str) -> Condition:
    if operator is Operator.IS and not (value is None or isinstance(value, bool)):
        raise InvalidQuery("is takes None, True or False", field=field)
    text = _text(value, field)
    if text is None:
        if operator not in (Operator.EQ, Operator.NEQ, Operator.IS):
            raise InvalidQuery(f"nothing is {operator} null; only eq, neq and is find it", field=field)
        return Condition(column, Operator.IS, ("null",), negated=operator is Operator.NEQ)
    if operator in _PATTERNS and "*" in text:
        # PostgREST turns each into a wildcard, and has no way to escape one.
        raise InvalidQuery('PostgREST reads "*" as "%"; write "%" for any characters', field=field)
    return Condition(column, operator, (text,))


def _text(value: object, field: str) -> str | None:
    """Return a value as PostgreSQL reads it from a URL; None: null."""
    try:
        # Numbers keep their text: a float would change a Decimal's digits.
        plain = json.loads(encode_value(value, where=field), parse_float=str, parse_int=str)
    except InvalidEntry as error:
        raise InvalidQuery(f"{type(value).__name__} cannot be compared", field=error.field) from None
    if isinstance(plain, dict | list):
        raise InvalidQuery("must be a single value", field=field)
    return json.dumps(plain) if isinstance(plain, bool) else plain


# ------------------------------------------------------------------------------------------ what is answered


def _compared_as(kind: Kind, text: str, field: str) -> Comparable:
    try:
        return comparable(kind, text)
    except ValueError:
        raise Undecidable(f"a value that PostgreSQL may read otherwise as {kind}", field=field) from None
