"""Entries as an export writes them: SQLite builds the text of each from the stored values, unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outbox.forensics import queries
from outbox.store.reader import Reader
from outbox.store.selection import Selection

# The years 1 to 9999; a time put by a shell may be any number.
_FIRST_S, _LAST_S = -62_135_596_800, 253_402_300_799


def _utc(column: str) -> str:
    seconds = f"({column} - ({column} % 1000 + 1000) % 1000) / 1000"
    return f"strftime('%Y-%m-%dT%H:%M:%S+00:00', min(max({seconds}, {_FIRST_S}), {_LAST_S}), 'unixepoch')"


_FACTS = {
    **{name: name for name in ("seq", "id", "destination", "operation", "state", "key", "source")},
    **{name: _utc(f"{name}_ms") for name in ("created_at", "settled_at", "next_attempt_at")},
    **{name: name for name in ("waits", "attempts")},
}
_SAID = {name: f"error_{name}" for name in ("status", "code", "message", "details", "hint")}
_SENT = ("on_conflict", "match", "payload")
_CELLS = {**_FACTS, **{name: name for name in (*_SAID.values(), *_SENT)}}


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"'{name}', {value}" for name, value in values.items())


_ERROR = f"iif(coalesce({', '.join(_SAID.values())}) is null, null, json_object({_pairs(_SAID)}))"

# What a query may select: nothing, to count; a cell for each column; a JSON object that contains what is sent verbatim,
# so that a Decimal keeps its digits. Only the last brace of the object of facts is cut.
COUNTED = "null"
COLUMNS = tuple(_CELLS)
CELLS = ", ".join(_CELLS.values())
LINE = (
    f"rtrim(json_object({_pairs({**_FACTS, 'error': _ERROR, 'on_conflict': 'on_conflict'})}), '}}')"
    " || ',\"match\":' || coalesce(match, 'null') || ',\"payload\":' || payload || '}'"
)


async def page(
    reader: Reader, wanted: Selection, selected: str, *, after_seq: int, until_seq: int, rows: int
) -> tuple[list[Any], int | None]:
    """Read the next `rows` entries after `after_seq`; return `selected` for those wanted, and where to continue.

    selected: COUNTED, CELLS or LINE. Where to continue is None at the end.
    """
    bounds = (after_seq, until_seq)
    last = await reader.read(queries.PAGE_END.sql, (*bounds, rows))
    if last[0][0] is None:
        return [], None
    state = None if wanted.state is None else wanted.state.value
    found = await reader.read(queries.page(selected), (after_seq, last[0][0], state, state, *wanted.parameters()))
    return found, int(last[0][0])
