"""Cached bars: in and out in order, by range, by count, pruned, and never more at once than a chunk."""

from __future__ import annotations

import asyncio
import csv
import math
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pandas  # type: ignore[import-untyped]
import pytest

from outbox import IdConflict, InvalidEntry, LocalStorage, OutboxClosed, Transaction, UsageError
from outbox.bot import bars as module
from outbox.bot.bar_text import FOREVER_MS, decoded, encoded, time_ms
from outbox.testing import ManualClock
from tests.bot.home import ROOT, opened, puts, rows
from tests.support import run_async

Bar = dict[str, Any]
HOUR = 3600
BEGIN = 1_492_592_400  # 2017-04-19T09:00:00Z, the first bar of the file


@cache
def real_bars() -> tuple[Bar, ...]:
    """5,000 hours of EURUSD."""
    with (ROOT / "scripts" / "data" / "eurusd_h1.csv").open() as file:
        return tuple(
            {"time_utc": row["time_utc"], "tick_volume": int(row["tick_volume"])}
            | {name: float(row[name]) for name in ("open", "high", "low", "close")}
            for row in csv.DictReader(file)
        )


def hours(count: int) -> list[Bar]:
    """Return `count` hourly bars, the real ones over and over."""
    real = real_bars()
    return [{**real[n % len(real)], "time_utc": None, "time": BEGIN + n * HOUR} for n in range(count)]


# ------------------------------------------------------------------------------------------ in and out


