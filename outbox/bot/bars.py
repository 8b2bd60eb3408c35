"""`LocalStorage`: the bot's cached price bars in the same file, and the old pending-file methods.

Bars are rows of `outbox_bars`, one per symbol, timeframe and time; they are never sent. Reads and writes run in small
chunks, each its own transaction or query: 100,000 bars hold up neither the event loop nor a put.
"""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from array import array
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Any, Literal, NoReturn, overload

from outbox.bot import queries
from outbox.bot.bar_text import FOREVER_MS, bar_time_ms, decoded, encoded, time_ms
from outbox.bot.records import check_outbox, moment
from outbox.entry import Operation, StoredEntry
from outbox.errors import InvalidEntry, UsageError
from outbox.outbox import Outbox
from outbox.store.receipts import Receipt
from outbox.threads import in_thread

Time = datetime | str | float

# A bar on the encoder's careful path costs some 20 µs: 2 ms at once.
ENCODE_BARS = 100
# Merely yielding to the event loop keeps the interpreter busy, and the writer's thread must wait for Python's switch
# interval of 5 ms at each step: with sleep(0) a put took up to 320 ms, with a real pause under 10 ms.
_REST_S = 0.001
# A put that waits behind one chunk waits some 5 ms and a sync.
WRITE_BARS = 1000
READ_BARS = 500
# How many bars become one frame at a time: some 15 ms of a thread, and small beside the result.
_FRAME_BARS = 10_000
# `save_pending` commits all or nothing, so its transaction gets this much more time for each item.
_LIMIT_S, _ITEM_S = 2.0, 0.005


