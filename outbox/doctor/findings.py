"""What the state of the machine and of the file means, and the command that fixes it; no I/O.

Facts go in, findings come out: one for each thing checked, including what is in order.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple


class Severity(IntEnum):
    """How bad a finding is; the worst one is the exit code."""

    OK = 0
    WARNING = 1  # rows arrive, or would; something is not as it should be
    FAULT = 2  # rows do not arrive, or are not safe
    UNREADABLE = 3  # the file is missing, damaged, or no outbox

    @property
    def words(self) -> str:
        return self.name.lower()


class Finding(NamedTuple):
    """check: what was checked. says: what was found, a sentence. fix: the command that fixes it, or what to do.

    skipped: it could not be checked, so the finding says nothing about the state.
    """

    check: str
    severity: Severity
    says: str
    fix: str | None = None
    skipped: bool = False

    @property
    def word(self) -> str:
        """How bad it is, in one word."""
        return "skipped" if self.skipped else self.severity.words


def skipped(check: str, why: str) -> Finding:
    """Return the finding for what could not be checked."""
    return Finding(check, Severity.OK, f"not looked at: {why}", skipped=True)


class WalFacts(NamedTuple):
    """bytes: its size. readers: processes that still read an older state than the newest: it cannot start over."""

    bytes: int
    readers: tuple[int, ...] = ()


class Trial(NamedTuple):
    """A commit that was tried in the file's folder. seconds: how long it took; error: why it failed."""

    seconds: float | None
    error: str | None = None


_OK, _WARNING, _FAULT, _UNREADABLE = Severity.OK, Severity.WARNING, Severity.FAULT, Severity.UNREADABLE

