"""Reads the pages of a SQLite file and its -wal one by one, without the b-tree.

Pure functions over bytes (sqlite.org/fileformat2.html). Damage raises nothing here: what is impossible is left out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from outbox.entry import Operation, State
from outbox.prepare import digest
from outbox.store.files import WAL_MAGIC

WAL_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
_MAGIC = b"SQLite format 3\0"
_SIZES = tuple(1 << power for power in range(9, 17))
_LEAF, _KINDS = 0x0D, {0x02: 12, 0x05: 12, 0x0A: 8, 0x0D: 8}  # b-tree pages, and how long their headers are
_WORD = 0xFFFF_FFFF
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}

# The columns of the table `outbox` in the order in which they are stored; later migrations append theirs.
LAYOUT = (
    "seq", "id", "destination", "operation", "state", "key", "payload", "on_conflict", "match", "lane", "waits",
    "attempts", "next_attempt_at_ms", "refused_since_ms", "created_at_ms", "settled_at_ms", "error_status",
    "error_code", "error_message", "error_details", "error_hint", "source", "digest", "if_exists",
)  # fmt: skip
_FIRST_LAYOUT = LAYOUT.index("digest") + 1
_NUMBERS = {"lane", "attempts", *(name for name in LAYOUT if name.endswith(("_ms", "_status")))}
_TEXTS = frozenset(LAYOUT) - _NUMBERS - {"seq"}
_OPERATIONS, _STATES = frozenset(map(str, Operation)), frozenset(map(str, State))
# These two are neighbours in each row of the table and hardly anywhere else.
_LANDMARK = re.compile(f"(?:{'|'.join(_OPERATIONS)})(?:{'|'.join(_STATES)})".encode())
# What may precede the operation in a cell: three varints, 25 types of at most 9 bytes, id and destination.
_REACH = 4 * (200 + 63) + 9 * 28

Page = Callable[[int], bytes]  # a page by its number; empty: there is none


class Cell(NamedTuple):
    """One row of the table, as far as its own page tells. start: where it begins; record: its content."""

    seq: int
    state: str
    start: int
    record: _Record


class _Record(NamedTuple):
    """A row's content. start, body: where it and its first value begin; size: with overflow; kinds: of its values."""

    rowid: int
    start: int
    body: int
    size: int
    kinds: tuple[int, ...]

    def local(self, usable: int) -> int:
        """Return how much of it is on its own page, which has `usable` bytes (section 1.6 of the format)."""
        if self.size <= usable - 35:
            return self.size
        least = (usable - 12) * 32 // 255 - 23
        local = least + (self.size - least) % (usable - 4)
        return local if local <= usable - 35 else least


class Frame(NamedTuple):
    """A page in the -wal. current: in the log's last round; sound: its checksum is right; ends: ends a transaction."""

    page: int
    at: int
    current: bool
    sound: bool
    ends: bool


def page_bytes(begin: bytes, wal_begin: bytes) -> int:
    """Return the page size: as the file says, or its -wal, or else the size at which the bytes look like pages."""
    if begin[:16] == _MAGIC and (size := _page_bytes(int.from_bytes(begin[16:18], "big"))):
        return size
    if wal_begin[:4] in WAL_MAGIC and (size := _page_bytes(int.from_bytes(wal_begin[8:12], "big"))):
        return size

    def likely(size: int) -> int:
        frame = FRAME_HEADER_BYTES + size
        there = [begin[at : at + size] for at in range(size, len(begin), size)]
        there += [
            wal_begin[at : at + frame][FRAME_HEADER_BYTES:] for at in range(WAL_HEADER_BYTES, len(wal_begin), frame)
        ]
        return size * sum(pointers(page) is not None for page in there)

    # A larger size looks about as likely, since each of its pages begins with a real one.
    scores = {size: likely(size) for size in _SIZES}
    return next(size for size in _SIZES if 10 * scores[size] >= 7 * max(scores.values()))


def _page_bytes(said: int) -> int:
    said = 1 << 16 if said == 1 else said
    return said if said in _SIZES else 0


# ----------------------------------------------------------------------------------------------------- the -wal


