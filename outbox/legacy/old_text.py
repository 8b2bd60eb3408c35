"""The old module's files on disk: read block by block, then renamed, with what was not imported kept beside them."""

from __future__ import annotations

import codecs
import filecmp
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from outbox.legacy.report import Left
from outbox.store.files import sync_folder

_BLOCK = 1 << 16


class Unreadable(Exception):
    """A file cannot be read; the message is the operating system's."""


class OldText:
    """A file's text in blocks; a byte that is not UTF-8 becomes a surrogate. Iterate once, to the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[str]:
        """Yield the blocks. Raises Unreadable."""
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        try:
            with self._path.open("rb") as file:
                while block := file.read(_BLOCK):
                    self._digest.update(block)
                    yield decoder.decode(block)
        except OSError as error:
            raise Unreadable(str(error.strerror)) from error
        yield decoder.decode(b"", final=True)

    def rename(self, left: Sequence[Left]) -> tuple[Path, Path | None] | None:
        """Keep what was left in a separate file, then rename this one; None: it is not the file that was read.

        Returns both new names. Raises OSError.
        """
        path = self._path
        beside = _keep(path, left)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").digest() != self._digest.digest():
                return None
        target = _free(path, ".imported")
        path.rename(target)
        sync_folder(path.parent)
        return target, beside


def _keep(path: Path, left: Sequence[Left]) -> Path | None:
    """Write what was left, 0600, whole or not at all, and return where; None: it is only blanks.

    The file already exists if an earlier attempt got this far.
    """
    part = path.with_name(f"{path.name}.unread.part")
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with os.fdopen(descriptor, "wb") as rest, path.open("rb") as file:
            rest.writelines(_rests(file, left))
            size = rest.tell()
            rest.flush()
            os.fsync(descriptor)
        beside = _free(path, ".unread", like=part) if size else None
        if beside is not None and not beside.exists():
            part.replace(beside)
        return beside
    finally:
        part.unlink(missing_ok=True)


def _rests(file: BinaryIO, left: Iterable[Left]) -> Iterator[bytes]:
    """Yield the parts that were left, a line each, without leading and trailing blanks."""
    for each in left:
        file.seek(each.byte)
        size, written = each.bytes, False
        while size and (block := file.read(min(size, _BLOCK))):
            size -= len(block)
            block = block if written else block.lstrip()
            block = block if size else block.rstrip()
            written = written or bool(block)
            yield block
        if written:
            yield b"\n"


def _free(path: Path, suffix: str, like: Path | None = None) -> Path:
    """Return a name that is free, or that of a file with the same content as `like`."""
    number = 1
    while True:
        name = path.with_name(f"{path.name}{suffix}{'' if number == 1 else f'-{number}'}")
        if not name.exists() or (like is not None and filecmp.cmp(name, like, shallow=False)):
            return name
        number += 1
