"""Salvage: what can be read of a damaged file comes into the open one, once, in order, with its ids."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from outbox.entry import Destination, State
from outbox.errors import StoreError
from outbox.prepare import mint_id, written
from outbox.recovery import damaged_file, pages
from outbox.recovery.carve import CarvedFile
from outbox.recovery.probe import found_beside
from outbox.recovery.salvage import salvage, salvage_and_rename
from outbox.store.files import wal_path
from tests.recovery.test_corruption import emptied, filled, flip, set_aside
from tests.store.tools import count, entry, opened, raised, rows, shell
from tests.support import run_async


def leaves(path: Path, table: str) -> list[int]:
    """The file's pages that hold rows of `table` and nothing else: no other page of it leads to them."""
    found, pages = [], path.read_bytes()
    with shell(path) as connection:
        ((root,),) = connection.execute("select rootpage from sqlite_schema where name = ?", (table,)).fetchall()
    todo = [int(root)]
    while todo:
        start = (todo.pop() - 1) * 4096
        page = pages[start : start + 4096]
        if page[0] == 0x0D:
            found.append(start)
            continue
        assert page[0] == 0x05
        cells = int.from_bytes(page[3:5], "big")
        places = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(cells)]
        todo += [int.from_bytes(page[place : place + 4], "big") for place in places]
        todo.append(int.from_bytes(page[8:12], "big"))
    return sorted(found)


