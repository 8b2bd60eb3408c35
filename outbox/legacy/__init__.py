"""Imports what the old persistence module's three kinds of file still hold.

`pending_uploads.json` becomes entries, `.session_state.json` the session to recover, `cache/*_bars.json` cached bars.
What cannot be read is reported with its place and kept. A file is renamed once all of it is on disk here; after an
earlier crash the work is repeated, and the ids, derived from each item's content, prevent duplicates.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from outbox.bot import queries
from outbox.bot.bar_text import bar_time_ms, encoded
from outbox.bot.session_state import Session, figure, midnight, names, stored
from outbox.encoding import decode, encode_value
from outbox.entry import Operation
from outbox.errors import IdConflict, InvalidEntry, InvalidRequest
from outbox.legacy.fragments import EMPTY, NO_UTF8, NOT_UTF8, Piece, Window, members, pieces
from outbox.legacy.old_text import OldText, Unreadable
from outbox.legacy.report import Found, Left, LegacyReport, OldFile
from outbox.outbox import Outbox
from outbox.store.files import file_bytes
from outbox.threads import in_thread
from outbox.transaction import Transaction

__all__ = ["Left", "LegacyReport", "OldFile", "checked_folder", "import_legacy", "old_files"]

PENDING, STATE, CACHE, BARS = "pending_uploads.json", ".session_state.json", "cache", "_bars.json"

# The namespace of the ids: an arbitrary number that must not change.
_IDS = UUID("0d6b5a52-6c0e-5f0c-9d0b-6a3f6f7f2b11")
# Items in one transaction: other puts wait behind it, and each takes at most a millisecond. Its time limit only catches
# what hangs: a machine at load 49 needed over 3 s.
_CHUNK = 200
_LIMIT_S = 60.0
# How often to reread a file that the old bot changes meanwhile.
_TRIES = 5


Progress = Callable[[int, int], object]


async def import_legacy(
    outbox: Outbox, folder: str | os.PathLike[str], *, source: str | None = None, progress: Progress = lambda *_: None
) -> LegacyReport:
    """Import what the old module left in `folder`, rename its files to `….imported`, and report on each.

    Call it once at a bot's start, before its session starts: a second call finds nothing. What is not imported is in
    `….unread` beside the file. Other errors as `Outbox.transaction`: what was imported before stays, and another call
    continues from there.

    Args:
        outbox: Receives the content.
        folder: The old module's.
        source: Whose session it is; else the settings' `source`.
        progress: Called with the bytes done and the bytes in all.

    Raises:
        InvalidRequest: `folder` is not a folder.
    """
    home = await in_thread(checked_folder, folder)
    whose = (outbox.source or "") if source is None else source
    paths = await in_thread(old_files, home)
    sizes = await in_thread(lambda: [file_bytes(path) for path in paths])
    files = []
    for number, path in enumerate(paths):
        before = sum(sizes[:number])
        files.append(await _moved(outbox, path, whose, lambda done, before=before: progress(before + done, sum(sizes))))  # type: ignore[misc]
        progress(sum(sizes[: number + 1]), sum(sizes))
    return LegacyReport(tuple(files))


def checked_folder(folder: str | os.PathLike[str]) -> Path:
    """Return `folder` as a path. Raises InvalidRequest: it is not a folder."""
    home = Path(folder)
    if not home.is_dir():
        raise InvalidRequest(f"{home} is not a folder", field="folder")
    return home


def old_files(home: Path) -> list[Path]:
    """Return the old module's files that are in the folder `home`."""
    there = [home / PENDING, home / STATE, *sorted((home / CACHE).glob(f"?*{BARS}"))]
    return [path for path in there if path.is_file()]