@run_async
async def test_real_bars_come_back_as_they_were(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        assert await storage.cache_bars("EURUSD", list(real_bars()), "H1") == 5000
        assert await storage.load_cached_bars("EURUSD", "H1") == list(real_bars())
        assert await storage.load_cached_bars("EURUSD") == [], "another timeframe"
        assert await storage.load_cached_bars("GBPUSD", "H1") == []
        assert (await outbox.stats()).pending == 0, "bars do not travel"


@run_async
async def test_bars_come_back_in_order_whatever_order_they_came_in(tmp_path: Path) -> None:
    bars = hours(1200)
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        await storage.cache_bars("EURUSD", reversed(bars))
        assert await storage.load_cached_bars("EURUSD") == bars


@run_async
async def test_a_bar_takes_the_place_of_the_one_of_its_time_and_leaves_the_others(tmp_path: Path) -> None:
    bars = hours(3)
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        await storage.cache_bars("EURUSD", bars)
        await storage.cache_bars("GBPUSD", bars)
        await storage.cache_bars("EURUSD", [{**bars[1], "close": 9.0}])
        assert await storage.load_cached_bars("EURUSD") == [bars[0], {**bars[1], "close": 9.0}, bars[2]]
        assert await storage.load_cached_bars("GBPUSD") == bars


@run_async
async def test_cached_bars_survive_the_process(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        await LocalStorage(outbox).cache_bars("EURUSD", hours(2))
    async with opened(tmp_path, ManualClock()) as outbox:
        assert await LocalStorage(outbox).load_cached_bars("EURUSD") == hours(2)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param({}, range(2000), id="all"),
        pytest.param({"start": BEGIN + 600 * HOUR}, range(600, 2000), id="from"),
        pytest.param({"end": BEGIN + 600 * HOUR}, range(600), id="up to, without"),
        pytest.param({"start": BEGIN + 1, "end": BEGIN + 2 * HOUR}, range(1, 2), id="between two bars"),
        pytest.param({"start": "2017-04-19T12:00:00+02:00", "end": "2017-04-19 11:00"}, range(1, 2), id="as texts"),
        pytest.param({"last": 3}, range(1997, 2000), id="the last"),
        pytest.param({"last": 700}, range(1300, 2000), id="the last, of more than one page"),
        pytest.param({"last": module.READ_BARS}, range(2000 - module.READ_BARS, 2000), id="the last, exactly a page"),
        pytest.param({"last": 5000}, range(2000), id="more than there are"),
        pytest.param({"last": 0}, range(0), id="none"),
        pytest.param({"last": 2, "end": BEGIN + 10 * HOUR}, range(8, 10), id="the last of a range"),
        pytest.param({"start": BEGIN, "end": BEGIN}, range(0), id="an empty range"),
    ],
)
@run_async
async def test_a_part_is_read_by_range_and_by_count(tmp_path: Path, asked: Any, expected: range) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        await storage.cache_bars("EURUSD", hours(2000))
        found = await storage.load_cached_bars("EURUSD", **asked)
    assert [(bar["time"] - BEGIN) // HOUR for bar in found] == list(expected)


@run_async
async def test_what_json_has_no_word_for_comes_back_too(tmp_path: Path) -> None:
    bar = {"time": numpy.int64(BEGIN), "close": numpy.float32(0.5), "spread": math.nan, "high": math.inf, "note": None,
           "symbol": "é", "when": datetime(2026, 1, 1, tzinfo=UTC), "tick volume": 7}  # fmt: skip
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        await storage.cache_bars("X", [bar])
        (found,) = await storage.load_cached_bars("X")
    assert math.isnan(found.pop("spread"))
    assert found == {"time": BEGIN, "close": 0.5, "high": math.inf, "note": None, "symbol": "é",
                     "when": "2026-01-01T00:00:00+00:00", "tick volume": 7}  # fmt: skip


@run_async
async def test_a_text_that_reads_like_a_number_stays_a_text_wherever_it_stands(
    tmp_path: Path,
) -> None:
    words = ["NaN", "Infinity", "-Infinity"]
    bar = {"time": BEGIN, "text": words, "numbers": [math.nan, [math.inf], {"low": -math.inf}], "NaN": {"NaN": "NaN"},
           "quoted": [*(f'"{word}"' for word in words), '\\"NaN', "x\\", 'x"NaN', "NaN "]}  # fmt: skip
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        await storage.cache_bars("X", [bar])
        (found,) = await storage.load_cached_bars("X")
        (shown,) = await outbox.read_local("select bar ->> '$.text[0]', json_valid(bar) from outbox_bars")
    assert math.isnan(found["numbers"].pop(0)) and found["numbers"] == [[math.inf], {"low": -math.inf}]
    assert {**found, "numbers": 0} == {**bar, "numbers": 0}
    assert shown == ("NaN", 1), "a shell sees the text"


@pytest.mark.parametrize("missing", [pandas.NaT, math.nan, numpy.datetime64("NaT"), pandas.NA], ids=repr)
@run_async
async def test_a_time_that_is_none_is_refused_by_name_and_nothing_is_written(tmp_path: Path, missing: Any) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        with pytest.raises(InvalidEntry) as caught:
            await storage.cache_bars("X", [*hours(1), {"time": missing, "close": 1.0}])
        assert caught.value.field == "bars[1].time"
        with pytest.raises(InvalidEntry):
            await storage.load_cached_bars("X", start=missing)
        assert await storage.load_cached_bars("X") == []
        await storage.cache_bars("X", [{"time": BEGIN, "when": missing}])  # the control: elsewhere it is a value


# ------------------------------------------------------------------------------------------ as a DataFrame


@pytest.mark.slow
@pytest.mark.parametrize("asked", [{}, {"last": 700}, {"start": BEGIN, "end": BEGIN}, {"last": 12_000}], ids=str)
@run_async
async def test_bars_as_a_frame_are_the_same_bars(tmp_path: Path, asked: Any) -> None:
    bars = hours(12_345)
    for number, bar in enumerate(bars):  # one field that only some have, one that is null in the whole first frame
        bar |= {"spread": None if number < 10_500 else 7} | ({"note": "x"} if number % 2 else {})
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        await storage.cache_bars("EURUSD", bars)
        frame = await storage.load_cached_bars("EURUSD", **asked, as_frame=True)
        listed = await storage.load_cached_bars("EURUSD", **asked)
    pandas.testing.assert_frame_equal(frame, pandas.DataFrame(listed), check_like=True)


@run_async
async def test_without_pandas_a_frame_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        with pytest.raises(UsageError, match="pip install pandas"):
            await storage.load_cached_bars("EURUSD", as_frame=True)
        assert await storage.load_cached_bars("EURUSD") == []  # the control


@pytest.mark.slow
@run_async
async def test_caching_and_loading_takes_a_bounded_number_of_bytes_a_bar(tmp_path: Path) -> None:
    """150 MB for a million: 150 bytes a bar, beside what one step takes."""
    count, step = 40_000, 6_000_000
    peaks: list[int] = []
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        real = real_bars()
        for work in (
            lambda: storage.cache_bars(
                "X", ({**real[n % 5000], "time_utc": None, "time": n * 60} for n in range(count))
            ),
            lambda: storage.load_cached_bars("X", as_frame=True),
            lambda: storage.load_cached_bars("X"),
        ):
            tracemalloc.start()
            await work()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    cached, framed, listed = peaks
    assert max(cached, framed) < 150 * count + step
    assert listed > 150 * count + step, "the control: so many dicts take more"


# ------------------------------------------------------------------------------------------ a bar's time


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(BEGIN, BEGIN * 1000, id="seconds"),
        pytest.param(BEGIN + 0.25, BEGIN * 1000 + 250, id="seconds with a fraction"),
        pytest.param(BEGIN * 1000, BEGIN * 1000, id="milliseconds"),
        pytest.param(numpy.int64(BEGIN), BEGIN * 1000, id="numpy"),
        pytest.param(-1, -1000, id="before 1970"),
        pytest.param("2017-04-19 09:00:00", BEGIN * 1000, id="a text without a zone is UTC"),
        pytest.param("2017-04-19T11:00:00+02:00", BEGIN * 1000, id="a text with a zone"),
        pytest.param("2017-04-19T09:00:00Z", BEGIN * 1000, id="a text with a Z"),
        pytest.param("2017-04-19", (BEGIN - 9 * HOUR) * 1000, id="a date"),
        pytest.param(datetime(2017, 4, 19, 9, tzinfo=UTC), BEGIN * 1000, id="a datetime"),
        pytest.param(
            datetime(2017, 4, 19, 11, tzinfo=timezone(timedelta(hours=2))), BEGIN * 1000, id="of another zone"
        ),
        pytest.param(pandas.Timestamp("2017-04-19 09:00", tz="UTC"), BEGIN * 1000, id="pandas"),
    ],
)
def test_a_time_is_understood(value: object, expected: int) -> None:
    assert time_ms(value, "time") == expected


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(datetime(2017, 4, 19), id="a datetime without a zone"),
        pytest.param("1492592400000", id="digits, which fromisoformat would take for a date"),
        pytest.param("2017.04.19 09:00", id="another way to write it"),
        pytest.param(True, id="a truth value"),
        pytest.param(math.nan, id="NaN"),
        pytest.param(math.inf, id="infinity"),
        pytest.param(FOREVER_MS, id="after the year 9999"),
        pytest.param(1_492_592_400_000_000_000, id="nanoseconds"),
        pytest.param([1], id="a list"),
    ],
)
def test_a_time_that_may_mean_anything_is_refused(value: object) -> None:
    with pytest.raises(InvalidEntry) as refused:
        time_ms(value, "bars[7].time")
    assert refused.value.field == "bars[7].time"


