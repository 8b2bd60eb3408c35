"""Keyset pagination: each page begins where the last one ended, not at a row count; no I/O.

An offset counts rows anew for each page, and a row that is inserted meanwhile shifts all the others. Here each page
begins after the last row of the one before, given by its values in the order's columns. PostgreSQL itself renders those
values as text (`column::text`): no number or time loses a digit on the way there and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeAlias
from urllib.parse import quote

from outbox.errors import InvalidQuery, Undecidable
from outbox.ordering import RESERVED
from outbox.reads.query import Query, Term, encoded, quoted

Texts: TypeAlias = "Mapping[str, str | None]"


class Place(Enum):
    """Where a page begins if no row was read before it."""

    START = "the first row"
    NULLS = "the first row that has null in the first column of the order"


Position: TypeAlias = "Place | tuple[str | None, ...]"


@dataclass(frozen=True, slots=True)
class Walk:
    """A query's rows in a total order. terms: the last of them are unique and never null.

    texts: the columns whose texts come with each row, those of `terms` first. named: one more parameter, as `one_of`.
    """

    query: Query
    terms: tuple[Term, ...]
    texts: tuple[str, ...]
    named: str = ""

    def path(self, position: Position, *, limit: int, offset: int = 0) -> str:
        """Return the path of the page that begins `offset` rows after `position`."""
        aliases = [f"{_alias(number)}:{encoded(column)}::text" for number, column in enumerate(self.texts)]
        whole = replace(self.query, select=",".join([self.query.select, *aliases]), order=self.terms)
        path = whole.path(limit=limit, offset=offset)
        return "&".join(filter(None, [path, self.named, *self._behind(position)]))

    def taken(self, row: dict[str, Any]) -> Texts:
        """Remove the texts from a row of the answer and return them by column."""
        return {column: row.pop(_alias(number), None) for number, column in enumerate(self.texts)}

    def position(self, texts: Texts) -> tuple[str | None, ...]:
        """Return the position of a row with these texts."""
        return tuple(texts[term.column] for term in self.terms)

    def after_the_end(self, position: Position) -> Position | None:
        """Return where to continue once nothing is found after `position`; None: that was all."""
        first = self.terms[0]
        past_values = not isinstance(position, Place) and position[0] is not None
        if past_values and len(self.terms) > 1 and not first.descending:
            return Place.NULLS  # they come last, and no comparison finds them
        return None

    def _behind(self, position: Position) -> list[str]:
        if position is Place.START:
            return []
        if isinstance(position, Place):
            return [f"{encoded(self.terms[0].column)}=is.null"]
        return _parameters(self.terms, position)


def walk(query: Query, unique: Sequence[str], texts: Sequence[str] = ()) -> Walk:
    """Return the walk over a query's rows. unique: columns that no two rows share; texts: other columns wanted as text.

    Raises InvalidQuery: no walk can follow its order.
    """
    terms = query.ordered_by(unique)
    if (column := obstacle(query, unique)) is not None:
        raise InvalidQuery(f"pages cannot be told apart by {column!r}", field="order")
    columns = [term.column for term in terms]
    return Walk(query, terms, (*columns, *(column for column in texts if column not in columns)))


def obstacle(query: Query, unique: Sequence[str]) -> str | None:
    """Return the first column of the order that a page cannot continue from: a JSON path, or PostgREST's own name."""
    columns = (term.column for term in query.ordered_by(unique))
    return next((column for column in columns if "-" in column or column in RESERVED), None)


def check_distinct(positions: Sequence[tuple[str | None, ...]]) -> None:
    """Raise Undecidable if two rows of a page share a position: a page could end between them and lose one."""
    if len(set(positions)) < len(positions):
        problem = "two rows are equal in all of its columns; Outbox.register tells which columns are unique"
        raise Undecidable(problem, field="order")


def one_of(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the parameter that selects the rows with these values in `columns`."""
    if len(columns) == 1:
        listed = quote(",".join(quoted(values[0]) for values in rows), safe="")
        return f"{encoded(columns[0])}=in.({listed})"
    each = [
        f"and({','.join(f'{column}.eq.{quoted(value)}' for column, value in zip(columns, values, strict=True))})"
        for values in rows
    ]
    return f"or=({quote(','.join(each), safe='(),.')})"


def _alias(number: int) -> str:
    return f"outbox_text_{number}"


def _parameters(terms: Sequence[Term], values: Sequence[str | None]) -> list[str]:
    """Return the parameters that select the rows after `values`, such that an index on the first column serves them."""
    first, value = terms[0], values[0]
    name = encoded(first.column)
    if len(terms) == 1:
        return [f"{name}={_beyond(first)}.{quote(_unique(first, value), safe='')}"]
    if value is None and not first.descending:
        # Does not narrow the rest: these rows are read to their end, those with null in the next column included.
        rest = terms[1:], values[1:]
        return [f"{name}=is.null", *(_parameters(*rest) if len(terms) == 2 else [_tree(*rest)])]
    narrowed = [] if value is None else [f"{name}={_beyond(first)}e.{quote(value, safe='')}"]
    return [*narrowed, _tree(terms, values)]


def _tree(terms: Sequence[Term], values: Sequence[str | None]) -> str:
    branches = ",".join(_branches(terms, values))
    return f"or={quote(f'({branches})', safe='(),.')}"


def _branches(terms: Sequence[Term], values: Sequence[str | None]) -> list[str]:
    """Return conditions of which one must hold: the first column is beyond its value, or equal and the rest beyond."""
    (first, *rest), (value, *others) = terms, values
    name = first.column
    beyond: list[str] = []
    if value is None:
        beyond += [f"{name}.not.is.null"] if first.descending else []
    else:
        beyond.append(f"{name}.{_beyond(first)}.{quoted(value)}")
        beyond += [f"{name}.is.null"] if rest and not first.descending else []
    if not rest:
        _unique(first, value)
        return beyond
    equal = f"{name}.is.null" if value is None else f"{name}.eq.{quoted(value)}"
    inner = _branches(rest, others)
    behind = inner[0] if len(inner) == 1 else f"or({','.join(inner)})"
    return [*beyond, f"and({equal},{behind})"]


def _beyond(term: Term) -> str:
    return "lt" if term.descending else "gt"


def _unique(term: Term, value: str | None) -> str:
    if value is None:
        raise Undecidable(f"{term.column} is null, so it tells no row from another", field="order")
    return value