async def _moved(outbox: Outbox, path: Path, source: str, progress: Callable[[int], object]) -> OldFile:
    """Import what one file holds, and rename it unless it has changed meanwhile."""
    taken = known = 0
    left: list[Left] = []
    for _ in range(_TRIES):
        found, text = Found(), OldText(path)
        try:
            await _take(outbox, path, found, text, source, progress)
        except Unreadable as error:
            return OldFile(path, taken + found.taken, found.known, (_whole(f"it cannot be read: {error}"),))
        taken, known = taken + found.taken, max(0, found.known - taken)
        left = sorted(found.left, key=lambda each: each.byte)
        try:
            moved = await in_thread(text.rename, left)
        except OSError as error:
            return OldFile(path, taken, known, (*left, _whole(f"it cannot be renamed: {error.strerror}")))
        if moved is not None:
            return OldFile(path, taken, known, tuple(left), *moved)
    return OldFile(path, taken, known, (*left, _whole("it keeps changing: stop the old bot first")))


def _whole(why: str) -> Left:
    return Left(0, 1, 0, f"{why}; it stays as it is, and can be taken again")


async def _take(
    outbox: Outbox, path: Path, found: Found, text: OldText, source: str, progress: Callable[[int], object]
) -> None:
    if path.name == PENDING:
        await _take_pending(outbox, found, Window(text), progress)
    elif path.name == STATE:
        await _take_session(outbox, found, await in_thread("".join, text), source)
    else:
        await _take_bars(outbox, found, Window(text), path.name.removesuffix(BARS))


# ------------------------------------------------------------------------------------------ pending_uploads.json


@dataclass(frozen=True, slots=True)
class _Item:
    piece: Piece
    value: Mapping[str, Any]
    id: str


async def _take_pending(outbox: Outbox, found: Found, text: Window, progress: Callable[[int], object]) -> None:
    items = _items(found, text)
    while chunk := await in_thread(lambda: list(islice(items, _CHUNK))):  # some 20 µs each
        async with outbox.transaction(limit_s=_LIMIT_S) as tx:
            results = [await _put(outbox, tx, item) for item in chunk]
        for item, result in zip(chunk, results, strict=True):
            if isinstance(result, str):
                found.leave(item.piece.start, item.piece.end, result)
            else:
                found.taken += result
                found.known += not result
        progress(chunk[-1].piece.end.byte)


def _items(found: Found, text: Window) -> Iterator[_Item]:
    """Yield the readable items. Two equal ones were two writes: each gets an id of its own."""
    seen: Counter[bytes] = Counter()
    for piece in _readable(found, text, _is_item):
        assert piece.value is not None
        try:
            canonical = encode_value(piece.value, where="item")
        except InvalidEntry as error:
            found.leave(piece.start, piece.end, _reason(error))
            continue
        short = blake2b(canonical.encode(), digest_size=8).digest()  # a million of them are no more than 100 MB
        yield _Item(piece, piece.value, str(uuid5(_IDS, f"{seen[short]} {canonical}")))
        seen[short] += 1


def _readable(found: Found, text: Window, wanted: Callable[[Mapping[str, Any]], bool]) -> Iterator[Piece]:
    for piece in pieces(text, wanted):
        if piece.value is None:
            found.leave(piece.start, piece.end, piece.problem)
        else:
            yield piece


def _is_item(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("table"), str) and isinstance(value.get("data"), dict)


async def _put(outbox: Outbox, tx: Transaction, item: _Item) -> bool | str:
    """Return whether the item is new here, or why it cannot be put."""
    table, row = item.value["table"], dict(item.value["data"])
    operation = item.value.get("operation", Operation.INSERT)
    try:
        declared = outbox.destination(table)
        if table == "events" and "data" in row:
            row["data"] = _event_data(row["data"])
        upsert = operation == Operation.UPSERT
        own = operation == Operation.INSERT and row.get(declared.key) is not None
        receipt = await tx.put(
            table,
            row,
            operation=operation,
            id=None if own else item.id,
            # As in `SessionManager`: the session's end must not overtake its start.
            key=row.get("session_id") if table == "sessions" and operation == Operation.INSERT else None,
            on_conflict=(declared.on_conflict or (declared.key,)) if upsert else None,
            match=item.value.get("match") if operation == Operation.UPDATE else None,
        )
    except (InvalidEntry, IdConflict) as error:
        return _reason(error)
    return not receipt.duplicate


