"""Floor 2 · policy. What a read asks for, as a path, and what its answer means; no I/O, no clock, no dice.

Nothing that a caller passes can change a query's shape: names are checked against a pattern, values are
percent-encoded, and the few names that PostgREST keeps for itself are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from outbox.encoding import encode_value, identifier
from outbox.errors import InvalidEntry, InvalidQuery, RemoteError, Unreachable
from outbox.policy.shaping import RESERVED
from outbox.policy.verdicts import Failure, Reply, read_refusal

OPERATORS = frozenset({"eq", "gt", "gte", "lt", "lte"})
# What Supabase gives at most in one answer, unless the project says otherwise.
PAGE_ROWS = 1000

_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,62}"
_COLUMN = rf"{_NAME}(?:->>?(?:{_NAME}|[0-9]{{1,9}}))*"  # pnl, data->>reason, data->legs->0
_ITEM = rf"(?:{_NAME}:)?(?:\*|{_COLUMN})(?:::{_NAME})?"  # reason:data->>reason, pnl::text
_COLUMN_RE = re.compile(_COLUMN)
_SELECT_RE = re.compile(rf"{_ITEM}(?:,{_ITEM})*")
_PATH_RE = re.compile(rf"(?:rpc/)?{_NAME}(?:\?[!\"$-~]*)?")  # no "#": what follows it is never sent


@dataclass(frozen=True, slots=True)
class Query:
    """A read that has been checked. The fields are texts as they stand in the path."""

    table: str
    select: str
    filters: tuple[str, ...]
    order: tuple[str, ...]

    def shows(self, column: str) -> bool:
        """Whether each row of the answer holds `column` under its own name."""
        items = self.select.split(",")
        return ("*" in items or column in items) and not any(item.startswith(f"{column}:") for item in items)

    def path(self, *, limit: int, offset: int = 0, last: str | None = None) -> str:
        """Return the path of one page. last: the column that settles the order of rows which are equal in it."""
        order = list(self.order)
        if last is not None and not any(term.split(".")[0] == last for term in order):
            order.append(f"{last}.asc")
        parts = [f"select={self.select}", *self.filters]
        if order:
            parts.append(f"order={','.join(order)}")
        parts.append(f"limit={limit}")
        if offset:
            parts.append(f"offset={offset}")
        return f"{self.table}?{'&'.join(parts)}"


def asked(
    table: str, select: str = "*", filters: Mapping[str, object] | None = None, order: str | None = None
) -> Query:
    """Return the query. Raises InvalidQuery, which names the argument.

    select: columns, comma-separated. filters: column → value, or column → (operator, value); all of them hold.
    order: a column, with "-" in front for descending.
    """
    return Query(
        _table(table),
        _selected(select),
        tuple(_condition(column, wanted) for column, wanted in (filters or {}).items()),
        () if order is None else (_term(order),),
    )


def checked_limit(limit: int | None) -> int | None:
    """Return `limit` if it is None (everything) or a positive number. Raises InvalidQuery."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InvalidQuery("must be a positive number, or None for everything", field="limit")
    return limit


def checked_path(path: str) -> str:
    """Return `path` if it names a table or a function and, after a "?", printable ASCII. Raises InvalidQuery."""
    if not isinstance(path, str) or not _PATH_RE.fullmatch(path):
        raise InvalidQuery("must be table?parameters or rpc/function?parameters, percent-encoded", field="path")
    return path


def rows_of(path: str, outcome: Reply | Failure) -> list[dict[str, Any]]:
    """Return the rows that the answer to `path` holds. Raises Unreachable, RemoteError: never [] for a failure."""
    table = path.partition("?")[0]
    if isinstance(outcome, Failure):
        raise Unreachable(f"{table}: no answer ({outcome.value}); nothing was read")
    if not 200 <= outcome.status < 300:
        refusal = read_refusal(outcome)
        said = " ".join(word for word in (refusal.code, refusal.message) if word)
        raise RemoteError(
            f"{table}: HTTP {outcome.status}, {said}; nothing was read", status=outcome.status, code=refusal.code
        )
    try:
        rows = json.loads(outcome.body)
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        problem = "the answer does not come from PostgREST; nothing was read"
        raise RemoteError(f"{table}: HTTP {outcome.status}, {problem}", status=outcome.status)
    return rows


def _table(name: str) -> str:
    try:
        return identifier(name, field="table")
    except InvalidEntry:
        raise InvalidQuery("is no plain SQL identifier", field="table") from None


def _selected(select: str) -> str:
    text = re.sub(r"\s*,\s*", ",", select.strip()) if isinstance(select, str) else ""
    if not _SELECT_RE.fullmatch(text):
        raise InvalidQuery('must be "*" or a list of columns such as "symbol,pnl"', field="select")
    return quote(text, safe="*,:-")


def _term(order: str) -> str:
    text = order if isinstance(order, str) else ""
    return f"{_column(text.removeprefix('-'), 'order')}.{'desc' if text.startswith('-') else 'asc'}"


def _condition(column: str, wanted: object) -> str:
    name = _column(column, "filters")
    field = f"filters.{column}"
    if column in RESERVED:
        raise InvalidQuery("PostgREST has another meaning for a parameter of this name", field=field)
    if not isinstance(wanted, tuple):
        return f"{name}={_compared('eq', wanted, field)}"
    if len(wanted) != 2 or not isinstance(wanted[0], str) or wanted[0] not in OPERATORS:
        raise InvalidQuery(f"must be a value or (operator, value) with one of {_listed()}", field=field)
    return f"{name}={_compared(*wanted, field)}"


def _compared(operator: str, value: object, field: str) -> str:
    try:
        # Numbers stay the texts they are: a float would change a Decimal's digits.
        plain = json.loads(encode_value(value, where=field), parse_float=str, parse_int=str)
    except InvalidEntry as error:
        raise InvalidQuery(f"{type(value).__name__} cannot be compared", field=error.field) from None
    if isinstance(plain, dict | list):
        raise InvalidQuery("must be a single value", field=field)
    if plain is None:
        if operator != "eq":
            raise InvalidQuery(f"nothing is {operator} null; only eq finds it", field=field)
        return "is.null"
    text = json.dumps(plain) if isinstance(plain, bool) else plain
    return f"{operator}.{quote(text, safe='')}"


def _column(name: object, field: str) -> str:
    if not isinstance(name, str) or not _COLUMN_RE.fullmatch(name):
        raise InvalidQuery('must be a column such as "pnl" or "data->>reason"', field=field)
    return quote(name, safe="-")


def _listed() -> str:
    return ", ".join(sorted(OPERATORS))
