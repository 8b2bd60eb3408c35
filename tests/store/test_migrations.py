"""The schema's history: sealed, in order, each step whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from outbox.clock import SystemClock
from outbox.errors import MigrationChanged, NotInstalled, StoreError, StoreTooNew
from outbox.recovery.open import open_store
from outbox.sql_files import folder, sql_files
from outbox.store import database
from outbox.store.migrate import migrate
from outbox.store.migrations import Migration, applied, shipped
from tests.store.tools import entry, opened, raised, rows, shell
from tests.support import run_async

SEALED = Path(__file__).with_name("sealed.txt")
FIRST = Migration(1, "0001_first", "create table one (x);\n")
SECOND = Migration(2, "0002_second", "create table two (x);\ninsert into two values (1);\n")


def test_a_released_migration_never_changes() -> None:
    """A change here is right only before the migration's first release: afterwards it needs a file of its own."""
    lines = [line.split("  ") for line in SEALED.read_text(encoding="utf-8").splitlines()]
    sums = {name: checksum for checksum, name in lines}
    files = {
        file.name: hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
        for file in sql_files(folder("migrations"))
    }
    assert files == sums
    assert {f"{step.name}.sql": step.checksum for step in shipped()} == sums


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [step.version for step in shipped()] == list(range(1, len(shipped()) + 1))


def test_windows_line_ends_give_the_same_checksum() -> None:
    (step, *_) = shipped()
    dos = Migration(step.version, step.name, step.text.replace("\n", "\r\n"))
    assert dos.text != step.text
    assert dos.checksum == step.checksum
    assert Migration(1, "0001_other", step.text + " ").checksum != step.checksum


async def run(path: Path, steps: Sequence[Migration]) -> int:
    connection = await database.open_writer(path, busy_timeout_s=1)
    try:
        return await migrate(connection, path, now_ms=7, migrations=steps)
    finally:
        await connection.close()


@run_async
async def test_a_later_migration_may_recreate_what_an_earlier_one_made(tmp_path: Path) -> None:
    anew = Migration(2, "0002_anew", "drop table one;\ncreate table one (x, y);\n")
    path = tmp_path / "bot.db"

    assert [await run(path, steps) for steps in ([FIRST], [FIRST, anew])] == [1, 1]
    assert [column[1] for column in rows(path, "pragma table_info(one)")] == ["x", "y"]


def tables(path: Path) -> list[tuple[object, ...]]:
    return rows(path, "select name from sqlite_schema where type = 'table' order by name")


@run_async
async def test_steps_run_in_order_and_once(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    assert await run(path, [FIRST]) == 1
    assert await run(path, [FIRST, SECOND]) == 1
    assert await run(path, [FIRST, SECOND]) == 0
    assert tables(path) == [("one",), ("outbox_migrations",), ("two",)]
    assert rows(path, "select version, name, checksum, applied_at_ms from outbox_migrations order by 1") == [
        (1, "0001_first", FIRST.checksum, 7),
        (2, "0002_second", SECOND.checksum, 7),
    ]


@run_async
async def test_a_step_that_fails_is_undone_as_a_whole_with_its_record(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    broken = Migration(2, "0002_broken", SECOND.text + "insert into nowhere values (1);\n")

    with pytest.raises(database.SqliteError, match="nowhere"):
        await run(path, [FIRST, broken])

    assert tables(path) == [("one",), ("outbox_migrations",)]
    assert await run(path, [FIRST, SECOND]) == 1  # the repaired one runs


@pytest.mark.parametrize("broken", ["nonsense;\n", "create table x (\n", "create trigger t after insert on one begin"])
@run_async
async def test_a_first_step_that_fails_or_ends_inside_a_statement_leaves_no_table_behind(
    broken: str, tmp_path: Path
) -> None:
    path = tmp_path / "bot.db"
    with pytest.raises(database.SqliteError):
        await run(path, [Migration(1, "0001_broken", FIRST.text + broken)])
    assert tables(path) == []


@run_async
async def test_a_step_is_the_same_with_the_line_ends_of_windows(tmp_path: Path) -> None:
    dos = [Migration(step.version, step.name, step.text.replace("\n", "\r\n")) for step in shipped()]
    both = tmp_path / "dos.db", tmp_path / "unix.db"
    for path, steps in zip(both, (dos, shipped()), strict=True):
        await run(path, steps)
    schema = "select name, replace(sql, char(13), '') from sqlite_schema order by name"
    assert rows(both[0], schema) == rows(both[1], schema)


@run_async
async def test_semicolons_in_words_and_triggers_end_no_statement(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    text = """-- first; words
create table one (x); /* two;
lines; */ insert into one values ('a;
b');
create trigger t after insert on one
begin
    delete from one where x = 'a;';
    insert into one values ('c;');
end;
"""
    await run(path, [Migration(1, "0001_x", text)])
    assert rows(path, "select x from one") == [("a;\nb",)]
    assert rows(path, "select name from sqlite_schema where type = 'trigger'") == [("t",)]


@run_async
async def test_the_file_records_what_made_it(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        assert await store.run(applied) == {step.version: step.checksum for step in shipped()}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param("insert into outbox_migrations values (99, 'later', 'x', 1)", StoreTooNew, id="newer"),
        pytest.param("update outbox_migrations set checksum = 'x'", MigrationChanged, id="changed"),
        pytest.param("update outbox_migrations set version = 0 where version = 1", MigrationChanged, id="unknown"),
    ],
)
@run_async
async def test_a_file_of_another_history_is_refused_and_not_touched(
    change: str, error: type[StoreError], tmp_path: Path
) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        await store.put(*entry())
    with shell(path) as connection:
        connection.execute(change)
    before = path.read_bytes()

    caught = await raised(open_store(path, clock=SystemClock()))

    assert type(caught) is error
    assert path.read_bytes() == before
    assert type(await raised(open_store(path, clock=SystemClock()))) is error  # and it is not locked


def test_an_installation_without_the_sql_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped()  # control: here they are
    monkeypatch.setattr("outbox.sql_files._HERE", tmp_path / "outbox")
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path / "outbox")
    with pytest.raises(NotInstalled, match="--collect-data outbox"):
        shipped()
