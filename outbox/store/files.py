"""The file's names and folders: where SQLite keeps what belongs to it, and how a name survives a power loss."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import urllib.parse
from pathlib import Path
from typing import Literal

from outbox import logs
from outbox.errors import StoreError, UnsafePath

logger: logs.Logger = logs.named("outbox.store")

# No symbolic link is followed, no named pipe waited at. Windows has neither flag; there a link needs rights that an
# ordinary user lacks.
CAREFUL = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

# How a -wal begins, in one byte order or the other (sqlite.org/fileformat2.html#walformat).
WAL_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")


def wal_path(path: Path) -> Path:
    """Return where SQLite keeps the write-ahead log of `path`."""
    return path.with_name(path.name + "-wal")


def shm_path(path: Path) -> Path:
    """Return where SQLite keeps the index of that log."""
    return path.with_name(path.name + "-shm")


def journal_path(path: Path) -> Path:
    """Return where SQLite keeps the rollback journal of `path`: only until the file is in WAL mode."""
    return path.with_name(path.name + "-journal")


def with_its_own(path: Path) -> tuple[Path, Path, Path, Path]:
    """Return `path` and what SQLite keeps beside it."""
    return path, wal_path(path), shm_path(path), journal_path(path)


def uri(path: Path, mode: Literal["ro", "rw"] = "ro", *, immutable: bool = False) -> str:
    """Return what SQLite opens `path` by, whatever is in its name. immutable: without the -wal, and without locks.

    Raises UnsafePath, as `refuse_odd_files`.
    """
    refuse_odd_files(path)
    # By its bytes: a name on Linux need not be UTF-8.
    return f"file:{urllib.parse.quote(os.fsencode(path))}?mode={mode}{'&immutable=1' if immutable else ''}"


def file_bytes(path: Path) -> int:
    """Return the size of `path`; 0: it is not there, as a WAL after a clean close."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def real_path(path: Path) -> Path:
    """Return `path` without symbolic links, so that one file has one name, one lock and one WAL. Raises StoreError."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links is a RuntimeError before Python 3.13
        raise StoreError(f"{path} cannot be found: {error}", path=path) from error


def refuse_odd_files(path: Path) -> None:
    """Raise UnsafePath: `path`, or what SQLite opens beside it, is no plain file; four `lstat`.

    On a named pipe SQLite would wait for ever; through a symbolic link it would write wherever that leads.
    """
    for each in with_its_own(real_path(path)):
        try:
            mode = each.lstat().st_mode
        except OSError:
            continue  # it is not there, or SQLite will say what is wrong
        if not stat.S_ISREG(mode):
            raise UnsafePath(f"{each} is {_kind(mode)}, no plain file; nothing was opened. Move it away", path=path)


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "a folder" if stat.S_ISDIR(mode) else "a named pipe, a socket or a device"


def refuse_second_path(path: Path) -> None:
    """Raise UnsafePath: `path` has a second name, or is itself a mount point, beside which another lock would stand."""
    try:
        facts = path.lstat()
    except OSError:
        return  # it is not there yet
    if stat.S_ISREG(facts.st_mode) and facts.st_nlink > 1:
        raise UnsafePath(
            f"{path} has {facts.st_nlink} names (hard links); remove all but one: find them with"
            f" `find DIRECTORY -samefile {path}`; nothing was opened",
            path=path,
        )
    if is_elsewhere(facts.st_dev, path):
        logger.warning("database file lies on another device than its folder", extra={"path": str(path)})
    if str(path) in _mount_points():
        raise UnsafePath(
            f"{path} is itself a mount point, so that its -wal would stay outside the mount and be lost with the"
            " container; mount its folder instead (docker run -v ./data:/data); nothing was opened",
            path=path,
        )


def is_elsewhere(device: int, path: Path) -> bool:
    """Return whether a file on `device` has its -wal, which comes into the folder of `path`, on another one.

    Not an error: an overlay also shows a lower layer's file like this.
    """
    return device != path.parent.stat().st_dev


def _mount_points() -> frozenset[str]:
    """Return where Linux has something mounted; elsewhere single files cannot be mounted."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return frozenset()
    # A space, tab, newline or backslash in a name is written in octal, such as \040.
    names = (re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split()[4]) for line in lines)
    return frozenset(os.fsdecode(name) for name in names)