@run_async
async def test_everything_around_two_damaged_pages_is_brought_over_and_the_rest_is_named(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "bot.db"
    await filled(old, 1000)
    ids = {str(each) for (each,) in rows(old, "select id from outbox")}
    pages = leaves(old, "outbox")
    flip(old, pages[3], 4096)
    flip(old, pages[-4], 4096)

    async with opened(new) as store:
        found = await salvage(store, old)
        again = await salvage(store, old)

    here = {str(each) for (each,) in rows(new, "select id from outbox where state = 'pending'")}
    assert 900 < found.pending == len(here) < 1000
    assert set(found.lost_ids) == ids - here, "every entry is here or named"
    assert len(found.unreadable) == 2
    assert sum(last - first + 1 for first, last in found.unreadable) == 1000 - found.pending
    assert (again.pending, again.there) == (0, found.pending), "doing it again brought something twice"


@run_async
async def test_a_damaged_page_that_is_not_read_around_costs_all_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: giving up at the first failure."""
    old, new = tmp_path / "old.db", tmp_path / "bot.db"
    await filled(old, 1000)
    flip(old, leaves(old, "outbox")[3], 4096)
    monkeypatch.setattr(damaged_file, "_MOST_FAILURES", 0)
    monkeypatch.setattr(CarvedFile, "rows", lambda *_, **__: iter(()))

    async with opened(new) as store:
        assert (await salvage(store, old)).pending < 900


@run_async
async def test_a_damaged_index_costs_nothing(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "bot.db"
    await filled(old, 300)
    for (root,) in rows(old, "select rootpage from sqlite_schema where type = 'index' and tbl_name = 'outbox'"):
        assert isinstance(root, int)
        flip(old, (root - 1) * 4096, 4096)

    async with opened(new) as store:
        found = await salvage(store, old)

    assert (found.pending, found.unreadable) == (300, [])


@run_async
async def test_a_changed_payload_is_not_sent_but_kept_as_a_dead_letter(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "bot.db"
    await filled(old, 100)
    with shell(old) as connection:
        connection.execute("update outbox set payload = '{\"n\":9}' where seq = 7")

    async with opened(new) as store:
        found = await salvage(store, old)

    assert (found.pending, found.held) == (99, 1)
    assert rows(new, "select seq from outbox where state = 'dead'") == [(7,)]


@run_async
async def test_an_entry_that_was_overtaken_meanwhile_is_held_and_one_that_was_not_goes_first(tmp_path: Path) -> None:
    old, new = tmp_path / "bot.db", tmp_path / "bot.db"
    async with opened(old) as store:
        for key in ("sent", "waits"):
            await store.put(*entry(key=key))
    emptied_pages(old)

    async with opened(new) as store:
        (aside,) = found_beside(store.path)
        sent = await store.put(*entry(key="sent"))
        later = await store.put(*entry(key="waits"))
        await store.settle([sent.seq], State.DELIVERED)
        found = await salvage(store, aside)

    assert (found.pending, found.held) == (1, 1)
    assert rows(new, "select seq, waits from outbox where key = 'waits' order by seq") == [
        (2, None),
        (later.seq, "turn"),
    ]


def emptied_pages(path: Path) -> None:
    """Damage that opening meets: the pages of a table without entries."""
    ((root,),) = rows(path, "select rootpage from sqlite_schema where name = 'outbox_counts'")
    assert isinstance(root, int)
    flip(path, (root - 1) * 4096, 4096)


@run_async
async def test_dead_letters_come_along_with_their_history(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "bot.db"
    await filled(old, 100)
    with shell(old) as connection:
        connection.execute("update outbox set state = 'dead', error_message = 'no' where seq = 5")
        connection.execute("insert into outbox_history (seq, at_ms, event, message) values (5, 1, 'refused', 'no')")

    async with opened(new) as store:
        found = await salvage(store, old)

    assert (found.pending, found.dead) == (99, 1)
    assert rows(new, "select event, message from outbox_history where seq = 5") == [("refused", "no")]


@run_async
async def test_salvage_ends_the_red_health_and_keeps_the_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    await filled(path, 100)
    emptied_pages(path)

    async with opened(path) as store:
        (aside,) = found_beside(store.path)
        facts = await salvage_and_rename(store, aside)
        assert facts["pending"] == 100
        assert found_beside(store.path) == ()

    assert set_aside(path) == []
    assert ".salvaged-" in facts["kept_as"]
    assert count(Path(facts["kept_as"])) == 100
    assert count(path) == 100


@run_async
async def test_a_file_in_which_nothing_can_be_read_is_a_typed_error(tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    await filled(old, 100)
    flip(old, 0, old.stat().st_size)
    empty = tmp_path / "empty.db"
    empty.touch()
    emptied(empty)
    async with opened(tmp_path / "bot.db") as store:
        for each in (old, empty):
            assert type(await raised(salvage(store, each))) is StoreError


# ---------------------------------------------------------------------------------------------- project and sessions


def project_of(path: Path) -> list[tuple[object, ...]]:
    return rows(path, "select value from outbox_meta where name = 'project'")


async def belonging(path: Path, project: str) -> None:
    await filled(path, 100)
    with shell(path) as connection:
        connection.execute("insert into outbox_meta values ('project', ?)", (project,))


@run_async
async def test_the_entries_still_belong_to_their_project_before_the_first_of_them_is_there(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "bot.db"
    await belonging(old, "mine")
    told: list[tuple[int, list[tuple[object, ...]]]] = []

    async def look() -> None:
        told.append((count(new), project_of(new)))

    async with opened(new) as store:
        found = await salvage(store, old, project_known=look)

    assert (found.pending, project_of(new), told) == (100, [("mine",)], [(0, [("mine",)])])


@run_async
async def test_entries_of_another_project_are_held_as_dead_letters_and_the_outbox_keeps_its_own(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "bot.db"
    await belonging(old, "mine")

    async with opened(new) as store:
        assert await store.remember_project("other") == "other"
        found = await salvage(store, old)
        assert await store.remember_project("mine") == "other", "a project is remembered once"

    assert (found.pending, found.held, project_of(new)) == (0, 100, [("other",)])
    ((words, states),) = rows(new, "select min(error_message), min(state) from outbox")
    assert ("another project" in str(words), states) == (True, "dead")


@run_async
async def test_an_unreadable_project_is_reported(tmp_path: Path) -> None:
    torn, cut, new = tmp_path / "torn.db", tmp_path / "cut.db", tmp_path / "bot.db"
    for path in (torn, cut):
        await belonging(path, "mine")
    ((root,),) = rows(torn, "select rootpage from sqlite_schema where name = 'outbox_meta'")
    assert isinstance(root, int)
    flip(torn, (root - 1) * 4096, 4096)
    with shell(cut) as connection:
        connection.execute("update outbox_meta set value = cast(x'6d69ff' as text) where name = 'project'")

    for path in (torn, cut):
        async with opened(new) as store:
            found = await salvage(store, path)
        assert (found.pending + found.there, found.project_unreadable) == (100, True)
        assert project_of(new) == []


@run_async
async def test_control_entries_that_belong_to_no_project_are_simply_pending(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "bot.db"
    await filled(old, 100)

    async with opened(new) as store:
        await store.remember_project("other")
        assert (await salvage(store, old)).pending == 100


def session(path: Path, session_id: str, *, source: str = "bot", version: int = 3) -> None:
    """Let a session run in `path`."""
    time = "2026-01-02T10:00:00.000+00:00"
    with shell(path) as connection:
        connection.execute(
            "insert into outbox_sessions (source, session_id, status, start_time, day_start, last_heartbeat,"
            " initial_balance, current_balance, symbols, version) values (?, ?, 'RUNNING', ?, ?, ?, 1.0, 2.0, '[]', ?)",
            (source, session_id, time, time[:11] + "00:00:00.000+00:00", time, version),
        )


@run_async
async def test_running_sessions_come_along_unless_their_source_has_another_one_here(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "bot.db"
    await filled(old, 100)
    session(old, "a-1", source="a")
    session(old, "b-1", source="b")
    with shell(old) as connection:
        connection.execute("create table kept as select * from outbox_sessions")

    async with opened(new) as store:
        session(new, "b-2", source="b")
        found = await salvage(store, old)
        again = await salvage(store, old)

    assert (found.sessions, found.sessions_left, found.sessions_unreadable) == (1, ["b-1"], False)
    assert (again.sessions, again.sessions_left) == (0, ["b-1"])
    assert rows(new, "select source, session_id from outbox_sessions order by 1") == [("a", "a-1"), ("b", "b-2")]
    whole = "select * from {} where source = 'a'"
    assert rows(new, whole.format("outbox_sessions")) == rows(old, whole.format("kept"))


@run_async
async def test_sessions_in_a_damaged_file_are_reported_and_a_file_without_any_is_no_error(tmp_path: Path) -> None:
    torn, first, new = tmp_path / "torn.db", tmp_path / "first.db", tmp_path / "bot.db"
    await filled(torn, 100)
    await filled(first, 100)
    session(torn, "a-1")
    ((root,),) = rows(torn, "select rootpage from sqlite_schema where name = 'outbox_sessions'")
    assert isinstance(root, int)
    flip(torn, (root - 1) * 4096, 4096)
    with shell(first) as connection:  # as the library's first version made it
        connection.execute("drop table outbox_sessions")
        connection.executescript("drop table outbox_history")

    async with opened(new) as store:
        found = await salvage(store, torn)
        assert (found.pending, found.sessions, found.sessions_unreadable) == (100, 0, True)
        found = await salvage(store, first)
        assert (found.sessions, found.sessions_left, found.sessions_unreadable) == (0, [], False)


@run_async
async def test_what_the_damage_has_left_of_a_session_that_is_none_is_left_behind(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "bot.db"
    await filled(old, 100)
    session(old, "a-1")
    with shell(old) as connection:
        connection.execute("pragma ignore_check_constraints = on")
        connection.execute("update outbox_sessions set symbols = 'no list'")

    async with opened(new) as store:
        found = await salvage(store, old)

    assert (found.pending, found.sessions, found.sessions_left, found.sessions_unreadable) == (100, 0, [], True)


@run_async
async def test_one_payload_that_is_no_json_any_more_keeps_no_other_entry_behind(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "bot.db"
    await filled(old, 100)
    with shell(old) as connection:
        connection.execute("pragma ignore_check_constraints = on")
        connection.execute("update outbox set payload = 'z' || payload where seq = 10")

    async with opened(new) as store:
        found = await salvage(store, old)

    assert (found.pending, found.unreadable) == (99, [(10, 10)])


# ---------------------------------------------------------------------------------------------- page by page


def root_of(path: Path, table: str = "outbox") -> int:
    """Where the root page of a table begins."""
    ((root,),) = rows(path, "select rootpage from sqlite_schema where name = '" + table + "'")
    assert isinstance(root, int)
    return (root - 1) * 4096


async def wide(path: Path, puts: int = 1000, **more: Any) -> None:
    """Fill `path` with rows that overflow to other pages now and then, and are put in more than one transaction."""
    trades = Destination("trades", on_conflict=("symbol",))
    async with opened(path) as store:
        for start in range(0, puts, 50):
            made = []
            for number in range(start, start + 50):
                row = {"symbol": f"S{number}", "said": "x" * (9000 if number == start else 300)}
                ready = written(trades, row, **more)
                one = ready.entry(mint_id(1, os.urandom(10)), created_at_ms=1, source="test", lane=None)
                made.append(store.put(one, ready.intent.spec))
            await asyncio.gather(*made)


@run_async
async def test_with_the_roots_of_the_table_gone_each_entry_is_found_on_its_page(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "bot.db"
    await wide(old)
    with shell(old) as connection:
        connection.execute("update outbox set state = 'dead' where seq % 10 = 0")
        connection.execute("update outbox set state = 'delivered', settled_at_ms = 1 where seq % 10 = 1")
    before = rows(old, "select seq, id, payload, digest, state from outbox where state <> 'delivered' order by seq")
    flip(old, root_of(old), 4096)

    async with opened(new) as store:
        found = await salvage(store, old)
        again = await salvage(store, old)

    assert (found.pending, found.dead, found.held, found.carved, found.unreadable) == (800, 100, 0, 900, [])
    assert rows(new, "select seq, id, payload, digest, state from outbox order by seq") == before
    assert (again.pending, again.dead, again.carved, again.there) == (0, 0, 0, 900)


@run_async
async def test_control_queries_alone_find_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old.db", tmp_path / "bot.db"
    await wide(old, 100)
    flip(old, root_of(old), 4096)
    monkeypatch.setattr(CarvedFile, "rows", lambda *_, **__: iter(()))
    monkeypatch.setattr(CarvedFile, "seqs", lambda _: [])

    async with opened(new) as store:
        found = await salvage(store, old)

    assert (found.pending, found.unreadable) == (0, [(1, 100)])


@run_async
async def test_with_the_first_page_gone_inserts_are_sent_and_upserts_are_held(tmp_path: Path) -> None:
    """Nobody knows which pages are free: an upsert on one of them may have been delivered, and a later one, too."""
    inserts, upserts, new = tmp_path / "inserts.db", tmp_path / "upserts.db", tmp_path / "bot.db"
    await wide(inserts, 100)
    await wide(upserts, 100, operation="upsert")
    for path in (inserts, upserts):
        flip(path, 0, 4096)

    async with opened(new) as store:
        found = [await salvage(store, path) for path in (inserts, upserts)]

    assert [(each.pending, each.held, each.project_unreadable) for each in found] == [(100, 0, True), (0, 100, True)]
    ((words,),) = rows(new, "select distinct error_message from outbox where state = 'dead'")
    assert "may have been delivered" in str(words)


@run_async
async def test_of_two_copies_of_a_page_the_newer_counts_and_the_older_only_where_that_is_damaged(
    tmp_path: Path,
) -> None:
    path, kept = tmp_path / "old.db", tmp_path / "kept.db"
    async with opened(path) as store:
        upsert = written(Destination("trades", on_conflict=("symbol",)), {"symbol": "EURUSD"}, operation="upsert")
        puts = [entry() for _ in range(19)]
        puts.append(
            (upsert.entry(mint_id(1, os.urandom(10)), created_at_ms=1, source=None, lane=None), upsert.intent.spec)
        )
        receipts = [await store.put(*each) for each in puts]
        await store.checkpoint()
        await store.settle([each.seq for each in receipts[5:]], State.DELIVERED)
        shutil.copyfile(path, kept)
        shutil.copyfile(wal_path(path), wal_path(kept))  # as a kill leaves it

    def carved() -> list[tuple[int, bool]]:
        with contextlib.closing(CarvedFile(kept)) as found:
            return [(row["seq"], words is not None) for row, words in found.rows(set(), doubtful=True)]

    assert carved() == [(seq, False) for seq in range(1, 6)], "what is delivered is not brought"
    number = root_of(path) // 4096 + 1
    log = wal_path(kept).read_bytes()
    frames = pages.frames(lambda at, count: log[at : at + count], 4096)
    for frame in frames:
        if frame.page == number:
            flip(wal_path(kept), frame.at, 4096)
    assert carved() == [*((seq, False) for seq in range(1, 20)), (20, True)], "the upsert alone must not go again"


@run_async
async def test_a_wal_without_its_database_gives_what_is_in_it_and_is_not_removed(tmp_path: Path) -> None:
    """SQLite removes the -wal of an empty file, as soon as anybody looks at it."""
    old, new = tmp_path / "old.db", tmp_path / "bot.db"
    async with opened(old) as store:
        await store.checkpoint()
        for _ in range(50):
            await store.put(*entry())
        alone, empty = tmp_path / "alone.db", tmp_path / "empty.db"
        empty.touch()
        for path in (alone, empty):
            shutil.copyfile(wal_path(old), wal_path(path))

    for path, pending in ((alone, 50), (empty, 0)):
        async with opened(new) as store:
            found = await salvage(store, path)
        assert (found.pending, found.pending + found.there) == (pending, 50)
        assert wal_path(path).exists()
