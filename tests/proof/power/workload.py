"""The process whose disk is recorded: lives one of a bot's lives, through the public API, and says what was answered.

usage: workload.py LIFE OUTBOX_FILE FIRST_NUMBER [WITHOUT ...]

LIFE is a name of LIVES. What is said goes to standard output, as `ledger.py` reads it. WITHOUT takes a protection away,
for the controls: `full-sync` (synchronous=NORMAL), `wal` (journal_mode=DELETE, still FULL; with `extra` it is EXTRA),
`folder-sync`; or makes it the library's first version: `later-migrations`.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from pathlib import Path

import aiosqlite

from outbox import Outbox, Settings
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Reply
from outbox.store import database, files, migrate
from outbox.store.file_watch import FileWatch
from outbox.testing import ManualClock, ScriptedTransport, accepted, refused
from tests.store.planted import plant, with_planted

SCHEMA = "schema"
OWN = "own-"  # a row of the bot's own table, which shares a transaction with entries
# Small: each image of the disk has one.
RESERVE_BYTES = 4096
_DAY_S = 86_400.0


def row(number: int, *, words: int = 1) -> dict[str, object]:
    """Return the row of a number: whoever reads the file can tell whether it is whole."""
    return {"n": number, "text": filler(number) * words}


def filler(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def is_bad(number: int) -> bool:
    """Whether the remote end refuses this row."""
    return number % 13 == 5


def remote_end(request: Request) -> Reply:
    """Answer as PostgREST: a batch with a bad row is refused as a whole."""
    body = json.loads(request.body)
    rows = body if isinstance(body, list) else [body]
    return refused(400, "22P02", "bad text") if any(is_bad(each["n"]) for each in rows) else accepted(request)


# ------------------------------------------------------------------------------------------ what it says


def say(*words: object) -> None:
    """One write on the marked descriptor, at once and whole."""
    os.write(1, json.dumps(words).encode() + b"\n")


def ends_of(numbers: Iterable[int]) -> tuple[list[int], list[int]]:
    """Return which of `numbers` will be delivered and which will die."""
    numbers = list(numbers)
    return [n for n in numbers if not is_bad(n)], [n for n in numbers if is_bad(n)]


async def acknowledged(work: Awaitable[object], keys: Collection[object], *states: str) -> None:
    """Await what commits, then say how things stand."""
    await work
    say("is", list(keys), states)


# ------------------------------------------------------------------------------------------ what it does


class Bot:
    """One life: an open outbox, and the numbers that it puts."""

    def __init__(self, outbox: Outbox, clock: ManualClock, first: int) -> None:
        self.outbox = outbox
        self.clock = clock
        self._numbers = itertools.count(first)

    def take(self, count: int) -> list[int]:
        return list(itertools.islice(self._numbers, count))

    async def put(self, count: int, *, words: int = 1, sending: bool = False) -> list[int]:
        """Put `count` rows at once: they share commits."""
        numbers = self.take(count)
        say("may", numbers, ["pending", "delivered", "dead"] if sending else ["pending"])
        states = ("pending", "delivered", "dead") if sending else ("pending",)
        puts = (acknowledged(self.outbox.put("trades", row(n, words=words)), [n], *states) for n in numbers)
        await asyncio.gather(*puts)
        return numbers

    async def put_keyed(self, count: int) -> list[int]:
        """Put upserts of one key, one after the other: they travel in order."""
        numbers = self.take(count)
        say("may", numbers, ["pending"])
        for n in numbers:
            put = self.outbox.put("states", row(n), operation="upsert", on_conflict=("text",), key="k")
            await acknowledged(put, [n], "pending")
        return numbers

    async def transact(self, pairs: int) -> list[int]:
        """Two entries and a row of the bot's own table in one commit, `pairs` times."""
        done: list[int] = []
        for _ in range(pairs):
            first, second = self.take(2)
            own = f"{OWN}{first}"
            say("together", [first, second, own])
            say("may", [first, second], ["pending"])
            say("may", [own], ["there"])
            async with self.outbox.transaction() as tx:
                await tx.execute("create table if not exists own (n integer primary key)")
                await tx.put("trades", row(first))
                await tx.execute("insert into own values (?)", (first,))
                await tx.put("trades", row(second))
            say("is", [first, second], ["pending"])
            say("is", [own], ["there"])
            done += [first, second]
        return done

    async def drain(self, numbers: Sequence[int]) -> None:
        """Send everything that is pending; `numbers` are all of it."""
        good, bad = ends_of(numbers)
        say("may", good, ["delivered"])
        say("may", bad, ["dead"])
        await self.outbox.drain()
        say("is", good, ["delivered"])
        say("is", bad, ["dead"])

    async def discard_dead(self, numbers: Sequence[int]) -> None:
        say("may", numbers, ["discarded"])
        await self.outbox.discard(everything=True, reason="power test")
        say("is", numbers, ["discarded"])

    async def requeue_dead(self, numbers: Sequence[int]) -> None:
        say("may", numbers, ["pending"])
        await self.outbox.requeue(everything=True)
        say("is", numbers, ["pending"])

    async def prune(self, numbers: Sequence[int]) -> None:
        """Eight days later: what was settled and discarded goes."""
        say("may", numbers, ["absent"])
        gone = (await self.outbox.stats()).pruned + len(numbers)
        self.clock.advance(8 * _DAY_S)
        while (await self.outbox.stats()).pruned < gone:
            self.clock.advance(60)  # each look gives way to the housekeeper, which may have been busy before
        say("is", numbers, ["absent"])


