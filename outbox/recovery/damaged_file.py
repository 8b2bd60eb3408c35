"""A damaged outbox file, read around its damage: by queries first, then page by page (carve.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from outbox.entry import LaneSpec
from outbox.errors import StoreError
from outbox.recovery import probe
from outbox.recovery.carve import CarvedFile, inside, without
from outbox.store import database, files

_COLUMNS = (
    "seq", "id", "destination", "operation", "state", "key", "payload", "on_conflict", "match", "lane", "attempts",
    "created_at_ms", "settled_at_ms", "error_status", "error_code", "error_message", "error_details", "error_hint",
    "source", "digest", "refused_since_ms", "if_exists",
)  # fmt: skip
SESSION = (
    "source", "session_id", "status", "start_time", "day_start", "last_heartbeat", "initial_balance",
    "current_balance", "symbols", "version",
)  # fmt: skip
HISTORY = "at_ms, event, status, code, message, batch_rows, request_id"
# One transaction of the open outbox each, so that the bot's puts come in between.
_PAGE = 200
# Each damaged page costs some dozen failures; a table whose root is damaged must not be asked for every number.
_MOST_FAILURES = 100_000
_LISTED_IDS = 1_000


@dataclass(frozen=True, slots=True)
class FoundEntry:
    """One entry of the damaged file. row: its columns by name; spec: its lane's, if readable.

    carved: whether only its page knew of it; doubt: why, in that case, it must not simply be sent.
    """

    row: dict[str, Any]
    spec: LaneSpec | None
    history: list[Sequence[Any]]
    carved: bool = False
    doubt: str | None = None


class DamagedFile:
    """A damaged file, read around its damage. Synchronous: run it in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None  # None: it cannot be queried
        self._columns, self._last, self._lanes, self._has_history = list[str](), 0, dict[int, LaneSpec](), False
        with contextlib.ExitStack() as opening:
            self._carved = opening.enter_context(contextlib.closing(CarvedFile(path)))
            why: object = "no entry is in it"
            try:
                if files.file_bytes(path):  # SQLite would remove the -wal of an empty one
                    self._open_for_queries(opening)
            except database.SqliteError as error:
                self._file, why = None, error
            if "payload" not in self._columns and not self._carved.seqs():
                raise StoreError(f"nothing can be read in {path}: {why}; it was not changed", path=path)
            self._open = opening.pop_all()

    def _open_for_queries(self, opening: contextlib.ExitStack) -> None:
        immutable = not files.wal_path(self._path).exists()
        self._file = opening.enter_context(probe.reading(self._path, immutable=immutable))
        self._file.text_factory = database.readable
        there = self._columns_of("outbox")
        self._columns = [name for name in _COLUMNS if name in there]  # a file of an older version has fewer
        self._last = self._last_seq()
        self._lanes = self._specs()
        self._has_history = bool(self._columns_of("outbox_history"))  # a file of the second version has none

    def _columns_of(self, table: str) -> set[str]:
        """Return the names of a table's columns; empty: this file has no such table."""
        return {str(row[1]) for row in self._file.execute(f"pragma table_info({table})").fetchall()}

    def close(self) -> None:
        self._open.close()

    def _asked(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any] | None:
        """Return the rows of a query; None: damage prevents it."""
        if self._file is None:
            return None
        try:
            return list(self._file.execute(sql, parameters).fetchall())
        except database.SqliteError as error:
            if database.classify_error(error) in database.DAMAGE:
                return None
            raise database.named(error, self._path) from error

    def _last_seq(self) -> int:
        """Return the highest number from any readable source: the counter, the table's end, or an index."""
        ways = (
            "select seq from sqlite_sequence where name = 'outbox'",
            "select max(seq) from outbox not indexed",
            "select max(seq) from outbox indexed by sqlite_autoindex_outbox_1",
        )
        found = [rows[0][0] for way in ways if (rows := self._asked(way)) and isinstance(rows[0][0], int)]
        return max(found, default=0)

    def _specs(self) -> dict[int, LaneSpec]:
        rows = self._asked("select lane, destination, operation, on_conflict, columns, ordered from outbox_lanes")
        return {number: LaneSpec.of(spec) for number, *spec in rows or ()}

    def project(self) -> tuple[str | None, bool]:
        """Return the project that the entries belong to (None: none yet), and whether damage hides it."""
        rows = self._asked("select value from outbox_meta where name = 'project'")
        name = str(rows[0][0]) if rows else None
        damaged = rows is None or (name is not None and "\N{REPLACEMENT CHARACTER}" in name)
        return None if damaged else name, damaged

    def sessions(self) -> list[Sequence[Any]] | None:
        """Return the sessions that were running, as `SESSION`; None: damage hides them."""
        if self._file is not None and not self._columns_of("outbox_sessions"):  # a file of the first version
            return []
        return self._asked(f"select {', '.join(SESSION)} from outbox_sessions where status = 'RUNNING'")  # noqa: S608

    def pages(self, unreadable: list[tuple[int, int]]) -> Iterator[list[FoundEntry]]:
        """Yield unsettled entries, oldest first: those that queries find, then those that only their page knows of.

        unreadable: receives the ranges of numbers of which neither says anything.
        """
        seen, seqs = set[int](), self._carved.seqs()
        for page in self._queried(unreadable):
            seen.update(entry.row["seq"] for entry in page)
            yield page
        # In an undamaged table, what looks like an old copy of an entry is one.
        carved = self._carved.rows(seen, doubtful=self._carved.damaged or bool(unreadable) or not self._last)
        known_last = max(self._last, *seqs[-1:], 0)
        unreadable[:] = without([*unreadable, (self._last + 1, known_last)], seqs)
        while page := [self._found_entry(row, carved=True, doubt=doubt) for row, doubt in islice(carved, _PAGE)]:
            yield page

    def _queried(self, unreadable: list[tuple[int, int]]) -> Iterator[list[FoundEntry]]:
        """Yield what queries find; halve each unreadable range until only the damage is left."""
        names = ", ".join(self._columns)
        sql = (
            f"select {names} from outbox not indexed where seq between ? and ?"  # noqa: S608 - our own columns
            " and state in ('pending', 'dead') order by seq limit ?"
        )
        ranges, failures = [(1, self._last)] if self._last else [], 0
        while ranges:
            first, last = ranges.pop()
            rows = self._asked(sql, (first, last, _PAGE))
            if rows is None or not _ascending([first - 1, *(row[0] for row in rows), last + 1]):
                failures += 1
                if first == last or failures > _MOST_FAILURES:
                    note(unreadable, first, last)
                else:
                    middle = (first + last) // 2
                    ranges += [(middle + 1, last), (first, middle)]
                continue
            if rows:
                yield [self._found_entry(dict(zip(self._columns, row, strict=True))) for row in rows]
            if len(rows) == _PAGE and rows[-1][0] < last:
                ranges.append((rows[-1][0] + 1, last))

    def _found_entry(self, row: dict[str, Any], *, carved: bool = False, doubt: str | None = None) -> FoundEntry:
        row = {name: row[name] for name in _COLUMNS if name in row}
        sql = f"select {HISTORY} from outbox_history where seq = ? order by number"  # noqa: S608 - our own columns
        lines = self._asked(sql, (row["seq"],)) if self._has_history else None
        return FoundEntry(row, self._lanes.get(row["lane"]), lines or [], carved, doubt)

    def ids_within(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return the ids of unreadable entries that an index still holds."""
        sql = "select id, seq from outbox indexed by sqlite_autoindex_outbox_1 where id > '' order by id"
        ids: list[str] = []
        if self._file is None or not ranges:
            return ids
        try:
            for its_id, seq in self._file.execute(sql):
                if inside(ranges, seq) and len(ids) < _LISTED_IDS:
                    ids.append(str(its_id))
        except database.SqliteError as error:
            if database.classify_error(error) not in database.DAMAGE:
                raise database.named(error, self._path) from error
        return ids


def _ascending(numbers: Sequence[int]) -> bool:
    return all(one < two for one, two in pairwise(numbers))


def note(ranges: list[tuple[int, int]], first: int, last: int) -> None:
    if ranges and ranges[-1][1] + 1 == first:
        ranges[-1] = (ranges[-1][0], last)
    else:
        ranges.append((first, last))