_MIB = 1024 * 1024
# SQLite copies the WAL back every 1,000 pages, 4 MB: if it is far larger, something is holding it back.
_LARGE_WAL_BYTES = 32 * _MIB
# A checkpoint needs room to copy the WAL back, and an outage needs room for its rows: 1 MB is some 2,000 trades.
_LITTLE_SPACE_BYTES, _NO_SPACE_BYTES = 500 * _MIB, 50 * _MIB
# The Date header has whole seconds, and the round trip takes time.
_OFF_S, _FAR_OFF_S = 5.0, 300.0
# A commit on a spinning disk takes 10 to 20 ms.
_SLOW_COMMIT_S = 0.1
# Locks and shared memory are unreliable there, or do not work (sqlite.org/wal.html, sqlite.org/useovernet.html).
_NETWORK = frozenset(
    {"9p", "afpfs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
)
_MEMORY = frozenset({"ramfs", "tmpfs"})


def typed(path: Path) -> str:
    """Return a path quoted for the shell."""
    return shlex.quote(str(path))


# ------------------------------------------------------------------------------------------ the file


def permissions(modes: Mapping[Path, int] | None, *, writable: bool) -> Finding:
    """Judge who may read the file and those beside it. modes: their permission bits; None: the system has none."""
    if not writable:
        return Finding(
            "permissions", _WARNING, "this user may not write to the file or its folder; the bot's user must"
        )
    if modes is None:
        return skipped("permissions", "this system keeps them in access lists")
    open_ones = [each for each, mode in modes.items() if mode & 0o077]
    if open_ones:
        names = ", ".join(each.name for each in open_ones)
        fix = f"chmod 600 {' '.join(map(typed, open_ones))}"
        return Finding("permissions", _WARNING, f"other users of this machine may read {names}", fix)
    return Finding("permissions", _OK, "the file belongs to its owner alone")


def integrity(path: Path, damage: Sequence[str], *, thorough: bool) -> Finding:
    """Judge what SQLite's own check said. damage: its complaints."""
    name = "integrity_check" if thorough else "quick_check"
    if not damage:
        return Finding("integrity", _OK, f"SQLite's {name} finds nothing wrong")
    more = f", and {len(damage) - 1:,} more" if len(damage) > 1 else ""
    return Finding(
        "integrity",
        _UNREADABLE,
        f"SQLite's {name} says the file is damaged: {damage[0]}{more}",
        f"stop the bot, and keep a copy of all its parts: cp {typed(path)}* /somewhere/safe/; then start it, or outbox"
        " drain: the damaged file is set aside, and outbox status says how to bring its entries over",
    )


def durability(path: Path, wal_mode: bool | None, filesystem: str | None, trial: Trial) -> Finding:
    """Judge whether a commit here survives a power loss, as far as software can tell."""
    if wal_mode is False:
        return Finding(
            "durability",
            _FAULT,
            "the file is not in WAL mode, and the outbox will not open it",
            f'stop what uses it, then: sqlite3 {typed(path)} "pragma journal_mode=wal"',
        )
    if filesystem in _NETWORK:
        says = f"the file is on a network file system ({filesystem}), where SQLite's locks and WAL are not safe"
        return Finding("durability", _FAULT, says, "move it to a disk of this machine, and set OUTBOX_PATH")
    if filesystem in _MEMORY:
        says = f"the file is in memory ({filesystem}) and is gone after a power loss"
        return Finding("durability", _FAULT, says, "move it to a disk, and set OUTBOX_PATH")
    if trial.seconds is None:
        says = f"WAL and synchronous=FULL could not be tried in the file's folder: {trial.error}"
        return Finding("durability", _WARNING, says, "run this as the bot's user")
    took = f"WAL and synchronous=FULL are granted here; a synced commit took {trial.seconds * 1000:,.1f} ms"
    if trial.seconds > _SLOW_COMMIT_S:
        return Finding("durability", _WARNING, f"{took}, which is slow: puts wait for it, but share it")
    return Finding("durability", _OK, took)


def disk(free_bytes: int) -> Finding:
    """Judge the space that is left for the file."""
    says = f"{free_bytes / 1e9:,.1f} GB free" if free_bytes >= 1e9 else f"{free_bytes / 1e6:,.0f} MB free"
    fix = "make room on that disk: when it is full, a put raises DiskFull"
    if free_bytes < _NO_SPACE_BYTES:
        return Finding("disk", _FAULT, says, fix)
    return Finding("disk", _WARNING, says, fix) if free_bytes < _LITTLE_SPACE_BYTES else Finding("disk", _OK, says)


def wal(facts: WalFacts) -> Finding:
    """Judge the size of the WAL, and who keeps it from being copied back."""
    size = f"the WAL has {facts.bytes / _MIB:,.1f} MiB"
    if facts.bytes < _LARGE_WAL_BYTES:
        return Finding("wal", _OK, size)
    if facts.readers:
        who = ", ".join(map(str, facts.readers))
        return Finding(
            "wal",
            _WARNING,
            f"{size}: process {who} has been reading an old state, and holds it back",
            f"end its transaction or its sqlite3 shell; who it is: ps -p {','.join(map(str, facts.readers))}",
        )
    return Finding("wal", _WARNING, f"{size}; it is made small again when the bot closes the file", "restart the bot")


def engine(version: str, *, exposed: bool) -> Finding:
    """Judge the SQLite version here, which is the bot's if it uses the same environment."""
    name = f"SQLite {version}"
    if not exposed:
        return Finding("sqlite", _OK, f"{name} has the fix for the WAL-reset bug")
    # Not a warning: it takes two writers at once, and the file lock keeps a second one out, unless it is a shell.
    says = f"{name} has the WAL-reset bug: never write from a shell while a bot runs; all else is safe"
    return Finding("sqlite", _OK, says)


def writer(pid: int | None, *, running: bool | None) -> Finding:
    """Report whether a bot has the file open; either is in order. running: None: this user may not ask."""
    if running is None:
        return skipped("writer", "the lock file is another user's; the bot's own user may see")
    says = f"process {pid or 'unknown'} has the file open for writing" if running else "no bot has the file open"
    return Finding("writer", _OK, says)


# ------------------------------------------------------------------------------------------ the clock

_SET_CLOCK = {
    "darwin": "sudo sntp -sS time.apple.com",
    "win32": "w32tm /resync",
    "linux": "sudo timedatectl set-ntp true",
}


def clock(*, now_ms: int, newest_put_ms: int | None, ahead_s: float | None, platform: str) -> Finding:
    """Judge this machine's clock. ahead_s: how far it is ahead of the remote end's; None: that was not asked."""
    fix = _SET_CLOCK.get(platform, "set the clock")
    if ahead_s is not None and abs(ahead_s) > _OFF_S:
        severity = _FAULT if abs(ahead_s) > _FAR_OFF_S else _WARNING
        way = "ahead of" if ahead_s > 0 else "behind"
        says = f"this machine's clock is {abs(ahead_s):,.0f} s {way} the remote end's: timestamps are wrong"
        return Finding("clock", severity, says, fix)
    back_s = 0.0 if newest_put_ms is None else (newest_put_ms - now_ms) / 1000
    if back_s > _OFF_S:
        says = f"the newest entry was put {back_s:,.0f} s from now: the clock was wrong then, or is now"
        return Finding("clock", _WARNING, says, fix)
    compared = "agrees with the remote end's" if ahead_s is not None else "has not gone back"
    return Finding("clock", _OK, f"this machine's clock {compared}")


# ------------------------------------------------------------------------------------------ what waits


def dead_letters(number: int) -> Finding:
    """Judge how many entries the server refused for good."""
    if not number:
        return Finding("dead letters", _OK, "none")
    says = f"{number:,} {'entry was' if number == 1 else 'entries were'} refused by the server for good; kept"
    return Finding("dead letters", _WARNING, says, "outbox ls --state dead")


def pause(subject: str, reason: str, said: str, *, fix: str | None, fixed: bool) -> Finding:
    """Judge one pause, in the words that the server gave then. subject: what is not sent; "": nothing is sent at all.

    fixed: the remote end was asked just now and no longer complains.
    """
    what = f"{subject} is not sent" if subject else "nothing is sent"
    says = f"{what}: {reason.replace('_', ' ')}{f' ({said})' if said else ''}"
    if fixed:
        return Finding("pauses", _WARNING, f"{says}; that is over now, the next try will find out", _RELOAD)
    return Finding("pauses", _FAULT, says, f"{fix}; then: {_RELOAD}" if fix and _RELOAD not in fix else fix or _RELOAD)


_RELOAD = "outbox reload"


def settings(error: str | None, warnings: Sequence[str]) -> list[Finding]:
    """Judge the settings. error: why they cannot be used at all."""
    if error is not None:
        fix = "correct it in the environment or in .env"
        return [Finding("settings", _FAULT, error, fix)]
    return [Finding("settings", _WARNING, each) for each in warnings] or [Finding("settings", _OK, "they can be used")]