class LocalStorage:
    """Caches price bars; shows what is pending.

    A bar is a mapping with its time under `time`, `timestamp`, `time_utc` or `datetime`, the first one present: an
    aware datetime, an ISO 8601 text (without a zone: UTC), or Unix time in seconds (from 1e11 on: milliseconds).
    `timeframe` is the caller's own name, such as "H1", for a bot that has more than one per symbol.

    Raises:
        UsageError: `outbox` is not an Outbox.
    """

    def __init__(self, outbox: Outbox) -> None:
        check_outbox(outbox, "LocalStorage")
        self._outbox = outbox

    # ------------------------------------------------------------------------------------------ bars

    async def cache_bars(self, symbol: str, bars: Iterable[Mapping[str, Any]], timeframe: str = "") -> int:
        """Store bars, each replacing the one with the same symbol, timeframe and time; return how many.

        Others stay until `prune_bars`. Do not change `bars` until this returns.

        Raises:
            InvalidEntry: A bar cannot be stored; the error names it. Nothing was written.
            StoreError: Earlier chunks may be stored; caching all bars again is safe.
        """
        _check_series(symbol, timeframe)
        count = 0
        for times, packed in await _as_texts(bars):
            rows = [
                (symbol, timeframe, *each)
                for each in zip(times, zlib.decompress(packed).decode().split("\n"), strict=True)
            ]
            async with self._outbox.transaction() as tx:
                await tx.executemany(queries.UPSERT_BAR.sql, rows)
            count += len(rows)
        return count

    @overload
    async def load_cached_bars(
        self,
        symbol: str,
        timeframe: str = "",
        *,
        start: Time | None = None,
        end: Time | None = None,
        last: int | None = None,
        as_frame: Literal[False] = False,
    ) -> list[dict[str, Any]]: ...

    @overload
    async def load_cached_bars(
        self,
        symbol: str,
        timeframe: str = "",
        *,
        start: Time | None = None,
        end: Time | None = None,
        last: int | None = None,
        as_frame: bool,
    ) -> Any: ...

    async def load_cached_bars(
        self,
        symbol: str,
        timeframe: str = "",
        *,
        start: Time | None = None,
        end: Time | None = None,
        last: int | None = None,
        as_frame: bool = False,
    ) -> Any:
        """Return the cached bars, oldest first; [] if there are none, never on failure.

        Values come back in their JSON form: a datetime as text.

        Args:
            symbol: Whose bars.
            timeframe: As in `cache_bars`.
            start: Only bars from this time on, given as in a bar.
            end: Only bars before this time.
            last: Only this many, the newest.
            as_frame: As a pandas DataFrame with a column for each field, some 8 bytes a number where a list of dicts
                takes a kilobyte a bar.

        Raises:
            InvalidEntry: An argument cannot be used.
            StoreError: The file cannot be read.
            UsageError: pandas is not installed.
        """
        _check_series(symbol, timeframe)
        low = -FOREVER_MS if start is None else time_ms(start, "start")
        high = FOREVER_MS if end is None else time_ms(end, "end")
        left = sys.maxsize if last is None else _count(last, "last")
        pages = self._pages((symbol, timeframe), low, high, left, newest_first=last is not None)
        if as_frame:
            return await _framed(pages, newest_first=last is not None)
        bars = [bar async for page in pages for bar in page]
        return bars if last is None else bars[::-1]

    async def _pages(
        self, series: tuple[str, str], low: int, high: int, left: int, *, newest_first: bool
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield the bars from `low` to before `high`, page by page, `left` of them at most."""
        query = queries.NEWEST_FIRST if newest_first else queries.OLDEST_FIRST
        while left > 0:
            limit = min(left, READ_BARS)
            rows = await self._outbox.read_local(query.sql, (*series, low, high, limit))
            yield decoded([text for _, text in rows])
            if len(rows) < limit:
                return
            left -= limit
            low, high = (low, rows[-1][0]) if newest_first else (rows[-1][0] + 1, high)

    async def prune_bars(
        self,
        symbol: str | None = None,
        timeframe: str | None = None,
        *,
        older_than: timedelta | Time | None = None,
        keep_last: int | None = None,
    ) -> int:
        """Remove cached bars by age, by count, or by both; return how many.

        Args:
            symbol: Only bars of this symbol; None: of all.
            timeframe: Only bars of this timeframe; None: of all.
            older_than: An age or a time.
            keep_last: This many of each series stay, the newest.

        Raises:
            InvalidEntry: Neither `older_than` nor `keep_last` is given, or one cannot be used. Nothing was removed.
            StoreError: What was removed before stays removed; do the rest again.
        """
        if older_than is None and keep_last is None:
            raise InvalidEntry("give older_than or keep_last", field="prune_bars")
        oldest_ms = self._cutoff_ms(older_than)
        kept = None if keep_last is None else _count(keep_last, "keep_last")
        removed = 0
        for each in await self._outbox.read_local(queries.SERIES.sql, (symbol, timeframe)):
            before_ms = max(oldest_ms, await self._nth_newest_ms(each, kept))
            removed += await self._prune(each, before_ms)
        return removed

    def _cutoff_ms(self, older_than: timedelta | Time | None) -> int:
        if older_than is None:
            return -FOREVER_MS
        if isinstance(older_than, timedelta):
            return time_ms(moment(self._outbox.clock.now_ms()) - older_than, "older_than")
        return time_ms(older_than, "older_than")

    async def _nth_newest_ms(self, series: tuple[Any, ...], number: int | None) -> int:
        """Return the time of the bar before which all may be removed."""
        if number is None:
            return -FOREVER_MS
        if number == 0:
            return FOREVER_MS
        rows = await self._outbox.read_local(queries.NTH_NEWEST.sql, (*series, number - 1))
        return int(rows[0][0]) if rows else -FOREVER_MS

    async def _prune(self, series: tuple[Any, ...], before_ms: int) -> int:
        removed = 0
        while True:
            async with self._outbox.transaction() as tx:
                gone = len(await tx.execute(queries.PRUNE_BARS.sql, (*series, *series, before_ms, WRITE_BARS)))
            removed += gone
            if gone < WRITE_BARS:
                return removed

    # ------------------------------------------------------------------------------------------ the old pending file

    async def save_pending(self, data: Sequence[Mapping[str, Any]]) -> list[Receipt]:
        """Put all items or none; other errors as `Outbox.transaction`.

        Durable on return; the flusher sends them, so there is nothing to load and resend.

        Args:
            data: Each {'table': …, 'data': …, 'operation': "insert" or "upsert"}. Without declared conflict
                columns an upsert is decided by the table's key column, or by the item's 'on_conflict'.

        Raises:
            InvalidEntry: An item cannot be stored; the error names it. Nothing was written.
        """
        puts = [self._as_put(item, f"data[{number}]") for number, item in enumerate(data)]
        async with self._outbox.transaction(limit_s=_LIMIT_S + _ITEM_S * len(puts)) as tx:
            return [
                await tx.put(table, row, operation=operation, on_conflict=on_conflict, id=own)
                for table, row, operation, on_conflict, own in puts
            ]

    def _as_put(self, item: object, where: str) -> tuple[str, object, Any, Any, object]:
        if not isinstance(item, Mapping):
            raise InvalidEntry(f"must be a mapping, not {type(item).__name__}", field=where)
        for name in ("table", "data"):
            if item.get(name) is None:
                raise InvalidEntry("is missing", field=f"{where}.{name}")
        operation, on_conflict = item.get("operation", Operation.INSERT), item.get("on_conflict")
        if operation == Operation.UPSERT and on_conflict is None:
            on_conflict = self._outbox.destination(item["table"]).unique
        return item["table"], item["data"], operation, on_conflict, item.get("id")

    async def load_pending(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Return what is pending, or the `limit` oldest of it, to look at: table, data, operation, id, timestamp.

        An insert's `data` holds its id, as it will be sent. Do not put it again: the flusher sends it, and an
        insert put again would raise IdConflict. Reads the whole backlog.

        Raises:
            StoreError: The file cannot be read.
        """
        return [self._as_item(entry) for entry in await self._outbox.pending_entries(limit)]

    def _as_item(self, entry: StoredEntry) -> dict[str, Any]:
        data = json.loads(entry.payload)
        if entry.operation is Operation.INSERT:
            data.setdefault(self._outbox.destination(entry.destination).key, entry.id)
        item = {
            "table": entry.destination,
            "data": data,
            "operation": entry.operation.value,
            "timestamp": moment(entry.created_at_ms).isoformat(),
            "id": entry.id,
        }
        if entry.match is not None:
            item["match"] = json.loads(entry.match)
        return item

    def clear_pending(self) -> NoReturn:
        """Refuse: an entry leaves when it is delivered, or by an operator's `outbox discard` with a reason.

        Raises:
            UsageError: Always. Nothing was removed.
        """
        raise UsageError(
            "clear_pending does nothing: entries leave the outbox when they are delivered; nothing was removed."
            " Drop the call; to give up an entry that Supabase refuses, use `outbox discard`"
        )


async def _framed(pages: AsyncIterator[list[dict[str, Any]]], *, newest_first: bool) -> Any:
    """Return the bars of `pages` as a DataFrame, oldest first: a million are never a million dicts.

    Raises UsageError: pandas is not installed.
    """
    try:
        import pandas  # type: ignore[import-untyped]
    except ImportError:
        problem = "as_frame needs pandas: python3 -m pip install pandas; nothing was read"
        raise UsageError(problem) from None
    bars, frames = list[dict[str, Any]](), list[Any]()
    async for page in pages:
        bars += page
        if len(bars) >= _FRAME_BARS:
            frames.append(await in_thread(pandas.DataFrame, bars))
            bars = []
    if bars:
        frames.append(await in_thread(pandas.DataFrame, bars))
    return await in_thread(_joined, pandas, frames, newest_first)


def _joined(pandas: Any, frames: list[Any], newest_first: bool) -> Any:
    names = dict.fromkeys(name for frame in frames for name in frame)
    whole = pandas.DataFrame({name: _column(pandas, frames, name) for name in names})
    return whole.iloc[::-1].reset_index(drop=True) if newest_first else whole


def _column(pandas: Any, frames: list[Any], name: str) -> Any:
    """Join one column, and release its parts: a part that is all null or missing takes the kind of the others."""
    parts = [frame.pop(name) if name in frame else pandas.Series(index=frame.index) for frame in frames]
    empty = [bool(part.isna().all()) for part in parts]
    if not all(empty):
        parts = [part.astype("float64") if void else part for part, void in zip(parts, empty, strict=True)]
    return pandas.concat(parts, ignore_index=True)


async def _as_texts(bars: Iterable[Mapping[str, Any]]) -> list[tuple[Sequence[int], bytes]]:
    """Return the bars in chunks of `WRITE_BARS`: their times, and their texts, one a line, compressed.

    Encodes all before the first is written: an invalid one must leave nothing behind. A million bars are 150 MB of text
    and 40 MB compressed. Yields to the event loop every `ENCODE_BARS` bars. Raises InvalidEntry.
    """
    if isinstance(bars, Mapping | str) or hasattr(bars, "iterrows"):  # a pandas table: its .to_dict("records") is one
        raise InvalidEntry(f"must be a list of mappings, not a {type(bars).__name__}", field="bars")
    chunks: list[tuple[Sequence[int], bytes]] = []
    waiting = enumerate(bars)
    while first := next(waiting, None):
        times, texts = array("q"), list[str]()
        for number, bar in chain([first], islice(waiting, WRITE_BARS - 1)):
            times.append(bar_time_ms(bar, f"bars[{number}]"))
            texts.append(encoded(bar, f"bars[{number}]"))
            if len(texts) % ENCODE_BARS == 0:
                await asyncio.sleep(_REST_S)
        chunks.append((times, await in_thread(zlib.compress, "\n".join(texts).encode(), 1)))
    return chunks


def _check_series(symbol: str, timeframe: str) -> None:
    if not isinstance(symbol, str) or not symbol:
        raise InvalidEntry("must be a string", field="symbol")
    if not isinstance(timeframe, str):
        raise InvalidEntry("must be a string", field="timeframe")


def _count(value: int, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidEntry("must be an integer of 0 or more", field=field)
    return value