def _event_data(data: object) -> object:
    """Return an event's data as an object; the old module wrote it as text."""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(data, str) and isinstance(read := decode(data), dict):
            return read
    return data


def _reason(error: Exception) -> str:
    return str(error).removesuffix("; nothing was written")


# ------------------------------------------------------------------------------------------ .session_state.json


async def _take_session(outbox: Outbox, found: Found, text: str, source: str) -> None:
    """Store the session that the old bot left running, so that `start_session` recovers it."""
    state, end = members(text)
    window = Window([text])
    window.grow()
    start, stopped, over = (window.place(position) for position in (0, end, len(text)))
    if not text.strip():
        found.leave(start, over, EMPTY)
        return
    if NOT_UTF8.search(text):
        found.leave(start, over, NO_UTF8)
        return
    if text[end:].strip():
        taken = f"; taken before: {', '.join(state)}" if state else ""
        found.leave(stopped, over, f"the state is cut short{taken}")
    # The file exists only while a session runs; losing its end changes nothing.
    if state.get("status", "RUNNING") != "RUNNING":
        return
    try:
        session = _session(state)
    except (InvalidEntry, ValueError) as error:
        found.leave(start, over, f"no session to recover: {_reason(error)}")
        return
    async with outbox.transaction() as tx:
        known = await tx.execute(queries.KNOWN.sql, (source,))
        if not known:
            await tx.execute(queries.SAVE.sql, (*stored(session), source, "RUNNING", None, None))
    if not known:
        found.taken += 1
    elif known[0][0] == session.session_id:
        found.known += 1
    else:
        why = (
            f"source {source!r} has a session of its own already, {known[0][0]} ({known[0][1]}); this one was not taken"
        )
        found.leave(start, over, why)


def _session(state: Mapping[str, Any]) -> Session:
    """Return the session. Raises InvalidEntry, ValueError: it has no id or time, or a value has the wrong type."""
    session_id = state.get("session_id")
    if not isinstance(session_id, str) or not session_id:
        raise InvalidEntry("is missing", field="session_id")
    times = [_time(state.get(name), name) for name in ("start_time", "last_heartbeat")]
    start, last = times[0] or times[1], times[1] or times[0]
    if start is None or last is None:
        raise InvalidEntry("is missing, and so is last_heartbeat", field="start_time")
    return Session(
        session_id=session_id,
        start_time=start,
        day_start=midnight(last),
        last_heartbeat=last,
        initial_balance=figure(state.get("initial_balance"), "initial_balance"),
        current_balance=figure(state.get("current_balance"), "current_balance"),
        symbols=names(state.get("symbols") or ()),
        version=1,
    )


def _time(value: object, field: str) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidEntry("is not a string", field=field)
    moment = datetime.fromisoformat(value)
    try:
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise InvalidEntry("is outside of the years 1 to 9999 in UTC", field=field) from None


# ------------------------------------------------------------------------------------------ cache/*_bars.json


async def _take_bars(outbox: Outbox, found: Found, text: Window, symbol: str) -> None:
    """Store the bars that are not cached yet: what the bot has cached since is newer."""
    rows = await in_thread(_bars, found, text)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        async with outbox.transaction() as tx:
            new = len(await tx.execute(queries.NEW_BARS.sql, (symbol, json.dumps(chunk))))
        found.taken += new
        found.known += len(chunk) - new


def _bars(found: Found, text: Window) -> list[tuple[int, str]]:
    """Return the readable bars, each with its time in Unix milliseconds."""
    bars: dict[int, str] = {}
    for piece in _readable(found, text, lambda value: True):
        try:
            time, bar = bar_time_ms(piece.value, "bar"), encoded(piece.value, "bar")
        except InvalidEntry as error:
            found.leave(piece.start, piece.end, _reason(error))
            continue
        found.known += time in bars  # of two with the same time the later one counts
        bars[time] = bar
    return list(bars.items())
