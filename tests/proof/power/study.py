"""The whole course: record the lives of a bot, cut the power at many moments, look at what each cut leaves.

    python -m tests.proof.power.study            a table: the outbox as it is, and with a protection taken away
    POWER_IMAGES=50000 python -m ...      as many images for each, instead of 2,000

Needs strace, so Linux.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import random
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from outbox import Outbox, OutboxError, Settings
from outbox.testing import ScriptedTransport
from tests.proof.power.checker import facts_of, write_out
from tests.proof.power.images import Disk, Image, Luck, replay
from tests.proof.power.ledger import Facts, Ledger
from tests.proof.power.operations import Mark, Operation, Resize, Sync, Write
from tests.proof.power.recorder import Kill, Recorder, run
from tests.proof.power.workload import RESERVE_BYTES
from tests.store.planted import plant

PROJECT = Path(__file__).parents[3]
WORKLOAD = Path(__file__).with_name("workload.py")
# Without the prefix OUTBOX_: the library would warn of a setting that it does not know.
WANTED = int(os.environ.get("POWER_IMAGES", "2000"))
# Two new folders above the file: their names must be durable too.
STORE = "data/bot/bot.db"
# The library opens one image in that many, 40 ms for each; 1: all of them.
REOPENED = int(os.environ.get("POWER_REOPENED", "32"))
_PROCESSES = 2
_INDEX_BYTES = 32_768


@dataclass(frozen=True, slots=True)
class Life:
    """One process: what it does (`workload.LIVES`), its first number, without what, and whether it is killed."""

    name: str
    first: int
    without: tuple[str, ...] = ()
    kill: Kill | None = None


def a_bots_lives(*without: str) -> list[Life]:
    """A new file of the first version; migrated, used for everything; killed inside a sync; opened again."""
    return [
        Life("young", 1, ("later-migrations", *without)),
        Life("busy", 1000, without),
        Life("brief", 3000, without, Kill("fdatasync", 4)),
        Life("repeated", 3000, without),
    ]


def record(lives: Iterable[Life]) -> list[Operation]:
    """Live `lives` one after the other in a new folder, and return what they asked of the operating system."""
    with tempfile.TemporaryDirectory(prefix="outbox-power-") as folder:
        root = (Path(folder) / "root").resolve()
        root.mkdir()
        recorder = Recorder(str(root))
        for life in lives:
            command = [sys.executable, str(WORKLOAD), life.name, str(root / STORE), str(life.first), *life.without]
            environment = {"PYTHONPATH": os.pathsep.join((str(PROJECT), str(PROJECT / "scripts")))}
            log = Path(folder) / "strace.log"
            recorder.read(run(command, cwd=Path(folder), log=log, environment=environment, kill=life.kill))
        return recorder.operations


# ------------------------------------------------------------------------------------------ what is looked at


@dataclass(frozen=True, slots=True)
class Cut:
    """One power cut: after how many moments of the recording, and with what luck."""

    moment: int
    luck: Luck
    seed: int


def plain_cuts(operations: Iterable[Operation]) -> list[Cut]:
    """Return a cut wherever most is at stake, in their order.

    When a sync begins, which leaves the most in the air, with every kind of luck; and when something is said, which
    leaves the most to be kept, with the worst.
    """
    cuts: list[Cut] = []
    for moment, (operation, begins) in enumerate(replay(operations), 1):
        if begins and isinstance(operation, Mark):
            cuts.append(Cut(moment, Luck.NOTHING, 0))
        elif begins and isinstance(operation, Sync):
            cuts += [Cut(moment, luck, 0) for luck in Luck if luck is not Luck.DICE]
    return cuts


def diced_cuts(operations: Iterable[Operation], count: int, seed: int) -> list[Cut]:
    """Return `count` cuts at random moments at which data are in the air, in their order."""
    moments, disk = [], Disk()
    for moment, (operation, begins) in enumerate(replay(operations), 1):
        if isinstance(operation, Mark):
            continue
        disk.begin(operation) if begins else disk.end(operation)
        if begins and any(isinstance(each, Write | Resize) for each in disk.pending()):
            moments.append(moment)
    dice = random.Random(seed)
    chosen = sorted(dice.choices(moments, k=count))
    return [Cut(moment, Luck.DICE, dice.getrandbits(32)) for moment in chosen]


@dataclass(slots=True)
class Outcome:
    """What the cuts have left. losing: cuts that lost something acknowledged. images: the different ones, by digest;
    True: at one of its cuts it had lost something. broken: those that were wrong in any way.
    """

    cuts: int = 0
    losing: int = 0
    images: dict[bytes, bool] = field(default_factory=dict)
    broken: set[bytes] = field(default_factory=set)
    reopened: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """In how many images something acknowledged was gone."""
        return sum(self.images.values())

    def add(self, other: Outcome) -> None:
        for name, lost in other.images.items():
            self.images[name] = lost or self.images.get(name, False)
        self.broken |= other.broken
        self.cuts += other.cuts
        self.losing += other.losing
        self.reopened += other.reopened
        self.examples += other.examples


def study(operations: list[Operation], wanted: int = WANTED, *, reopen: int = REOPENED) -> Outcome:
    """Make all plain cuts, and throw dice until `wanted` different images have been looked at; in two processes.

    reopen: also let the library open one image in so many, put a row and count; 0: none.
    """
    total = Outcome()
    cuts, seed = plain_cuts(operations), 0
    with ProcessPoolExecutor(_PROCESSES, mp_context=multiprocessing.get_context("spawn"), initializer=plant) as pool:
        while cuts:
            # In parts, because neighbouring cuts often leave the same image, which is then looked at once.
            size = -(-len(cuts) // (4 * _PROCESSES))
            parts = [cuts[start : start + size] for start in range(0, len(cuts), size)]
            for part in pool.map(examined, [operations] * len(parts), parts, [reopen] * len(parts)):
                total.add(part)
            seed += 1
            # Not every throw gives an image of its own; ten rounds are far more than that takes.
            missing = wanted - len(total.images) if seed <= 10 else 0
            cuts = diced_cuts(operations, missing * 3 // 2, seed) if missing > 0 else []
    return total


def examined(operations: Sequence[Operation], cuts: Sequence[Cut], reopen: int = REOPENED) -> Outcome:
    """Look at each of `cuts`, which are in order; reopen: as for `study`."""
    waiting = list(reversed(cuts))
    with _in_memory() as folder:
        look = _Look(folder, reopen)
        for moment, (disk, ledger) in enumerate(_course(operations), 1):
            while waiting and waiting[-1].moment == moment:
                look.at(disk, ledger, waiting.pop())
            if not waiting:
                return look.outcome
    raise ValueError(f"{len(waiting)} cuts lie behind the end of the recording")


def _course(operations: Iterable[Operation]) -> Iterator[tuple[Disk, Ledger]]:
    disk, ledger = Disk(), Ledger()
    for operation, begins in replay(operations):
        if isinstance(operation, Mark):
            if begins:
                ledger.hear(operation.text)
        elif begins:
            disk.begin(operation)
        else:
            disk.end(operation)
        yield disk, ledger


@dataclass(slots=True)
class _Look:
    """Makes images, opens each different one once, and judges it by what had been said when the power was cut."""

    folder: Path
    reopen: int
    outcome: Outcome = field(default_factory=Outcome)
    _facts: dict[bytes, Facts] = field(default_factory=dict)
    _plain: dict[Luck, tuple[int, bytes]] = field(default_factory=dict)

    def at(self, disk: Disk, ledger: Ledger, cut: Cut) -> None:
        name = self._image(disk, cut)
        wrongs = ledger.wrongs(self._facts[name])
        outcome = self.outcome
        outcome.cuts += 1
        lost = any(wrong.lost for wrong in wrongs)
        outcome.losing += lost
        outcome.images[name] = outcome.images.get(name, False) or lost
        if wrongs and name not in outcome.broken:
            outcome.broken.add(name)
            outcome.examples.append(f"{cut}: {'; '.join(wrong.what for wrong in wrongs[:5])}")

    def _image(self, disk: Disk, cut: Cut) -> bytes:
        """Return the digest of the image, whose facts are known now."""
        version, name = self._plain.get(cut.luck, (-1, b""))
        if cut.luck is not Luck.DICE and version == disk.version:
            return name
        image = disk.image(cut.luck, random.Random(cut.seed))
        name = _name(image)
        self._plain[cut.luck] = disk.version, name
        if name not in self._facts:
            self._facts[name] = self._opened(image, name)
        return name

    def _opened(self, image: Image, name: bytes) -> Facts:
        facts = facts_of(image, STORE, self.folder, index=_index(name))
        if not self.reopen or name[0] % self.reopen or STORE not in image:
            return facts
        self.outcome.reopened += 1
        return Facts(facts.states, facts.faults + _reopened(image, self.folder))


def _name(image: Image) -> bytes:
    """Return a digest of what a reader of the image sees."""
    digest = hashlib.sha256()
    for path, content in sorted(image.items()):
        if not path.endswith(("-shm", ".lock")):
            digest.update(f"{path}\0{len(content)}\0".encode() + content)
    return digest.digest()


def _index(name: bytes) -> bytes | None:
    """Return the WAL-index that this crash leaves: mostly none, else zeros or garbage."""
    kind = name[1] % 4
    return None if kind < 2 else bytes(_INDEX_BYTES) if kind == 2 else name * (_INDEX_BYTES // len(name))


def _reopened(image: Image, folder: Path) -> tuple[str, ...]:
    """Let the library itself open the image, put a row and close; return what goes wrong."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write_out(image, Path(place))
        return asyncio.run(_used(Path(place) / STORE))