def frames(read: Callable[[int, int], bytes], size: int) -> list[Frame]:
    """Return the pages of a -wal in order. read: returns a number of bytes from a position; size: of a page.

    Each checksum continues from the stored one before it, so one damaged frame does not cost those behind it.
    """
    header = read(0, WAL_HEADER_BYTES)
    order = ">" if header[:4] == WAL_MAGIC[1] else "<"
    salts = header[16:24] if header[:4] in WAL_MAGIC else None
    before, at, found = header[24:], WAL_HEADER_BYTES, list[tuple[Frame, bytes]]()
    while len(head := read(at, FRAME_HEADER_BYTES)) == FRAME_HEADER_BYTES:
        at += FRAME_HEADER_BYTES
        page = read(at, size)
        sound = len(page) == size and head[16:] == checksum(before, head[:8] + page, order)
        number, pages = struct.unpack(">II", head[:8])
        found.append((Frame(number, at, current=True, sound=sound, ends=pages > 0), head[8:16]))
        before, at = head[16:], at + size
        if salts is None and sound:
            salts = head[8:16]
    # Frames behind the last one of this round are left from an earlier round.
    last = max((n for n, (_, its_own) in enumerate(found) if its_own == salts), default=-1)
    return [frame._replace(current=n <= last) for n, (frame, _) in enumerate(found)]


def checksum(before: bytes, data: bytes, order: str) -> bytes:
    """Return the checksum of a frame whose predecessor has `before`; order: of the bytes in a word, as struct's."""
    if len(before) != 8:
        return b""
    one, two = struct.unpack(">II", before)
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & _WORD
        two = (two + second + one) & _WORD
    return struct.pack(">II", one, two)


# ------------------------------------------------------------------------------------------------ the free pages


class FreeList(NamedTuple):
    """Where the list of free pages begins and how many pages are free, as the first page says."""

    trunk: int
    pages: int


def free_list(first: bytes) -> FreeList | None:
    """Return what the first page says about free pages; None: it is damaged."""
    whole = first[:16] == _MAGIC and pointers(first, 100) is not None
    return FreeList(*struct.unpack(">II", first[32:40])) if whole else None


def trunk(page: bytes, count: int) -> tuple[int, list[int]] | None:
    """Return the next page of the list of free pages and the pages that `page` names; None: it is not in that list.

    count: how many pages the file has.
    """
    after, listed = struct.unpack(">II", page[:8]) if len(page) >= 512 else (count + 1, 0)
    if after > count or listed > len(page) // 4 - 2:
        return None
    named = list(struct.unpack(f">{listed}I", page[8 : 8 + 4 * listed]))
    return (after, named) if len(set(named)) == listed and all(1 < each <= count for each in named) else None


# ------------------------------------------------------------------------------------------------- pages and cells


def pointers(page: bytes, start: int = 0) -> list[int] | None:
    """Return where the cells of a b-tree page are; None: it is not such a page, or damaged."""
    if len(page) < 512 or page[start] not in _KINDS:
        return None
    cells, content = struct.unpack(">HH", page[start + 3 : start + 7])
    array = start + _KINDS[page[start]]
    if array + 2 * cells > (content or 1 << 16) or (content or 1 << 16) > len(page):
        return None
    places = list(struct.unpack(f">{cells}H", page[array : array + 2 * cells]))
    return places if all((content or 1 << 16) <= place <= len(page) - 4 for place in places) else None


def cells(page: bytes) -> tuple[list[Cell], bool]:
    """Return the table's rows on a page, and whether it is sound; if not, include rows whose pointers are lost."""
    places = pointers(page)
    if places is not None and page[0] != _LEAF and not _LANDMARK.search(page):
        return [], True
    here = {place: _record(page, place) for place in places or ()}
    sound = places is not None and page[0] == _LEAF and _is_whole(page, here)
    found = {place: cell for place, record in here.items() if (cell := _cell(page, place, record)) is not None}
    for landmark in () if sound else _LANDMARK.finditer(page):
        for place in range(landmark.start() - 1, max(0, landmark.start() - _REACH), -1):
            cell = cell_at(page, place)
            if cell is not None and cell.record.body + sum(map(_width, cell.record.kinds[:3])) == landmark.start():
                found[place] = cell
                break
    return list(found.values()), sound


def cell_at(page: bytes, place: int) -> Cell | None:
    """Return the table's row whose cell begins at `place`; None: none does."""
    return _cell(page, place, _record(page, place))