async def young(bot: Bot) -> None:
    """The first life: a few rows in a new file."""
    await bot.put(12)
    await bot.transact(1)


async def busy(bot: Bot) -> None:
    """Everything that a bot does, and enough commits for SQLite to copy the WAL back and begin it anew, twice."""
    old = [*range(1, 15)]  # what `young` has left
    numbers = [n for size in (1, 3, 8, 20) for n in await bot.put(size, words=size)]
    await bot.drain([*old, *numbers])
    _, bad = ends_of([*old, *numbers])
    await bot.requeue_dead(bad)
    await bot.drain(bad)
    await bot.discard_dead(bad)
    await bot.prune([*old, *numbers])
    keyed = await bot.put_keyed(6)
    say("may", keyed, ["delivered", "dead"])
    async with bot.outbox.flushing():
        for size in (1, 5, 2, 9):
            keyed += await bot.put(size, sending=True)
        await bot.drain(keyed)
    await bot.transact(6)
    for size in itertools.islice(itertools.cycle((1, 2, 1, 4)), 240):
        await bot.put(size)
    await bot.put(12, words=60)


async def brief(bot: Bot) -> None:
    """A few puts, each a commit of its own, with ids that the bot has chosen."""
    for number in bot.take(6):
        say("may", [number], ["pending"])
        put = bot.outbox.put("fills", row(number), id=f"given-{number}")
        await acknowledged(put, [number], "pending")


async def repeated(bot: Bot) -> None:
    """Put the same once more, as a bot does after a crash: "it is there already" is an acknowledgement too."""
    await brief(bot)
    await bot.put(1)


Life = Callable[[Bot], Awaitable[None]]
LIVES: dict[str, Life] = {life.__name__: life for life in (young, busy, brief, repeated)}


# ------------------------------------------------------------------------------------------ protections taken away


def without_full_sync() -> None:
    """Take SQLite's NORMAL (1): the WAL is synced by checkpoints alone."""
    database._FULL = 1


def without_wal() -> None:
    """Take a rollback journal, and tell the outbox that it has what it asked for."""
    asked = database.pragma

    # What `make_durable` asks for, and reads back.
    async def pragma(connection: aiosqlite.Connection, text: str) -> object:
        if text != "journal_mode" and text != "journal_mode = wal":
            return await asked(connection, text)
        assert await asked(connection, "journal_mode = delete") == "delete"
        return "wal"

    database.pragma = pragma
    # There is no -wal whose absence would say something.
    FileWatch.remember = lambda self: None  # type: ignore[method-assign]


def with_extra() -> None:
    """Take SQLite's EXTRA (3): it also syncs the folder once a rollback journal is gone."""
    database._FULL = 3


def without_folder_sync() -> None:
    files.sync_folder = lambda folder: None


def without_the_newest_migration() -> None:
    """Be the version before the planted step, whose file a later one finds."""
    before = with_planted()[:-1]
    migrate.shipped = lambda: before


WITHOUT: dict[str, Callable[[], None]] = {
    "full-sync": without_full_sync,
    "wal": without_wal,
    "extra": with_extra,
    "folder-sync": without_folder_sync,
    "later-migrations": without_the_newest_migration,
}


async def main(life: Life, path: Path, first: int) -> None:
    clock = ManualClock()
    newest = len(migrate.shipped())
    say("may", [SCHEMA], [str(version) for version in range(1, newest + 1)])
    remote = ScriptedTransport(otherwise=remote_end)
    async with Outbox.open(
        Settings(path=path, source="power", reserve_bytes=RESERVE_BYTES), clock=clock, transport=remote
    ) as outbox:
        say("is", [SCHEMA], [str(newest)])
        await life(Bot(outbox, clock, first))


if __name__ == "__main__":
    plant()  # so that there is something to migrate
    for name in sys.argv[4:]:
        WITHOUT[name]()
    asyncio.run(main(LIVES[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3])))
