"""Where the bad night happens: the remote end, the bot and its broker, and a disk that can be filled."""

from __future__ import annotations

import csv
import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.rows import TupleRow
from supabase_lite import ROOT, EmbeddedPostgres, SupabaseLite

from night.broker import Broker
from night.terminal import NightError

BARS: Final = ROOT / "scripts" / "data" / "eurusd_h1.csv"
DISK_BYTES: Final = 2 << 30
# The broker numbers its tickets, and 2,147,483,647 is the last that fits an integer: that of fill 130.
LAST_SMALL_TICKET: Final = 130
# The outage of a busy machine lasts longer, and the pause that ends it up to a minute.
_PATIENCE_S: Final = 300
_LOOK_S: Final = 0.02

Sql = psycopg.Connection[TupleRow]


def fills() -> list[dict[str, Any]]:
    """Return what the broker reports in a night, fill 1 first."""
    with BARS.open(newline="", encoding="utf-8") as lines:
        closes = [
            (row["time_utc"], float(row["close"])) for _, row in zip(range(1500), csv.DictReader(lines), strict=False)
        ]
    return [
        {
            "number": number,
            "time": f"{at}Z",
            "price": price,
            "pips": round((price - before) * 10_000, 1),
            "volume": 0.1,
            "ticket": 2_147_483_647 - LAST_SMALL_TICKET + number,
        }
        for number, ((_, before), (at, price)) in enumerate(itertools.pairwise(closes), 1)
    ]


@contextmanager
def own_disk(folder: Path) -> Iterator[bool]:
    """Make `folder` a disk of its own, a file that is mounted; yields False where that needs leave that we have not."""
    image = folder.with_name("disk.img")
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)  # a hole: it takes what is written to it
    commands = [
        ["mkfs.ext4", "-q", "-m", "0", "-J", "size=4", str(image)],
        ["mount", "-o", "loop", str(image), str(folder)],
    ]
    mounted = (
        sys.platform.startswith("linux") and os.geteuid() == 0 and all(shutil.which(command[0]) for command in commands)
    ) and all(subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0 for command in commands)
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


class Home:
    """The bot in its folder, its remote end, and what the file and the remote tables say."""

    def __init__(self, folder: Path, remote: SupabaseLite, postgres: EmbeddedPostgres, logs: Path) -> None:
        """folder: of the bot. logs: a folder elsewhere, for what the bot says on stderr."""
        self.folder = folder
        self.remote = remote
        self.postgres = postgres
        self.store = folder / "bot.db"
        self.broker = Broker(folder, logs / "bot.log")
        self._fills = fills()
        self.fed = 0

    # ------------------------------------------------------------------------------------------ what happens

    def configure(self) -> None:
        """Write the .env with the project's present key."""
        lines = [
            "OUTBOX_PATH=bot.db",
            f"SUPABASE_URL={self.remote.url}",
            f"SUPABASE_SECRET_KEY={self.remote.secret_key}",
        ]
        (self.folder / ".env").write_text("\n".join([*lines, "OUTBOX_SOURCE=night-bot", ""]), encoding="utf-8")

    def trade(self, number: int, **quirks: Mapping[str, Any]) -> None:
        """Let the broker report that many fills. quirks: `fill_N`, what is odd about fill N."""
        fresh = [{**fill, **quirks.get(f"fill_{fill['number']}", {})} for fill in self._next(number)]
        self.broker.report(fresh)

    def _next(self, number: int) -> Sequence[dict[str, Any]]:
        begin, self.fed = self.fed, self.fed + number
        return self._fills[begin : self.fed]

    def start_bot(self) -> None:
        """Start the bot; the broker goes on with what was not acknowledged."""
        self.fed = self.acknowledged
        self.broker.start()

    def fill_disk(self) -> None:
        """Let another program's log take all the room that is left on the bot's disk."""
        with (self.folder / "broker.log").open("wb", buffering=0) as log:
            with suppress(OSError):  # no room left
                os.posix_fallocate(log.fileno(), 0, shutil.disk_usage(self.folder).free)
            with suppress(OSError):
                log.seek(0, os.SEEK_END)
                while log.write(bytes(4096)):
                    pass

    def migrate(self, statement: str) -> None:
        """Somebody changes the remote tables, and the REST server learns of it: Supabase's does so by itself."""
        with self.sql() as sql:
            sql.execute(statement.encode())
        self.remote.stop()
        self.remote.start()

    @contextmanager
    def held(self, table: str) -> Iterator[None]:
        """Keep a remote table locked: a request that writes to it has reached the server and is not answered."""
        with self.sql() as sql, sql.transaction():
            sql.execute(f"lock table public.{table} in share mode".encode())
            yield

    def sql(self) -> Sql:
        """Return a superuser's connection to the remote database."""
        return psycopg.connect(self.postgres.dsn, autocommit=True)

    # ------------------------------------------------------------------------------------------ what is the case

    @property
    def acknowledged(self) -> int:
        """How many fills the bot has acknowledged: they are numbered from 1, in order."""
        return len(self.broker.told["trades"])

    def hindered(self) -> bool:
        """Whether the file says that the disk is full; the bot then holds the fill that found it so."""
        return bool(self.read("select 1 from outbox_meta where name = 'reserve_released_ms'"))

    def read(self, query: str) -> list[tuple[Any, ...]]:
        """Return what the bot's file answers; nothing while it cannot be read."""
        try:
            with closing(sqlite3.connect(f"{self.store.as_uri()}?mode=ro", uri=True)) as connection:
                return connection.execute(query).fetchall()
        except sqlite3.OperationalError:  # between two lives the file may be in recovery, or not made yet
            return []

    def count(self, state: str) -> int:
        """Return how many entries are in `state`."""
        ((entries,),) = self.read(f"select coalesce(sum(entries), 0) from outbox_counts where state = '{state}'") or [
            (-1,)
        ]
        return int(entries)

    def waiting_requests(self) -> int:
        """Return how many statements wait in the remote database for a lock."""
        with self.sql() as sql:
            ((waiting,),) = sql.execute("select count(*) from pg_locks where not granted").fetchall()
        return int(waiting)

    def all_acknowledged(self) -> bool:
        """Whether each fill that the broker reported is on the disk."""
        return self.acknowledged == self.fed

    def all_sent(self) -> bool:
        """Whether each fill that the broker reported is on the disk, and nothing waits any more."""
        return self.all_acknowledged() and self.count("pending") == 0

    def paused(self, reason: str, message: str = "%") -> bool:
        """Whether a pause for this reason is in force, behind all that the broker reported. message: as LIKE has it."""
        query = f"select 1 from outbox_pauses where reason = '{reason}' and message like '{message}'"
        return self.all_acknowledged() and bool(self.read(query))

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Return once the condition holds. Raises NightError: not within five minutes."""
        give_up_s = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > give_up_s:
                words = self.broker.last_words()
                raise NightError(f"waited in vain: {what}; {self.acknowledged} of {self.fed} acknowledged\n{words}")
            time.sleep(_LOOK_S)