def _is_whole(page: bytes, records: Mapping[int, _Record | None]) -> bool:
    """Return whether cells, free blocks and fragments fill a leaf page, so that no pointer is missing."""
    at, _, content = struct.unpack(">HHH", page[1:7])
    used = page[7]
    for place, record in records.items():
        if record is None:
            return False
        local = record.local(len(page))
        used += max(4, record.start - place + local + (4 if local < record.size else 0))
    while 0 < at <= len(page) - 4 and used <= len(page):
        after, size = struct.unpack(">HH", page[at : at + 4])
        used, at = used + max(4, size), after
    return bool(used == len(page) - (content or 1 << 16))


def _cell(page: bytes, place: int, record: _Record | None) -> Cell | None:
    if record is None or not _FIRST_LAYOUT <= len(record.kinds) <= len(LAYOUT) + 8:
        return None
    if record.kinds[0] != 0 or not 0 < record.rowid < 1 << 62:
        return None
    state_at = record.body + sum(map(_width, record.kinds[:4]))
    state = page[state_at : state_at + _width(record.kinds[4])].decode("ascii", "replace")
    return Cell(record.rowid, state, place, record) if state in _STATES else None


def _record(page: bytes, place: int) -> _Record | None:
    """Return what a leaf cell at `place` says about its content; None: there is no cell."""
    try:
        size, at = _varint(page, place)
        rowid, start = _varint(page, at)
        length, at = _varint(page, start)
        if not 0 < length <= size or start + length > len(page):
            return None
        kinds, body = [], start + length
        while at < body:
            kind, at = _varint(page, at)
            kinds.append(kind)
    except IndexError:
        return None
    if at != body or 10 in kinds or 11 in kinds or length + sum(map(_width, kinds)) != size:
        return None
    return _Record(rowid, start, body, size, tuple(kinds))


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """Return a variable-length integer and where it ends. Raises IndexError: the page ends first."""
    value = 0
    for place in range(at, at + 8):
        byte = page[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    return value << 8 | page[at + 8], at + 9


def _width(kind: int) -> int:
    return (kind - 12) // 2 if kind >= 12 else 8 if kind == 7 else _INTEGER_BYTES.get(kind, 0)


# ------------------------------------------------------------------------------------------------------- the rows


def row_of(cell: Cell, page: bytes, other: Page) -> dict[str, Any] | None:
    """Return the row of a cell, by column, if it is what was put; other: reads the pages that it overflows to."""
    content = _content(cell.record, page, other)
    values, at = [], 0
    for kind in cell.record.kinds[: len(LAYOUT)]:
        raw, at = content[at : at + _width(kind)], at + _width(kind)
        try:
            values.append(_value(kind, raw))
        except (UnicodeDecodeError, struct.error):
            return None
    row = dict.fromkeys(LAYOUT) | dict(zip(LAYOUT, values, strict=False)) | {"seq": cell.seq}
    needed = ("id", "destination", "operation", "state", "payload", "attempts", "created_at_ms")
    typed = all(row[name] is None or isinstance(row[name], str) for name in _TEXTS) and all(
        row[name] is None or isinstance(row[name], int) for name in _NUMBERS
    )
    if not typed or any(row[name] is None for name in needed) or row["operation"] not in _OPERATIONS:
        return None
    return row if row["digest"] is None or is_as_put(row) else None


def is_as_put(row: dict[str, Any]) -> bool:
    """Return whether the digest says that what is to be sent is what was put."""
    columns = row["on_conflict"] if row["operation"] == Operation.UPSERT else None
    said = digest(row["destination"], row["operation"], row["key"], row["payload"], columns, row["match"])
    return bool(said == row["digest"])


def _content(record: _Record, page: bytes, other: Page) -> bytes:
    """Return the values of a row, including overflow pages."""
    local = record.local(len(page))
    end, left = record.start + local, record.size - local
    parts, after = [page[record.body : end]], int.from_bytes(page[end : end + 4], "big")
    while left > 0 and (next_page := other(after)):
        parts.append(next_page[4 : 4 + min(left, len(page) - 4)])
        left -= len(parts[-1])
        after = int.from_bytes(next_page[:4], "big")
    return b"".join(parts)


def _value(kind: int, raw: bytes) -> Any:
    if len(raw) != _width(kind):
        raise struct.error
    if kind in _INTEGER_BYTES:
        return int.from_bytes(raw, "big", signed=True)
    if kind >= 12:
        return raw.decode() if kind & 1 else raw
    return {0: None, 8: 0, 9: 1}.get(kind) if kind != 7 else struct.unpack(">d", raw)[0]
