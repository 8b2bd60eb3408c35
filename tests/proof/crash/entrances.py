"""The victims of `test_entrances.py`: a bot that trades until it is killed, by one of the ways into an outbox.

usage: entrances.py ENTRANCE OUTBOX_FILE BROKER_FILE [without-ids]

Each life begins by putting all fills that the broker remembers, as brokers tell them again after a restart, and goes on
with new ones. It prints `["trades", number]` for each acknowledged row. A new entrance is a function and a line of
`ENTRANCES`. without-ids: the fills' own ids are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import random
import signal
import sqlite3
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from outbox import BlockingOutbox, Outbox, Settings
from outbox.cli import main as command_line
from outbox.store.database import EXPOSED_TO_WAL_RESET_BUG

# What a fill's id is made of, so that it is the same in every life.
_BROKER = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
_ORDERS = ["EURUSD", "GBPUSD", "USDJPY"]
THREADS = 4


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution, as the broker tells it: the first time and every time after."""

    number: int
    natural_id: bool

    @property
    def row(self) -> dict[str, object]:
        """The row of `trades`, made of what the broker stores alone: no clock, no dice."""
        symbol = _ORDERS[self.number % len(_ORDERS)]
        told = {"trade_id": str(self.number), "symbol": symbol, "timestamp": "2026-01-01T00:00:00Z"}
        return {"session_id": "storm", **told}

    @property
    def id(self) -> str | None:
        return str(uuid.uuid5(_BROKER, str(self.number))) if self.natural_id else None


class Broker:
    """Remembers every fill in a file, before the bot hears of it. Safe from any thread."""

    def __init__(self, file: Path, *, natural_ids: bool) -> None:
        self._file = os.open(file, os.O_CREAT | os.O_RDWR | os.O_APPEND)
        self._fills = len(file.read_bytes().splitlines())
        self._natural_ids = natural_ids
        self._turn = threading.Lock()

    def told_again(self) -> list[Fill]:
        return [self._fill(number) for number in range(self._fills)]

    def trade(self) -> Fill:
        with self._turn:
            fill = self._fill(self._fills)
            os.write(self._file, f"{fill.number}\n".encode())
            self._fills += 1
        return fill

    def _fill(self, number: int) -> Fill:
        return Fill(number, self._natural_ids)


def say(fill: Fill) -> None:
    """One line, at once and whole, from any thread."""
    os.write(1, (json.dumps(["trades", str(fill.number)]) + "\n").encode())


# ------------------------------------------------------------------------------------------ the entrances


def with_asyncio(path: Path, broker: Broker) -> None:
    """Tasks of one event loop await `put`."""

    async def trade_for_ever(outbox: Outbox) -> None:
        while True:
            fill = broker.trade()
            await outbox.put("trades", fill.row, id=fill.id)
            say(fill)

    async def main() -> None:
        async with Outbox.open(Settings(path=path)) as outbox, outbox.flushing(), asyncio.TaskGroup() as tasks:
            await asyncio.gather(*(outbox.put("trades", fill.row, id=fill.id) for fill in broker.told_again()))
            for _ in range(THREADS):
                tasks.create_task(trade_for_ever(outbox))

    asyncio.run(main())


def blocking(path: Path, broker: Broker) -> None:
    """A program without asyncio, with threads of its own, has a `BlockingOutbox`."""
    with BlockingOutbox(Settings(path=path)) as outbox, ThreadPoolExecutor(THREADS) as threads:
        for told in [outbox.put_nowait("trades", fill.row, id=fill.id) for fill in broker.told_again()]:
            told.result()

        def trade_for_ever() -> None:
            while True:
                fill = broker.trade()
                outbox.put("trades", fill.row, id=fill.id)
                say(fill)

        for done in [threads.submit(trade_for_ever) for _ in range(THREADS)]:
            done.result()