def make_folder(folder: Path) -> None:
    """Create `folder` and what is missing above it; each name survives a power loss from here on. Raises StoreError."""
    try:
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        there = missing[-1].parent if missing else folder
        # A start before this one may have been killed between making a folder and syncing its name. Where the folder
        # above may not be opened, it was hardly this library that made one there.
        with contextlib.suppress(OSError):
            sync_folder(there.parent)
        for each in reversed(missing):  # one by one: at most the last one can be unsynced, whenever a kill comes
            each.mkdir(exist_ok=True)
            give(each, like=each.parent)
            sync_folder(each.parent)
    except OSError as error:
        raise StoreError(f"the folder {folder} cannot be created: {error.strerror}", path=folder) from error


def create_file(path: Path) -> None:
    """Create an empty file, 0600, that survives a power loss from here on.

    SQLite creates files with 0644; a trade is nobody else's business. An existing file is never opened here:
    closing any descriptor of it would drop this process's own SQLite locks.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        # SQLite would open it read-only without a word, and the first put would be the one to notice.
        if not os.access(path, os.W_OK):
            raise StoreError(f"{path} may not be written to; nothing was opened", path=path) from None
        # Whoever made it may have been killed before its name was synced.
        _sync_names(path)
        return
    except OSError as error:
        raise StoreError(f"{path} cannot be created: {error.strerror}", path=path) from error
    give(descriptor, like=path.parent)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise StoreError(f"{path} cannot be made durable: {error.strerror}", path=path) from error
    finally:
        os.close(descriptor)
    _sync_names(path)


def _sync_names(path: Path) -> None:
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"the folder of {path} cannot be synced, so a power loss could take the file: {error.strerror}", path=path
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable. Windows has no such call; NTFS journals them itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give(file: Path | int, *, like: Path) -> None:
    """Give `file` the owner of `like`, or of its folder if there is none, so that what root runs locks no bot out.

    file: a path, or an open descriptor. A file system that knows no owners, or a root without that right, is no error.
    """
    if os.name == "nt" or os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):
        facts = (like if os.path.lexists(like) else like.parent).stat()
        if isinstance(file, int):
            os.fchown(file, facts.st_uid, facts.st_gid)
        else:
            os.chown(file, facts.st_uid, facts.st_gid, follow_symlinks=False)


def read_plain(file: Path, longest: int) -> bytes | None:
    """Return what is in `file`; None: it is longer, or no plain file. Raises OSError: a symbolic link, too."""
    descriptor = os.open(file, os.O_RDONLY | CAREFUL)
    with os.fdopen(descriptor, "rb") as source:
        facts = os.fstat(source.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > longest:
            return None
        return source.read(longest)


def sync_file(path: Path) -> None:
    """Make the content of `path` durable. Raises OSError. Not for a file that SQLite has open in this process."""
    descriptor = os.open(path, os.O_RDWR | CAREFUL)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(part: Path, target: Path) -> None:
    """Give the finished `part` its name, unless somebody took it meanwhile: a link never overwrites. Raises OSError."""
    if os.name == "nt":
        part.rename(target)  # refuses where `target` exists
        return
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise
        part.rename(target)
    else:
        part.unlink()
    sync_folder(target.parent)


def has_journal(path: Path) -> bool:
    """Return whether a rollback journal shows that a change of the file was cut short, so that it must not be judged.

    A new file becomes a WAL database in such a change. A journal that begins with a zero is done with
    (sqlite.org/fileformat.html#the_rollback_journal). Raises UnsafePath; StoreError: it cannot be read.
    """
    refuse_odd_files(path)
    try:
        with journal_path(path).open("rb") as journal:
            return journal.read(1) not in (b"", b"\0")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"{journal_path(path)} cannot be read: {error.strerror}", path=path) from error
