"""What a damaged file, or a -wal that does not fit, means; no I/O."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

# SQLite adds 1 to the first salt whenever it restarts the WAL, at most every 1,000 pages; a bot would have to write
# 4 TB in one run to exceed this. A foreign WAL's salt is random: 1 in 4,096 looks like ours.
_RESTARTS = 1 << 20


class Evidence(NamedTuple):
    """What is known about a file without trusting it. None: unknown.

    outbox: it is or was an outbox. own_tables: the bot keeps tables of its own in it.
    """

    outbox: bool | None
    own_tables: bool | None


class Remedy(Enum):
    """What may be done with a damaged file."""

    SET_ASIDE = auto()  # it held only the outbox: rename it and begin a new one, so that trading continues
    REFUSE = auto()  # it holds the bot's own tables, or nobody can tell: leave it as it is
    NOT_OURS = auto()  # nothing shows that it was ever an outbox


def remedy(evidence: Evidence) -> Remedy:
    """Return what may be done: only what is known for certain to be the outbox's own is ever moved."""
    if not evidence.outbox:
        return Remedy.NOT_OURS
    return Remedy.SET_ASIDE if evidence.own_tables is False else Remedy.REFUSE


class Wal(Enum):
    """How a -wal matches its database."""

    FITS = auto()
    MISSING = auto()  # the database says that it was in use, and there is none
    STRANGE = auto()  # it does not look like the one that this database had


def judge_wal(*, whole: bool, open_salt: int | None, exists: bool, salt: int | None) -> Wal:
    """Return how the -wal matches its database.

    whole: whether the database without it holds all that was acknowledged, or cannot be read without it at all.
    open_salt: the WAL's first salt when the database was last opened; None: it was closed cleanly, or cannot be read.
    exists: whether there is a -wal. salt: its first salt; None: it holds nothing that SQLite would use.
    """
    if open_salt is None:
        # It is a killed shell's; or a backup, closed cleanly, was put where a dead bot's -wal still lies.
        return Wal.FITS if whole or salt is None else Wal.STRANGE
    if not exists:
        return Wal.MISSING
    if salt is None or (salt - open_salt) % (1 << 32) < _RESTARTS:
        return Wal.FITS
    return Wal.STRANGE


class Loss(NamedTuple):
    """Entries that were acknowledged and are missing from the file. certain: False if some may be missing.

    first, last: their numbers; last is None if unknown.
    """

    first: int
    last: int | None
    certain: bool

    @property
    def words(self) -> str:
        """What happened, as a sentence."""
        if self.certain:
            return (
                f"entries {self.first} to {self.last} were acknowledged and are not in the file:"
                " its -wal was lost, damaged or replaced, or an older copy of the file was put in its place"
            )
        return (
            f"the file was in use when it was last written to, and came without its -wal: entries from {self.first} on"
            " may be missing"
        )


def judge_loss(*, seq: int, mark: int | None, wal: Wal) -> Loss | None:
    """Return what is missing from a file whose last entry has the number `seq`; None: nothing, as far as is known.

    mark: the highest number that was acknowledged; None: the files beside it do not say.
    """
    if mark is not None:
        # A shell that closes the file after a crash checkpoints the -wal and removes it: no loss.
        return Loss(seq + 1, mark, certain=True) if mark > seq else None
    return Loss(seq + 1, None, certain=False) if wal is Wal.MISSING else None
