"""Every n-th write, sync and truncation fails, once and for good; what a bot was told is compared with the files.

Run it as a program for all cases instead of CI's selection: `python -m tests.proof.disk.sweep` in the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from outbox import Outbox, Settings
from tests.proof.disk.shim import Call, Disk, Fault, File, Image, Record

ROOT = Path(__file__).parents[3]
ERRORS = (errno.EIO, errno.ENOSPC)
# What SQLite does to the files of a WAL database.
PLACES = (
    (Call.WRITE, File.WAL),
    (Call.SYNC, File.WAL),
    (Call.WRITE, File.DATABASE),
    (Call.SYNC, File.DATABASE),
    (Call.TRUNCATE, File.WAL),
    (Call.TRUNCATE, File.DATABASE),
    (Call.SYNC | Call.OPEN, File.WAL | File.DATABASE),  # it cannot be opened again either
)
# Of one kind of call; beyond, CI takes as many, evenly spread.
CI_CALLS = 6


@dataclass(frozen=True, slots=True)
class Found:
    """One case. wrong: what should not be, a sentence each; told: how often a caller was told what."""

    fault: Fault
    failed: int
    told: Counter[str]
    stored: Counter[str]  # of these, how often the row was there after all
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        fault = self.fault
        times = "once" if fault.times else "from there on"
        what = f"{Call(fault.call).name} {fault.first} of the {File(fault.file).name}, {errno.errorcode[fault.error]}"
        return f"{what}, {times}{', torn' if fault.torn else ''}: {'; '.join(self.wrong) or 'right'}"


class Sweep:
    """A bot's process on a disk of ours, and one case after the other in it. A context manager."""

    def __init__(self, folder: Path, naive: str | None = None) -> None:
        self._folder = folder
        self._naive = naive
        self._numbers = iter(range(1_000_000))
        self.disk = Disk.new(folder)
        self._template = folder / "template.db"

    def __enter__(self) -> Self:
        _make(self._template)
        self.start()
        return self

    def start(self) -> None:
        """Start the bot's process."""
        self._bot = subprocess.Popen(
            [sys.executable, "-m", "tests.proof.disk.bot", *([self._naive] if self._naive else [])],
            cwd=ROOT,
            env={**quiet_environment(), **self.disk.environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill the bot's process with SIGKILL."""
        self._bot.kill()
        self._bot.communicate()

    def calls(self, call: Call, file: File) -> int:
        """Return how often the work makes this call when nothing fails."""
        return self._told(Fault(call, file, 2**31, 0, errno.EIO))[1]

    def run(self, fault: Fault) -> Found:
        """Run one case and judge it."""
        return self._told(fault)[0]

    def _told(self, fault: Fault) -> tuple[Found, int]:
        path = self._folder / f"case-{next(self._numbers)}" / "bot.db"
        path.parent.mkdir()
        shutil.copy(self._template, path)
        self._say({"path": str(path), "fault": asdict(fault)})
        during = self._hear()
        wrong = list(self._wrong(path, during["told"]))
        told = during["told"]
        stored = Counter(told[name] for name in ids(self._as_killed(path)) if name in told)
        self._say({})
        after = self._hear()
        wrong += self._durable(path, after["told"])
        self._say({})
        self._hear()  # it has closed
        wrong += _whole(path, after["told"])
        shutil.rmtree(path.parent)
        return Found(fault, during["failed"], Counter(told.values()), stored, tuple(wrong)), during["seen"]

    def life(self, path: Path, which: str, fault: Fault | None = None) -> dict[str, str]:
        """Let the bot put two rows, the second one on a failing disk, kill it, and return what it was told."""
        if not path.exists():
            shutil.copy(self._template, path)
        self._say({"path": str(path), "fault": fault and asdict(fault), "life": which})
        told: dict[str, str] = self._hear()["told"]
        self.kill()
        return told

    def after_a_power_cut(self, path: Path) -> set[str]:
        """Return the ids that are in `path` once the machine has lost what no sync has brought to the disk."""
        image = Image(self._template.read_bytes())
        image.apply(self.disk.records())
        copy = path.with_name("cut") / path.name
        copy.parent.mkdir(exist_ok=True)
        image.write(copy, durable=True)
        return ids(copy)

    def _say(self, content: object) -> None:
        assert self._bot.stdin is not None
        self._bot.stdin.write(json.dumps(content) + "\n")
        self._bot.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._bot.stdout is not None
        heard: dict[str, Any] = json.loads(self._bot.stdout.readline() or '{"told": "the bot has died"}')
        return heard

    # ------------------------------------------------------------------------------------------ what must hold

    def _as_killed(self, path: Path) -> Path:
        """Return a copy of the files: what a process finds that starts after this one was killed."""
        copy = path.with_name("killed") / path.name
        copy.parent.mkdir(exist_ok=True)
        for name in (path.name, path.name + "-wal"):
            shutil.copy(path.with_name(name), copy.parent)
        return copy

    def _wrong(self, path: Path, told: Mapping[str, str]) -> Iterator[str]:
        copy = self._as_killed(path)
        found, own = ids(copy), _own(copy)
        for name, word in told.items():
            if word == "acknowledged" and name not in found:
                yield f"{name} was acknowledged and is not there"
            if word == "nothing" and name in found:
                yield f"of {name} was said that nothing was written, and it is there"
            if word not in ("acknowledged", "nothing", "unknown"):
                yield f"{name} was told {word}"
        if not {"t-0", "t-1"} <= found and ("t" in own or {"t-0", "t-1"} & found):
            yield "half of a transaction is there"
        yield from self._durable(path, told)
        yield from out_of_order(self.disk.records())

    def _durable(self, path: Path, told: Mapping[str, str]) -> Iterator[str]:
        found = self.after_a_power_cut(path)
        for name, word in told.items():
            if word == "acknowledged" and name not in found:
                yield f"{name} was acknowledged and would not survive a power cut"


def out_of_order(records: Sequence[Record]) -> Iterator[str]:
    """Say where something was acknowledged after a failed sync, before a new connection had checkpointed.

    It opens the WAL anew. (The database's descriptor SQLite keeps: closing it would drop the process's locks.) If all
    of the WAL was in the database already, its checkpoint has nothing to do.
    """
    suspect = reopened = written = behind = False  # behind: the WAL holds commits that the database lacks
    for record in records:
        match record:
            case Record(Call.SYNC, error=error) if error:
                suspect, reopened = True, False
            case Record(Call.OPEN, File.WAL, error=0):
                reopened, suspect = True, suspect and behind
            case Record(Call.SYNC, File.DATABASE):
                suspect, behind = suspect and not reopened, False
            case Record(Call.WRITE, File.WAL, offset=offset) if offset > 0:  # at 0 stands the header
                written = True
            case Record(Call.SYNC, File.WAL):
                behind, written = behind or written, False
            case Record(Call.MARK, data=data) if suspect and data.startswith(b"acknowledged"):
                yield f"{data.decode()} after a failed sync, before a new connection's checkpoint"


def _whole(path: Path, told: Mapping[str, str]) -> Iterator[str]:
    """The end of a case: the fault has gone, every id was put again."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = Counter(name for (name,) in db.execute("select id from outbox"))
        (checked,) = db.execute("pragma integrity_check").fetchone()
        ((counted, pending),) = db.execute("select count(*), sum(state = 'pending') from outbox")
        kept = dict(db.execute("select state, sum(entries) from outbox_counts group by state"))
    if checked != "ok":
        yield f"integrity_check: {checked}"
    if (kept.get("pending"), sum(kept.values())) != (pending, counted):
        yield f"the counters say {kept}, there are {counted} rows, {pending} pending"
    for name, word in told.items():
        if word != "acknowledged":
            yield f"{name} was put again and told {word}"
        if rows[name] != 1:
            yield f"{name} is there {rows[name]} times"


def ids(path: Path) -> set[str]:
    """Return the ids in a database that nobody has open, its WAL included."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return {name for (name,) in db.execute("select id from outbox")}


def _own(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return {name for (name,) in db.execute("select name from own")}


def _make(path: Path) -> None:
    """Make the file that every case begins with: an outbox, and a table of the bot's own."""

    async def make() -> None:
        settings = Settings(path=path, reserve_bytes=0, _env_file=None)
        async with Outbox.open(settings) as outbox, outbox.transaction() as tx:
            await tx.execute("create table own (name text)")

    asyncio.run(make())


def quiet_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OUTBOX_", "SUPABASE_"))}
    return {**kept, "PYTHONPATH": str(ROOT)}


# ---------------------------------------------------------------------------------------- the cases


def cases(sweep: Sweep, *, every: bool) -> Iterator[Fault]:
    """Yield the faults of a sweep: all of them, or CI's selection."""
    for call, file in PLACES:
        number = sweep.calls(call, file)
        step = 1 if every else max(1, -(-number // CI_CALLS))
        for first in range(1, number + 1, step):
            for times in (1, 0):
                for error in ERRORS:
                    yield Fault(call, file, first, times, error)
            if call is Call.WRITE:
                yield Fault(call, file, first, 1, errno.EIO, torn=True)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory if there is one: a failing disk need not be slow as well."""
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="outbox-disk-", dir=parent) as folder:
        yield Path(folder)


def main() -> int:
    started = time.monotonic()
    told: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    number = wrong = 0
    with scratch() as folder, Sweep(folder, *sys.argv[1:]) as sweep:
        for fault in cases(sweep, every=True):
            found = sweep.run(fault)
            number, wrong = number + 1, wrong + bool(found.wrong)
            told, stored = told + found.told, stored + found.stored
            if found.wrong:
                print(found, flush=True)  # noqa: T201 - a program
    print(f"{number} cases, {wrong} wrong, {time.monotonic() - started:.0f} s; told: {dict(told)}")  # noqa: T201 - a program
    print(f"of these the row was there after all: {dict(stored)}")  # noqa: T201 - a program
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