@pytest.mark.parametrize("name", ["time", "timestamp", "time_utc", "datetime"])
@run_async
async def test_the_time_may_have_four_names(tmp_path: Path, name: str) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        await LocalStorage(outbox).cache_bars("X", [{name: BEGIN}])
    assert rows(tmp_path, "select symbol, timeframe, time_ms, bar from outbox_bars") == [
        {"symbol": "X", "timeframe": "", "time_ms": BEGIN * 1000, "bar": f'{{"{name}":{BEGIN}}}'}
    ]


@pytest.mark.parametrize(
    ("bars", "field"),
    [
        pytest.param([{"time": 1}] * 1500 + [{"close": 1.0}], "bars[1500]", id="no time, in the second chunk"),
        pytest.param([{"time": 1}, {"time": 1, "x": object()}], "bars[1].x", id="no JSON"),
        pytest.param([[1, 2]], "bars[0]", id="no mapping"),
        pytest.param({"time": 1}, "bars", id="one bar"),
        pytest.param(pandas.DataFrame({"time": [1]}), "bars", id="a table"),
    ],
)
@run_async
async def test_a_bar_that_cannot_be_stored_is_named_and_nothing_is_written(
    tmp_path: Path, bars: Any, field: str
) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        with pytest.raises(InvalidEntry) as refused:
            await LocalStorage(outbox).cache_bars("X", bars)
    assert refused.value.field == field
    assert rows(tmp_path, "select * from outbox_bars") == []


@run_async
async def test_a_cache_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    outbox = await opened(tmp_path, ManualClock())
    storage = LocalStorage(outbox)
    await storage.cache_bars("X", hours(1))
    await outbox.close()
    with pytest.raises(OutboxClosed):
        await storage.load_cached_bars("X")


