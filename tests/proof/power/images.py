"""From operations to the images that a crash may leave: pure, no file is touched.

The model. Until a sync that began after an operation has ended, nothing of that operation is certain:

- File data may have landed or not, in any order, torn at every 512 bytes. A sector is old or new and never a mixture,
  and bytes beside a write are not touched (SQLite's "powersafe overwrite"). Of several writes to one sector the disk
  may have any state that the page cache has had.
- A file's size changes on its own: it may be there without its data (then zeros or stale bytes stand in it), and the
  data without the size. fsync and fdatasync write both: Linux does, since without the size the data cannot be read.
- Names may be there or not, each on its own: the creation, removal or renaming of a name is certain once its folder
  was synced, and not before. Syncing a new file does not make its name durable (ext4 does that; POSIX does not say so).
  A rename is whole or not at all.
- A folder's own name follows the same rule, all the way up to the recorded folder.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from tests.proof.power.operations import ROOT, Enter, Leave, Move, Operation, Resize, Sync, Write

SECTOR = 512
# File by its path below the recorded folder.
Image = dict[str, bytes]
_Data = Write | Resize
_Naming = Enter | Leave | Move


class Luck(Enum):
    """How much of what is not certain has reached the disk."""

    NOTHING = auto()
    EVERYTHING = auto()
    NAMES_ALONE = auto()  # the folders, and neither size nor data
    SIZES_ALONE = auto()  # the folders and the sizes; zeros where the data should be
    DATA_ALONE = auto()  # the data, in files that still have their old names and sizes
    DICE = auto()  # any part of it


@dataclass(slots=True)
class File:
    """certain: what is on the disk for sure. pending: what was done since, in order. live: what the process sees."""

    certain: bytearray = field(default_factory=bytearray)
    live: bytearray = field(default_factory=bytearray)
    pending: list[_Data] = field(default_factory=list)


@dataclass(slots=True)
class Folder:
    """The same for names."""

    certain: dict[str, int] = field(default_factory=dict)
    live: dict[str, int] = field(default_factory=dict)
    pending: list[_Naming] = field(default_factory=list)


@dataclass(slots=True)
class Disk:
    """What is on the disk, and what may be. Tell it what begins and what ends; ask it for images in between."""

    files: dict[int, File] = field(default_factory=dict)
    folders: dict[int, Folder] = field(default_factory=lambda: {ROOT: Folder()})
    version: int = 0  # another one, perhaps other images
    # What a sync under way will have made certain, by where it began.
    _covered: dict[int, list[Operation]] = field(default_factory=dict)
    _ended: set[int] = field(default_factory=set)

    def begin(self, operation: Operation) -> None:
        """From here on the operation may have happened."""
        self.version += not isinstance(operation, Sync)
        match operation:
            case Write() | Resize():
                file = self.files[operation.node]
                file.pending.append(operation)
                _apply(file.live, operation)
            case Enter() | Leave() | Move():
                folder = self.folders[operation.folder]
                folder.pending.append(operation)
                _rename(folder.live, operation)
                if isinstance(operation, Enter):
                    self._make(operation)
            case Sync():
                pending = self._pending(operation.node)
                self._covered[operation.begun] = [each for each in pending if each.begun in self._ended]

    def end(self, operation: Operation) -> None:
        """From here on it has happened; what a sync has found done is certain."""
        if not isinstance(operation, Sync):
            self._ended.add(operation.begun)
            return
        self.version += 1
        covered = self._covered.pop(operation.begun)
        pending = self._pending(operation.node)
        # In order, and no further than the first one that this sync may have missed.
        while pending and pending[0] in covered:
            done = pending.pop(0)
            if isinstance(done, Write | Resize):
                _apply(self.files[done.node].certain, done)
            elif isinstance(done, Enter | Leave | Move):
                _rename(self.folders[done.folder].certain, done)

    def pending(self) -> Iterator[_Data | _Naming]:
        """Yield what a crash may undo."""
        for file in self.files.values():
            yield from file.pending
        for folder in self.folders.values():
            yield from folder.pending

    def image(self, luck: Luck, dice: random.Random) -> Image:
        """Return the files that a crash at this moment may leave."""
        return dict(self._below(ROOT, "", luck, dice))

    def _make(self, entered: Enter) -> None:
        if entered.is_folder:
            self.folders.setdefault(entered.node, Folder())
        else:
            self.files.setdefault(entered.node, File())

    def _pending(self, node: int) -> list[Operation]:
        pending: list[Operation] = self.folders[node].pending if node in self.folders else self.files[node].pending  # type: ignore[assignment]
        return pending

    def _below(self, folder: int, path: str, luck: Luck, dice: random.Random) -> Iterator[tuple[str, bytes]]:
        for name, node in sorted(_names(self.folders[folder], luck, dice).items()):
            if node in self.folders:
                yield from self._below(node, f"{path}{name}/", luck, dice)
            else:
                yield path + name, _content(self.files[node], luck, dice)


def replay(operations: Iterable[Operation]) -> Iterator[tuple[Operation, bool]]:
    """Yield what happens in its order: (operation, True) as it begins, (operation, False) as it ends."""
    moments: list[tuple[float, int, Operation]] = []
    for operation in operations:
        moments.append((operation.begun, 0, operation))
        if operation.ended != float("inf"):
            moments.append((operation.ended, 1, operation))
    for _, ends, operation in sorted(moments, key=lambda moment: moment[:2]):
        yield operation, not ends


# ------------------------------------------------------------------------------------------ names


def _rename(names: dict[str, int], operation: _Naming) -> None:
    match operation:
        case Enter():
            names[operation.name] = operation.node
        case Leave():
            names.pop(operation.name, None)
        case Move():
            names[operation.to] = names.pop(operation.name)


def _names(folder: Folder, luck: Luck, dice: random.Random) -> dict[str, int]:
    if luck in (Luck.NOTHING, Luck.DATA_ALONE):
        return folder.certain
    if luck is not Luck.DICE:
        return folder.live
    names, missed = dict(folder.certain), set[str]()
    chance = dice.choice((0.0, 0.5, 1.0))
    for operation in folder.pending:
        touched = {operation.name, operation.to} if isinstance(operation, Move) else {operation.name}
        # What is done to a name comes after what was done to it before.
        if touched & missed or dice.random() >= chance:
            missed |= touched
        else:
            _rename(names, operation)
    return names


# ------------------------------------------------------------------------------------------ data


def _content(file: File, luck: Luck, dice: random.Random) -> bytes:
    match luck:
        case Luck.NOTHING | Luck.NAMES_ALONE:
            return bytes(file.certain)
        case Luck.EVERYTHING:
            return bytes(file.live)
        case Luck.DATA_ALONE:
            return _sized(file.live, len(file.certain))
        case Luck.SIZES_ALONE:
            return _sized(file.certain, len(file.live))
        case Luck.DICE:
            return _diced(file, dice) if file.pending else bytes(file.certain)


def _diced(file: File, dice: random.Random) -> bytes:
    """Return a content in which each sector has a time of its own, and so has the size."""
    last = len(file.pending)
    size = _size(file, dice.choice((0, last, last, dice.randint(0, last))))
    content = bytearray(_sized(file.certain, size))
    if size > len(file.certain) and dice.random() < 0.5:
        # Where no data have landed yet are zeros on one file system, and on another what stood there before.
        content[len(file.certain) :] = dice.randbytes(size - len(file.certain))
    touching = _by_sector(file)
    for sector, time in _times(touching, last, dice).items():
        done = [operation for number, operation in touching[sector] if number < time]
        start = sector * SECTOR
        if done and start < size:
            part = _after(bytes(file.certain[start : start + SECTOR]), done, start)
            content[start : start + SECTOR] = part[: size - start]
    return bytes(content)


def _by_sector(file: File) -> dict[int, list[tuple[int, _Data]]]:
    longest = max(len(file.certain), len(file.live))
    touching: dict[int, list[tuple[int, _Data]]] = {}
    for number, operation in enumerate(file.pending):
        for sector in _sectors(operation, longest):
            touching.setdefault(sector, []).append((number, operation))
    return touching


def _times(touching: dict[int, list[tuple[int, _Data]]], last: int, dice: random.Random) -> dict[int, int]:
    """Return for each sector how many of the pending operations the disk has seen of it; each way is legal."""
    odd = dice.randrange(last)
    of_odd = {sector for sector, operations in touching.items() if any(number == odd for number, _ in operations)}
    match dice.randrange(5):
        case 0:  # in the order they were asked for, up to one of them
            return dict.fromkeys(touching, odd)
        case 1:  # one of them is late
            return {sector: odd if sector in of_odd else last for sector in touching}
        case 2:  # one of them is early
            return {sector: odd + 1 if sector in of_odd else 0 for sector in touching}
        case _:
            chance = dice.choice((0.1, 0.5, 0.9))
            return {
                sector: last if dice.random() < chance else dice.choice((0, dice.randint(0, last)))
                for sector in touching
            }


def _after(before: bytes, operations: Iterable[_Data], start: int) -> bytearray:
    """Return the sector that begins at `start` and held `before`, after `operations`."""
    part = bytearray(before.ljust(SECTOR, b"\0"))
    for operation in operations:
        if isinstance(operation, Resize):
            kept = max(0, min(SECTOR, operation.size - start))
            part[kept:] = bytes(SECTOR - kept)
        else:
            first, stop = max(operation.offset, start), min(operation.offset + len(operation.data), start + SECTOR)
            part[first - start : stop - start] = operation.data[first - operation.offset : stop - operation.offset]
    return part


def _sectors(operation: _Data, longest: int) -> range:
    if isinstance(operation, Write):
        return range(operation.offset // SECTOR, (operation.offset + len(operation.data) - 1) // SECTOR + 1)
    return range(operation.size // SECTOR, longest // SECTOR + 1)


def _size(file: File, time: int) -> int:
    size = len(file.certain)
    for operation in file.pending[:time]:
        size = operation.size if isinstance(operation, Resize) else max(size, operation.offset + len(operation.data))
    return size


def _sized(content: bytearray, size: int) -> bytes:
    return bytes(content[:size]).ljust(size, b"\0")


def _apply(content: bytearray, operation: _Data) -> None:
    if isinstance(operation, Resize):
        del content[operation.size :]
        content.extend(bytes(operation.size - len(content)))
        return
    if len(content) < operation.offset:
        content.extend(bytes(operation.offset - len(content)))
    content[operation.offset : operation.offset + len(operation.data)] = operation.data
