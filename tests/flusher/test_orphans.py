"""Rows whose parent is missing, dead rows in strict order, and the history that tells what happened to each."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from outbox.postgrest.verdicts import Reply
from outbox.testing import refused
from tests.flusher.bench import Bench, Remote, flushing
from tests.support import run_async

NO_PARENT = Reply(409, {"x-request-id": "r-7"}, b'{"code":"23503","message":"no parent","details":null,"hint":null}')
BAD = refused(400, "22P02", "bad text")


async def table(bench: Bench, sql: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await bench.store.read(sql)]


@run_async
async def test_an_orphan_dies_only_after_many_refusals_over_a_long_time(tmp_path: Path) -> None:
    remote = Remote(rule=lambda _, row: NO_PARENT if row.get("n") == 1 else None)
    async with flushing(tmp_path, remote=remote, poll_s=300, orphan_attempts=3, orphan_after_s=3600) as bench:
        await bench.put_many(3)

        await bench.live(3500)
        early = await bench.outbox.stats()
        assert (early.pending, early.dead, early.delivered) == (1, 0, 2)

        await bench.live(1000)
        late = await bench.outbox.stats()
        assert (late.pending, late.dead, late.delivered) == (0, 1, 2)
        ((code, message, attempts),) = await table(
            bench, "select error_code, error_message, attempts from outbox where state = 'dead'"
        )
        assert (code, message) == ("23503", "no parent (gave up: its parent never came)")
        assert isinstance(attempts, int)
        assert attempts > 3


@run_async
async def test_an_orphan_waits_as_long_as_an_earlier_entry_may_be_its_parent(tmp_path: Path) -> None:
    held = {"parents"}
    remote = Remote()

    def rule(name: str, row: dict[str, object]) -> Reply | None:
        if name in held:
            return refused(404, "PGRST205", "no such table")
        return NO_PARENT if name == "children" and held else None

    remote.rule = rule
    async with flushing(tmp_path, remote=remote, poll_s=300, orphan_attempts=2, orphan_after_s=60) as bench:
        await bench.outbox.put("parents", {"n": 1})
        await bench.outbox.put("children", {"n": 1})

        await bench.live(10_000)
        assert (await bench.outbox.stats()).dead == 0

        held.clear()
        stats = await bench.settled()
        assert (stats.delivered, stats.dead) == (2, 0)


@run_async
async def test_the_history_tells_what_happened_to_an_entry_and_is_bounded(tmp_path: Path) -> None:
    remote = Remote(rule=lambda _, row: {1: NO_PARENT, 2: BAD}.get(row["n"]))
    async with flushing(tmp_path, remote=remote, poll_s=300) as bench:
        await bench.put_many(3)
        await bench.live(50_000)

        story = await table(bench, "select event, status, code, message, batch_rows, request_id from outbox_history"
                                   " where seq = 2 order by number")  # fmt: skip
        assert story[0] == ("postponed", 409, "23503", "no parent", 1, "r-7")
        assert len(story) == 20  # of hundreds: the first one and the newest
        assert await table(bench, "select event, status, code, batch_rows from outbox_history where seq = 3") == [
            ("refused", 400, "22P02", 1)
        ]
        assert await table(bench, "select count(*) from outbox_history where seq = 1") == [(0,)]


@run_async
async def test_an_outage_writes_no_history(tmp_path: Path) -> None:
    remote = Remote()
    remote.otherwise = refused(503, "PGRST002", "no schema cache")
    async with flushing(tmp_path, remote=remote, poll_s=300) as bench:
        await bench.put_many(3)
        await bench.live(5000)
        assert len(remote.requests) > 10
        assert await table(bench, "select count(*) from outbox_history") == [(0,)]


@run_async
async def test_a_dead_entry_holds_back_its_key_in_strict_order_and_no_other(tmp_path: Path) -> None:
    remote = Remote(rule=lambda _, row: BAD if row["n"] == 0 else None)
    async with flushing(tmp_path, remote=remote, poll_s=300, strict_order=True) as bench:
        for n in range(3):
            await bench.outbox.put("trades", {"n": n}, key="a")
        await bench.outbox.put("trades", {"n": 9}, key="b")
        await bench.live(1000)
        stats = await bench.outbox.stats()
        assert (stats.pending, stats.dead, stats.delivered) == (2, 1, 1)

    remote.rule = lambda _table, _row: None
    async with flushing(tmp_path, remote=remote, poll_s=300, strict_order=False) as bench:  # the setting is lifted
        stats = await bench.settled()
        assert (stats.dead, stats.delivered) == (1, 3)


@run_async
async def test_strict_order_holds_until_the_file_is_told_otherwise(tmp_path: Path) -> None:
    """A bot says it in code; `outbox drain` opens the same file and says nothing."""
    remote = Remote(rule=lambda _, row: BAD if row["n"] == 0 else None)
    async with flushing(tmp_path, remote=remote, poll_s=300, strict_order=True) as bench:
        for n in range(2):
            await bench.outbox.put("trades", {"n": n}, key="a")
        await bench.live(1000)

    async with flushing(tmp_path, remote=remote, poll_s=300) as bench:
        await bench.outbox.put("trades", {"n": 2}, key="a")
        for n in (0, 3):
            await bench.outbox.put("trades", {"n": n}, key="b")  # and what dies now holds back its line, too
        await bench.live(1000)
        stats = await bench.outbox.stats()
        assert (stats.pending, stats.dead, stats.delivered) == (3, 2, 0)

    async with flushing(tmp_path, remote=remote, poll_s=300, strict_order=False) as bench:
        stats = await bench.settled()
        assert (stats.pending, stats.dead, stats.delivered) == (0, 2, 3), "the control"


@run_async
async def test_control_without_strict_order_the_later_entries_go_on(tmp_path: Path) -> None:
    remote = Remote(rule=lambda _, row: BAD if row["n"] == 0 else None)
    async with flushing(tmp_path, remote=remote, poll_s=300) as bench:
        for n in range(3):
            await bench.outbox.put("trades", {"n": n}, key="a")
        stats = await bench.settled()
        assert (stats.dead, stats.delivered) == (1, 2)


@run_async
async def test_bytes_that_are_no_utf_8_keep_nothing_else_from_being_sent(tmp_path: Path) -> None:
    remote = Remote()
    async with flushing(tmp_path, remote=remote, poll_s=300) as bench:
        shell = sqlite3.connect(bench.path)
        with shell:
            # {"a":"\xff"}: SQLite calls it valid JSON
            shell.execute(
                "insert into outbox (destination, payload) values ('trades', cast(x'7b2261223a22ff227d' as text))"
            )
        shell.close()
        await bench.put_many(2)
        stats = await bench.settled()

    assert (stats.delivered, stats.dead) == (3, 0)
    assert "\ufffd" in [row.get("a") for row in remote.inserted.values()]


@run_async
async def test_a_clock_that_was_set_back_buries_no_row_behind_another_that_is_soon_due(tmp_path: Path) -> None:
    """The first that is due tells nothing about the others, which were to wait for a year."""
    parents: set[object] = set()
    remote = Remote(rule=lambda _, row: None if row.get("n") in parents else NO_PARENT)
    async with flushing(tmp_path, remote=remote) as bench:
        await bench.put_many(3)
        await bench.idle()
        with closing(sqlite3.connect(bench.path)) as file, file:
            soon, in_a_year = bench.clock.now_ms() + 200_000, bench.clock.now_ms() + 31_536_000_000
            file.execute("update outbox set next_attempt_at_ms = iif(seq = 1, ?, ?)", (soon, in_a_year))
        parents |= {1, 2}
        await bench.live(30)
        stats = await bench.outbox.stats()
        assert (stats.delivered, stats.pending) == (2, 1)