# ------------------------------------------------------------------------------------------ pruning


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        pytest.param({"keep_last": 2}, {"A": 2, "AH4": 2, "B": 2}, id="by count"),
        pytest.param({"symbol": "A", "keep_last": 2}, {"A": 2, "AH4": 2, "B": 10}, id="one symbol"),
        pytest.param(
            {"symbol": "A", "timeframe": "H4", "keep_last": 0}, {"A": 10, "B": 10}, id="one series, all of it"
        ),
        pytest.param({"older_than": timedelta(hours=3)}, {"A": 3, "AH4": 3, "B": 3}, id="by age"),
        pytest.param({"older_than": BEGIN + 6 * HOUR}, {"A": 4, "AH4": 4, "B": 4}, id="by time"),
        pytest.param({"older_than": BEGIN + HOUR, "keep_last": 3}, {"A": 3, "AH4": 3, "B": 3}, id="by both: the count"),
        pytest.param(
            {"older_than": BEGIN + 9 * HOUR, "keep_last": 3}, {"A": 1, "AH4": 1, "B": 1}, id="by both: the time"
        ),
        pytest.param({"keep_last": 11}, {"A": 10, "AH4": 10, "B": 10}, id="there are fewer"),
        pytest.param({"symbol": "C", "keep_last": 1}, {"A": 10, "AH4": 10, "B": 10}, id="no such symbol"),
    ],
)
@run_async
async def test_bars_are_pruned(tmp_path: Path, asked: Any, left: dict[str, int]) -> None:
    clock = ManualClock(now_ms=(BEGIN + 10 * HOUR) * 1000)
    async with opened(tmp_path, clock) as outbox:
        storage = LocalStorage(outbox)
        for symbol, timeframe in (("A", ""), ("A", "H4"), ("B", "")):
            await storage.cache_bars(symbol, hours(10), timeframe)
        removed = await storage.prune_bars(**asked)
    found = rows(tmp_path, "select symbol || timeframe as name, count(*) as bars, max(time_ms) as newest"
                           " from outbox_bars group by name")  # fmt: skip
    assert {row["name"]: row["bars"] for row in found} == left
    assert removed == 30 - sum(left.values())
    assert {row["newest"] for row in found} == {(BEGIN + 9 * HOUR) * 1000}, "the newest stay"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        pytest.param({}, "prune_bars", id="neither"),
        pytest.param({"keep_last": -1}, "keep_last", id="fewer than none"),
        pytest.param({"older_than": "yesterday"}, "older_than", id="no time"),
    ],
)
@run_async
async def test_pruning_without_a_measure_removes_nothing(tmp_path: Path, asked: Any, field: str) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        await storage.cache_bars("X", hours(1))
        with pytest.raises(InvalidEntry) as refused:
            await storage.prune_bars(**asked)
        assert refused.value.field == field
        assert len(await storage.load_cached_bars("X")) == 1


# ------------------------------------------------------------------------------------------ in chunks


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """How many bars were written, read and removed at a time."""
    seen: dict[str, list[int]] = {"written": [], "read": [], "removed": []}

    def count(what: str, original: Callable[..., Any], of: Callable[[Any, Any], int]) -> Callable[..., Any]:
        async def counted(self: Transaction, sql: str, values: Any = ()) -> Any:
            answer = await original(self, sql, values)
            if "outbox_bars" in sql:
                seen[what].append(of(values, answer))
            return answer

        return counted

    def read(texts: Any) -> Any:
        seen["read"].append(len(texts))
        return decoded(texts)

    monkeypatch.setattr("outbox.bot.bars.decoded", read)
    written = count("written", Transaction.executemany, lambda values, _: len(values))
    monkeypatch.setattr(Transaction, "executemany", written)
    monkeypatch.setattr(Transaction, "execute", count("removed", Transaction.execute, lambda _, answer: len(answer)))
    return seen