async def _used(path: Path) -> tuple[str, ...]:
    try:
        return await _counted_on(path)
    except OutboxError as error:
        return (f"the library says {error}",)


async def _counted_on(path: Path) -> tuple[str, ...]:
    async with Outbox.open(
        Settings(path=path, source="power", reserve_bytes=RESERVE_BYTES), transport=ScriptedTransport()
    ) as outbox:
        before = await outbox.stats()
        await outbox.put("trades", {"n": -1})
        after = await outbox.stats()
        return () if after.pending == before.pending + 1 else (f"{before.pending} pending, then {after.pending}",)


@contextmanager
def _in_memory() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of images need no disk."""
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="outbox-power-", dir=where) as folder:
        yield Path(folder)


# ------------------------------------------------------------------------------------------ the table

CONTROLS: dict[str, tuple[str, ...]] = {
    "as it is: WAL, FULL": (),
    "synchronous=NORMAL": ("full-sync",),
    "journal_mode=DELETE, FULL": ("wal",),
    "journal_mode=DELETE, EXTRA": ("wal", "extra"),
    "folders not synced": ("folder-sync",),
}


def main() -> int:
    """Print the table."""
    sys.stdout.write(f"{'':28}{'cuts':>8}{'losing':>8}{'images':>8}{'losing':>8}{'unsound':>9}\n")
    for name, without in CONTROLS.items():
        # The library refuses a rollback journal, so it cannot look at those images.
        outcome = study(record(a_bots_lives(*without)), reopen=0 if without else REOPENED)
        unsound = len(outcome.broken) - outcome.lost
        sys.stdout.write(
            f"{name:28}{outcome.cuts:8,}{outcome.losing:8,}{len(outcome.images):8,}{outcome.lost:8,}{unsound:9,}\n"
        )
        sys.stdout.flush()
        if outcome.examples:
            sys.stdout.write("".join(f"    {text}\n" for text in outcome.examples[:2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