def from_threads(path: Path, broker: Broker) -> None:
    """An asyncio program whose broker calls back in threads has `put_threadsafe`."""

    def call_back(outbox: Outbox) -> None:
        while True:
            fill = broker.trade()
            outbox.put_threadsafe("trades", fill.row, id=fill.id).result()
            say(fill)

    async def main() -> None:
        async with Outbox.open(Settings(path=path)) as outbox, outbox.flushing():
            told = [outbox.put_threadsafe("trades", fill.row, id=fill.id) for fill in broker.told_again()]
            await asyncio.gather(*map(asyncio.wrap_future, told))
            await asyncio.gather(*(asyncio.to_thread(call_back, outbox) for _ in range(THREADS)))

    asyncio.run(main())


def by_command(path: Path, broker: Broker) -> None:
    """Each batch of fills goes to an `outbox put` of its own by a pipe; a bot runs in every other life."""
    if _by_chance():
        _beside(lambda: _run_a_bot(path))
    batch = broker.told_again()
    while True:
        # Two out of three tell the last ones once more: a shell that was cut off begins at its last mark.
        _put_by_command(path, batch)
        for fill in batch:
            say(fill)
        batch = [broker.trade() for _ in range(random.choice((1, 3, 40)))] + batch[: random.choice((0, 5, 5))]


def _put_by_command(path: Path, fills: Sequence[Fill]) -> None:
    lines = "".join(json.dumps({**fill.row, **({"id": fill.id} if fill.id else {})}) + "\n" for fill in fills)
    reading, writing = os.pipe()

    def put() -> None:
        os.close(writing)
        os.dup2(reading, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["outbox", "put", "trades", "-", "--keep", "--path", str(path), "--timeout", "30"]
        command_line()

    child = _beside(put)
    os.close(reading)
    with os.fdopen(writing, "w") as pipe, contextlib.suppress(BrokenPipeError):
        pipe.write(lines)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise RuntimeError("outbox put has failed")


def by_shell(path: Path, broker: Broker) -> None:
    """A shell inserts into the file: beside a bot if its SQLite has no WAL-reset bug, else between two bots."""
    with BlockingOutbox(Settings(path=path)) as outbox:  # makes the file; sends what an earlier life has left
        outbox.drain(timeout=0.2)
    if not EXPOSED_TO_WAL_RESET_BUG and _by_chance():
        _beside(lambda: _run_a_bot(path))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as shell:
        shell.execute("begin immediate")
        for fill in broker.told_again():
            _insert(shell, fill)
        shell.execute("commit")
        while True:
            fill = broker.trade()
            _insert(shell, fill)
            say(fill)


def _insert(shell: sqlite3.Connection, fill: Fill) -> None:
    facts = ("trades", json.dumps(fill.row))
    if fill.id is None:
        shell.execute("insert into outbox (destination, payload) values (?, ?)", facts)
    else:
        shell.execute("insert or ignore into outbox (id, destination, payload) values (?, ?, ?)", (fill.id, *facts))


def _by_chance() -> bool:
    return random.random() < 0.5


def _run_a_bot(path: Path) -> None:
    with BlockingOutbox(Settings(path=path, poll_s=0.02)):
        threading.Event().wait()


def _beside(work: Callable[[], object]) -> int:
    """Fork a process that does `work`, and that is killed when this one is; return its number."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == parent:  # else it was killed before that was said
            work()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        os._exit(code)


ENTRANCES: dict[str, Callable[[Path, Broker], None]] = {
    "async": with_asyncio,
    "blocking": blocking,
    "threads": from_threads,
    "shell": by_shell,
}
if sys.platform == "linux":
    ENTRANCES["put"] = by_command  # it forks, and its children end with it


def run(arguments: list[str]) -> None:
    """Live one life."""
    entrance, path, broker, *options = arguments
    ENTRANCES[entrance](Path(path), Broker(Path(broker), natural_ids="without-ids" not in options))


if __name__ == "__main__":
    run(sys.argv[1:])
