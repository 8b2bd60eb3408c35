"""Entries that are found page by page, in a database and its -wal, where no b-tree leads to them any more.

The newest committed copy of each page counts; if it is damaged, the one before. What the newest copies say of an entry
is certain: an entry delivered there is skipped, whatever an older copy says. Of two copies of an entry the newer one
counts; of two on one damaged page, the pending one.

An entry is in doubt if it is found only in an older copy, on a damaged page, in an unfinished transaction, or in a
file that does not say which pages are free. It may have been delivered since. Sending an insert again is harmless:
the server recognizes its id. An upsert or update might revert a later change, so it becomes a dead letter, for a
person to decide. So does what a shell has put and no flusher has read yet: without a digest, nothing proves that it is
whole.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from outbox.entry import Operation, State
from outbox.recovery import pages
from outbox.recovery.pages import Cell
from outbox.store import files

_SAMPLE_BYTES = 1 << 20
_KEPT_PAGES = 64
_UNSETTLED = (State.PENDING, State.DEAD)

_DOUBTFUL = "salvaged: it may have been delivered before the damage; outbox requeue sends it"
_UNPROVEN = "salvaged: it has no digest, so that nothing proves that it is whole; outbox requeue sends it"


class _Copy(NamedTuple):
    """One copy of a page. settled: its transaction was committed."""

    in_wal: bool
    at: int
    sound: bool
    settled: bool


class _Place(NamedTuple):
    """Where an entry is stored, and whether that is certain to be current."""

    copy: _Copy
    start: int
    certain: bool


class CarvedFile:
    """The pages of a damaged file. Synchronous: run it in a thread. A disk error counts as damage, too.

    damaged: whether a page of the table is damaged, even if queries skip it without an error.
    Raises UnsafePath: it is not a regular file.
    """

    def __init__(self, path: Path) -> None:
        files.refuse_odd_files(path)
        self._open = contextlib.ExitStack()
        self._main = self._opened(path)
        self._wal = self._opened(files.wal_path(path))
        self._size = pages.page_bytes(_read(self._main, 0, _SAMPLE_BYTES), _read(self._wal, 0, _SAMPLE_BYTES))
        self._copies = self._all_copies()
        self._newest = lru_cache(_KEPT_PAGES)(self._newest_of)
        self.damaged: bool = False
        self._places: dict[int, _Place] = {}
        self._settled: set[int] = set()
        self._maybe_settled: dict[int, tuple[int, _Copy]] = {}
        self._look()

    def _opened(self, path: Path) -> IO[bytes] | None:
        try:
            return self._open.enter_context(path.open("rb"))
        except OSError:
            return None

    def close(self) -> None:
        self._open.close()

    def seqs(self) -> list[int]:
        """Return the numbers of all entries found, settled or not, in ascending order."""
        return sorted(self._settled | self._maybe_settled.keys() | self._places.keys())

    def rows(self, beside: set[int], *, doubtful: bool) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Yield rows by column, oldest first, each with what keeps it from being sent; None: nothing does.

        beside: numbers already known, which are skipped. doubtful: include entries in doubt.
        """
        for seq, place in sorted(self._places.items()):
            wanted = seq not in beside and (place.certain or doubtful)
            row = self._row(place, self._bytes(place.copy)) if wanted else None
            if row is not None:
                yield row, _objection(row, certain=place.certain)

    def _row(self, place: _Place, page: bytes) -> dict[str, Any] | None:
        cell = pages.cell_at(page, place.start)
        return pages.row_of(cell, page, self._newest) if cell is not None else None

    # ---------------------------------------------------------------------------------------- which copy of a page

    def _all_copies(self) -> dict[int, list[_Copy]]:
        """Return the copies of each page, newest first: the -wal's last round, the database, older rounds."""
        size, now, before = self._size, defaultdict[int, list[_Copy]](list), defaultdict[int, list[_Copy]](list)
        frames = pages.frames(lambda at, count: _read(self._wal, at, count), size)
        last = max((n for n, frame in enumerate(frames) if frame.current and frame.ends), default=-1)
        for n, frame in reversed(list(enumerate(frames))):
            into = now if frame.current else before
            into[frame.page].append(_Copy(True, frame.at, frame.sound, n <= last or not frame.current))
        there = -(-_end(self._main) // size)
        main = {number: [_Copy(False, (number - 1) * size, True, True)] for number in range(1, there + 1)}
        numbers = sorted({*now, *main, *before})
        return {number: now.get(number, []) + main.get(number, []) + before.get(number, []) for number in numbers}

    def _bytes(self, copy: _Copy) -> bytes:
        return _read(self._wal if copy.in_wal else self._main, copy.at, self._size).ljust(self._size, b"\0")

    def _newest_of(self, number: int) -> bytes:
        copies = [copy for copy in self._copies.get(number, ()) if copy.settled]
        best = next((copy for copy in copies if copy.sound), copies[0] if copies else None)
        return self._bytes(best) if best is not None else b""

    def _free(self) -> tuple[set[int], bool]:
        """Return the free pages, whose rows are old copies, and whether the list is complete."""
        count = max(self._copies, default=0)
        free, said = set[int](), pages.free_list(self._newest_of(1))
        number = said.trunk if said is not None else 0
        while number and number not in free and (part := pages.trunk(self._newest_of(number), count)) is not None:
            free |= {number, *part[1]}
            number = part[0]
        if said is not None and len(free) == said.pages:
            return free, True
        # Collect every page that looks like a part of the list, although no chain leads to it.
        for number in self._copies:
            part = pages.trunk(self._newest_of(number), count)
            free |= {number, *part[1]} if part is not None and part[1] else set()
        return free, False

    # --------------------------------------------------------------------------------------- which copy of an entry

    def _look(self) -> None:
        free, all_known = self._free()
        count = max(self._copies, default=0)
        for number in self._copies.keys() - free - {1}:
            certain = all_known
            for copy in self._copies[number]:
                page = self._bytes(copy)
                cells, sound = pages.cells(page)
                # Not an overflow page, which begins with another page's number: it may end in old bytes.
                odd = bool(cells) and not sound and int.from_bytes(page[:4], "big") > count
                self.damaged = self.damaged or odd
                sound = sound and copy.sound and copy.settled
                for cell in cells:
                    self._take(number, page, cell, _Place(copy, cell.start, certain and sound))
                if sound:
                    break
                certain = certain and not copy.settled
        for seq in self._settled & self._places.keys():
            del self._places[seq]

    def _take(self, number: int, page: bytes, cell: Cell, place: _Place) -> None:
        known, maybe = self._places.get(cell.seq), self._maybe_settled.get(cell.seq)
        if cell.state not in _UNSETTLED:
            if place.certain:
                self._settled.add(cell.seq)
            elif known is None:
                self._maybe_settled[cell.seq] = number, place.copy
            return
        overruled = maybe is not None and maybe[0] == number and maybe[1] != place.copy
        better = (place.certain and not known.certain) if known is not None else (place.certain or not overruled)
        if better and self._row(place, page) is not None:
            self._places[cell.seq] = place


def inside(ranges: Sequence[tuple[int, int]], number: int) -> bool:
    """Return whether one of the sorted `ranges` holds `number`."""
    at = bisect_right(ranges, number, key=lambda each: each[0]) - 1
    return at >= 0 and number <= ranges[at][1]


def without(ranges: Sequence[tuple[int, int]], numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return `ranges` without `numbers`, which are sorted."""
    left = []
    for first, last in ranges:
        for number in numbers[bisect_left(numbers, first) : bisect_right(numbers, last)]:
            if first < number:
                left.append((first, number - 1))
            first = number + 1
        if first <= last:
            left.append((first, last))
    return left


def _objection(row: dict[str, Any], *, certain: bool) -> str | None:
    if row["digest"] is None:
        return _UNPROVEN
    return None if certain or row["operation"] == Operation.INSERT else _DOUBTFUL


def _read(file: IO[bytes] | None, at: int, count: int) -> bytes:
    if file is None:
        return b""
    try:
        file.seek(at)
        return file.read(count)
    except OSError:
        return b""


def _end(file: IO[bytes] | None) -> int:
    return file.seek(0, 2) if file is not None else 0
