"""A look at a file from outside: one moment of its life, and never a wrong one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Self

import pytest

from outbox import Outbox, Settings, StoreError, StoreTooNew
from outbox.store.read_only import ReadOnlyStore, look
from tests.support import run_async


async def put(path: Path, rows: int) -> None:
    async with Outbox.open(Settings(path=path)) as outbox:
        for _ in range(rows):
            await outbox.put("trades", {"symbol": "EURUSD"})


async def pending(observer: ReadOnlyStore) -> int:
    return (await observer.counts()).get("trades", {}).get("pending", 0)


@run_async
async def test_a_look_that_a_writer_overtakes_is_repeated(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    await put(path, 1)
    looks: list[int] = []

    async with _Later(path) as later:

        async def work(observer: ReadOnlyStore) -> int:
            looks.append(await pending(observer))
            await later.open_and_put()
            return looks[-1]

        found = await look(path, work)

    assert found == 2
    assert looks == [1, 2]


@run_async
async def test_a_look_is_one_moment_although_a_bot_writes_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with Outbox.open(Settings(path=path)) as outbox:
        await outbox.put("trades", {"symbol": "EURUSD"})

        async def work(observer: ReadOnlyStore) -> tuple[int, int]:
            before = await pending(observer)
            await outbox.put("trades", {"symbol": "EURUSD"})
            return before, await pending(observer)

        assert await look(path, work) == (1, 1)


@run_async
async def test_an_observer_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    await put(path, 1)
    async with Outbox.open(Settings(path=path)):

        async def work(observer: ReadOnlyStore) -> None:
            await observer.read("delete from outbox")

        with pytest.raises(StoreError, match="readonly"):
            await look(path, work)


@run_async
async def test_a_file_of_a_newer_version_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    await put(path, 1)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("insert into outbox_migrations values (9999, 'later', 'x', 0)")

    with pytest.raises(StoreTooNew):
        await look(path, pending)


class _Later:
    """A bot that opens the file in the middle of a look, puts one row, and stays until the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outbox: Outbox | None = None

    async def __aenter__(self) -> Self:
        return self

    async def open_and_put(self) -> None:
        if self._outbox is None:
            self._outbox = await Outbox.open(Settings(path=self._path))
            await self._outbox.put("trades", {"symbol": "EURUSD"})

    async def __aexit__(self, *_: object) -> None:
        if self._outbox is not None:
            await self._outbox.close()