@pytest.fixture
def encoded_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many bars were encoded between two turns of the event loop."""
    turns = [0]

    def count(bar: object, where: str) -> str:
        if turns[-1] == 0:  # the first of this turn: the next turn of the loop begins a new count
            asyncio.get_running_loop().call_soon(turns.append, 0)
        turns[-1] += 1
        return encoded(bar, where)

    monkeypatch.setattr("outbox.bot.bars.encoded", count)
    yield turns
    assert sum(turns) > 0


@run_async
async def _store_and_take_back(folder: Path, count: int, trades: list[int], chunks: dict[str, list[int]]) -> None:
    bars = hours(count)
    async with opened(folder, ManualClock()) as outbox:
        storage = LocalStorage(outbox)

        async def trade() -> None:
            while not caching.done():
                await outbox.put("trades", {"symbol": "EURUSD"})
                trades.append(len(chunks["written"]))

        caching = asyncio.create_task(storage.cache_bars("EURUSD", bars, "H1"))
        await asyncio.gather(caching, trade())
        assert await storage.load_cached_bars("EURUSD", "H1") == bars
        assert await storage.prune_bars(keep_last=0) == count


def test_many_bars_go_in_and_out_in_small_pieces_between_which_trades_are_put(
    tmp_path: Path, chunks: dict[str, list[int]], encoded_at_once: list[int]
) -> None:
    """Counted, not timed. Measured beside it on two calm cores: stalls of 2 to 5 ms; a busy machine adds its own."""
    trades: list[int] = []

    _store_and_take_back(tmp_path, 10_000, trades, chunks)

    assert max(encoded_at_once) == module.ENCODE_BARS
    assert chunks["written"] == [module.WRITE_BARS] * 10
    assert (sum(chunks["read"]), max(chunks["read"])) == (10_000, module.READ_BARS)
    assert (sum(chunks["removed"]), max(chunks["removed"])) == (10_000, module.WRITE_BARS)
    # A put stands in the writer's line behind one chunk at most.
    assert len(set(trades)) > 5
    assert (module.ENCODE_BARS, module.WRITE_BARS, module.READ_BARS) == (100, 1000, 500)


# ------------------------------------------------------------------------------------------ the old pending file

TRADE: dict[str, Any] = {
    "table": "trades",
    "data": {"session_id": "s", "trade_id": "T-1"},
    "operation": "insert",
    "timestamp": "old",
}
START = {"table": "sessions", "data": {"session_id": "s", "status": "RUNNING"}, "operation": "upsert"}
OTHER = {"table": "orders", "data": {"id": "o-1", "qty": 1}, "operation": "upsert"}


@run_async
async def test_saved_items_become_entries_each_under_its_own_operation(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        receipts = await LocalStorage(outbox).save_pending([TRADE, START, OTHER, {"table": "events", "data": {"x": 1}}])
    stored = rows(tmp_path, "select id, destination, operation, on_conflict from outbox order by seq")
    assert [receipt.id for receipt in receipts] == [row.pop("id") for row in stored]
    assert stored == [
        {"destination": "trades", "operation": "insert", "on_conflict": None},
        {"destination": "sessions", "operation": "upsert", "on_conflict": "session_id"},
        {"destination": "orders", "operation": "upsert", "on_conflict": "id"},
        {"destination": "events", "operation": "insert", "on_conflict": None},
    ]


@pytest.mark.parametrize(
    ("item", "field"),
    [
        pytest.param({"data": {"x": 1}}, "data[1].table", id="no table"),
        pytest.param({"table": "trades"}, "data[1].data", id="no data"),
        pytest.param(["trades"], "data[1]", id="no mapping"),
        pytest.param({"table": "trades", "data": {"x": 1}, "operation": "delete"}, "operation", id="no such operation"),
        pytest.param({"table": "trades", "data": {"x": object()}}, "trades.x", id="no JSON"),
    ],
)
@run_async
async def test_all_items_are_saved_or_none(tmp_path: Path, item: Any, field: str) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        with pytest.raises(InvalidEntry) as refused:
            await LocalStorage(outbox).save_pending([TRADE, item, TRADE])
    assert refused.value.field == field
    assert puts(tmp_path, "trades") == []


@run_async
async def test_what_is_pending_can_be_looked_at_in_the_order_of_the_puts(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        trade, start = await storage.save_pending([TRADE, START])
        await storage.save_pending([START])  # waits for its turn behind the one before
        await outbox.put("trades", {"comment": "x"}, operation="update", match={"trade_id": "T-1"})

        found = await storage.load_pending()

        assert found[:2] == [
            {"table": "trades", "data": {"id": trade.id, **TRADE["data"]}, "operation": "insert",
             "timestamp": "2026-01-01T00:00:00+00:00", "id": trade.id},
            {"table": "sessions", "data": START["data"], "operation": "upsert",
             "timestamp": "2026-01-01T00:00:00+00:00", "id": start.id},
        ]  # fmt: skip
        assert [item["operation"] for item in found] == ["insert", "upsert", "upsert", "update"]
        assert found[3]["match"] == {"trade_id": "T-1"}
        assert await storage.load_pending(limit=1) == found[:1]
        await outbox.drain()
        assert await storage.load_pending() == []


@run_async
async def test_more_than_a_page_is_pending(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        await storage.save_pending([{"table": "trades", "data": {"trade_id": str(n)}} for n in range(450)])
        assert [item["data"]["trade_id"] for item in await storage.load_pending()] == [str(n) for n in range(450)]


@run_async
async def test_a_loaded_insert_that_is_saved_again_is_no_second_row(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        await storage.save_pending([TRADE])
        with pytest.raises(IdConflict):
            await storage.save_pending(await storage.load_pending())
    assert len(puts(tmp_path, "trades")) == 1


@run_async
async def test_clearing_is_refused_and_removes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        await storage.save_pending([TRADE])
        with pytest.raises(UsageError, match="nothing was removed"):
            storage.clear_pending()
        assert len(await storage.load_pending()) == 1
