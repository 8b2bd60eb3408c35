"""What salvage finds in files that were damaged at random, beside what queries alone find.

usage: python -m tests.proof.salvage_figures [--damages 1000] [--seed 1] [--shell SQLITE3]

Prints the table of docs/durability.md: of the entries that wait and whose every byte is still there, how many each way
finds. No damage may bring one twice. What was delivered may be sent once more where only an older copy of its page is
left: these are inserts, which the server ignores.

--shell: count beside them what `.recover` of this shell finds, in tables and in its lost_and_found. It needs an SQLite
with SQLITE_ENABLE_DBPAGE_VTAB; Debian 12's has none, and ends on a sound file, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from outbox.entry import Destination, State
from outbox.errors import StoreError
from outbox.prepare import mint_id, written
from outbox.recovery import pages
from outbox.recovery.damaged_file import DamagedFile, FoundEntry
from outbox.store.files import wal_path
from tests.store.tools import opened, rows, shell

PAGE = 4096
_DELETED, _IN_FILE, _IN_WAL = 200, 1_200, 200


@dataclass(frozen=True, slots=True)
class Base:
    """A sound file, as a kill leaves it: some pages are free, some are newer in its -wal.

    extents: for each waiting entry's id, whether in the -wal, where and how long its pieces are.
    """

    path: Path
    main: bytes
    wal: bytes
    extents: dict[str, list[tuple[bool, int, int]]]
    waiting: frozenset[str]


async def make_base(folder: Path) -> Base:
    """Make a file of 1,400 entries, of which some are dead or delivered, beside the free pages of 200 more."""
    working, path = folder / "working.db", folder / "base.db"
    trades, numbers = Destination("trades"), iter(range(1_000_000))
    async with opened(working) as store:

        async def put(count: int) -> list[int]:
            made = []
            for n in (next(numbers) for _ in range(count)):
                ready = written(trades, {"n": n, "said": f"{n:6}" * (1700 if n % 50 == 0 else 40 + n * 7919 % 500)})
                one = ready.entry(mint_id(1, os.urandom(10)), created_at_ms=1, source="test", lane=None)
                made.append(store.put(one, ready.intent.spec))
            return [each.seq for each in await asyncio.gather(*made)]

        await put(_DELETED)
        stored = [seq for _ in range(_IN_FILE // 100) for seq in await put(100)]
        await store.settle(stored[:1000:5], State.DELIVERED)
        await store.settle(stored[1::20], State.DEAD)
        with shell(working) as connection:
            connection.execute("delete from outbox where seq <= ?", (_DELETED,))
        await store.checkpoint()
        newer = [seq for _ in range(_IN_WAL // 50) for seq in await put(50)]
        await store.settle([*newer[::10], *stored[1001:1100:3]], State.DELIVERED)
        shutil.copyfile(working, path)
        shutil.copyfile(wal_path(working), wal_path(path))
    main, wal = path.read_bytes(), wal_path(path).read_bytes()
    there = rows(working, "select id from outbox where state in ('pending', 'dead')")
    extents = _extents(main, wal)
    waiting = frozenset(str(each) for (each,) in there)
    assert extents.keys() == waiting, "not every entry was found in the sound file"
    return Base(path, main, wal, extents, waiting)


def _extents(main: bytes, wal: bytes) -> dict[str, list[tuple[bool, int, int]]]:
    newest = {n: (False, (n - 1) * PAGE) for n in range(1, len(main) // PAGE + 1)}
    for frame in pages.frames(lambda at, count: wal[at : at + count], PAGE):
        if frame.current:
            newest[frame.page] = (True, frame.at)

    def page(number: int) -> bytes:
        in_wal, at = newest[number]
        return (wal if in_wal else main)[at : at + PAGE]

    free, trunk = set[int](), int.from_bytes(page(1)[32:36], "big")
    while trunk:
        part = pages.trunk(page(trunk), len(newest))
        assert part is not None
        free |= {trunk, *part[1]}
        trunk = part[0]
    found = dict[str, list[tuple[bool, int, int]]]()
    for number, (in_wal, at) in newest.items():
        for cell in pages.cells(page(number))[0] if number not in free and number != 1 else ():
            used: list[int] = []
            row = pages.row_of(cell, page(number), lambda n, used=used: (used.append(n), page(n))[1])  # type: ignore[misc]
            if row is not None and row["state"] in ("pending", "dead"):
                local = min(cell.record.size + 12, PAGE - cell.start)
                found[row["id"]] = [(in_wal, at + cell.start, local), *[(*newest[n], PAGE) for n in used]]
    return found


# -------------------------------------------------------------------------------------------------------- damages


@dataclass(slots=True)
class Files:
    """What is damaged; None: it is gone."""

    main: bytearray | None
    wal: bytearray | None


Damage = Callable[[Base, Files, random.Random], None]


def _overwrite(content: bytearray, start: int, size: int, dice: random.Random) -> None:
    size = max(0, min(size, len(content) - start))
    content[start : start + size] = dice.choice([bytes(size), dice.randbytes(size)])


def _tree(base: Base) -> tuple[int, list[int]]:
    """Return the table's root page and the other interior ones, as the database has them."""
    (found,) = rows(base.path, "select rootpage from sqlite_schema where name = 'outbox'")
    root, inner = int(str(found[0])), []
    todo = [root]
    while todo:
        page = base.main[(todo.pop() - 1) * PAGE :][:PAGE]
        if page[:1] != b"\x05":
            continue
        children = [int.from_bytes(page[place : place + 4], "big") for place in pages.pointers(page) or ()]
        todo += (below := [*children, int.from_bytes(page[8:12], "big")])
        inner += [n for n in below if base.main[(n - 1) * PAGE] == 0x05]
    return root, inner


def damage_root(base: Base, files: Files, dice: random.Random) -> None:
    _in_both(base, files, [_tree(base)[0]], dice)


def damage_interior(base: Base, files: Files, dice: random.Random) -> None:
    inner = _tree(base)[1]
    _in_both(base, files, dice.sample(inner, dice.randint(1, len(inner))), dice)


def _in_both(base: Base, files: Files, numbers: list[int], dice: random.Random) -> None:
    """Damage pages where the database has them, and each copy in the -wal."""
    assert files.main is not None and files.wal is not None
    for number in numbers:
        _overwrite(files.main, (number - 1) * PAGE, PAGE, dice)
    for frame in pages.frames(lambda at, count: base.wal[at : at + count], PAGE):
        if frame.page in numbers:
            _overwrite(files.wal, frame.at, PAGE, dice)


def damage_header(_: Base, files: Files, dice: random.Random) -> None:
    assert files.main is not None and files.wal is not None
    _overwrite(files.main, 0, dice.choice([16, 100, PAGE]), dice)
    if dice.random() < 0.5:
        _overwrite(files.wal, 0, 32, dice)


def damage_first_pages(base: Base, files: Files, dice: random.Random) -> None:
    _in_both(base, files, list(range(1, dice.randint(2, 20) + 1)), dice)


def damage_scattered(_: Base, files: Files, dice: random.Random) -> None:
    assert files.main is not None
    for _n in range(dice.randint(1, 60)):
        _overwrite(files.main, dice.randrange(len(files.main)), dice.choice([1, 8, 64, 512, PAGE]), dice)


def cut_file(_: Base, files: Files, dice: random.Random) -> None:
    assert files.main is not None
    del files.main[dice.randrange(100, len(files.main)) :]


def wal_alone(_: Base, files: Files, dice: random.Random) -> None:
    assert files.wal is not None
    files.main = None
    if dice.random() < 0.5:
        _overwrite(files.wal, dice.randrange(len(files.wal)), dice.choice([8, 512, 5 * PAGE]), dice)


DAMAGES: dict[str, Damage] = {
    "the table's root page": damage_root,
    "interior pages": damage_interior,
    "the header, or the whole first page": damage_header,
    "the first 2 to 20 pages": damage_first_pages,
    "1 to 60 places anywhere": damage_scattered,
    "the file cut short": cut_file,
    "the `-wal` alone": wal_alone,
}


# ------------------------------------------------------------------------------------------------------- counting


@dataclass(slots=True)
class Figures:
    """Counts over damages of one kind."""

    damages: int = 0
    there: int = 0
    queried: int = 0
    recovered: int = 0
    ours: int = 0
    twice: int = 0
    again: int = 0


def intact(base: Base, files: Files) -> set[str]:
    """Return the ids of the waiting entries whose every byte is where it was."""

    def same(in_wal: bool, at: int, size: int) -> bool:
        now, before = (files.wal, base.wal) if in_wal else (files.main, base.main)
        return now is not None and now[at : at + size] == before[at : at + size]

    return {its_id for its_id, pieces in base.extents.items() if all(same(*piece) for piece in pieces)}


def salvaged(path: Path) -> Iterator[FoundEntry]:
    """Yield what our salvage finds, before it comes into an outbox."""
    with contextlib.suppress(StoreError), contextlib.closing(DamagedFile(path)) as wreck:
        for page in wreck.pages([]):
            yield from page


def recovered(path: Path, shell: str) -> set[str]:
    """Return every text that `.recover` of `shell` brings back from the file; it may open, repair and remove a copy."""
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        copy, out = Path(name) / "copy.db", Path(name) / "out.db"
        for file, to in ((path, copy), (wal_path(path), wal_path(copy))):
            if file.exists():
                shutil.copyfile(file, to)
        found = subprocess.run([shell, copy, ".recover"], capture_output=True, check=False).stdout
        subprocess.run([shell, out], input=found, capture_output=True, check=False)
        with contextlib.closing(sqlite3.connect(out)) as connection:
            connection.text_factory = lambda text: text.decode(errors="replace")
            tables = [each for (each,) in connection.execute("select name from sqlite_schema where type = 'table'")]
            return {
                value
                for table in tables
                if table == "outbox" or table.startswith("lost_and_found")
                for row in connection.execute(f'select * from "{table}"')
                for value in row
                if isinstance(value, str)
            }


def measure(
    base: Base, kind: str, dice: random.Random, figures: Figures, folder: Path, shell: str | None = None
) -> set[str]:
    """Damage a copy of `base`, count what is found, and return what should have been and was not."""
    files = Files(bytearray(base.main), bytearray(base.wal))
    DAMAGES[kind](base, files, dice)
    path = folder / "damaged.db"
    for to, content in ((path, files.main), (wal_path(path), files.wal)):
        to.unlink(missing_ok=True)
        if content is not None:
            to.write_bytes(content)
    there = intact(base, files)
    found = list(salvaged(path))
    ids = Counter(each.row["id"] for each in found)
    by_query = {each.row["id"] for each in found if not each.carved}
    figures.damages += 1
    figures.there += len(there)
    figures.queried += len(there & by_query)
    figures.recovered += len(there & recovered(path, shell)) if shell else 0
    figures.ours += len(there & ids.keys())
    figures.twice += sum(ids[its_id] - 1 for its_id in base.waiting & ids.keys())
    figures.again += sum(1 for each in found if each.carved and each.row["id"] not in base.waiting)
    return there - ids.keys()


def main() -> None:
    """Damage, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shell")
    said = parser.parse_args()
    figures = {kind: Figures() for kind in DAMAGES}
    with tempfile.TemporaryDirectory(prefix="outbox-salvage-") as name:
        base = asyncio.run(make_base(Path(name)))
        for n in range(said.damages):
            kind = list(DAMAGES)[n % len(DAMAGES)]
            dice = random.Random(said.seed * 1_000_000 + n)
            missed = measure(base, kind, dice, figures[kind], Path(name), said.shell)
            if missed:
                _say(f"damage {n}, {kind}: {len(missed)} missed")
            if n % 200 == 199 or n == said.damages - 1:
                _say_table(figures, with_shell=said.shell is not None)


def _say_table(figures: dict[str, Figures], *, with_shell: bool) -> None:
    ways = ["`salvage`", "queries alone", *(["`.recover`"] if with_shell else [])]
    _say(f"| damaged | damages | entries there | {' | '.join(ways)} |")
    _say(f"| --- | ---: | ---: |{' ---: |' * len(ways)}")
    whole = Figures()
    for each in figures.values():
        for name in Figures.__slots__:
            setattr(whole, name, getattr(whole, name) + getattr(each, name))
    for kind, each in {**figures, "all": whole}.items():
        found = [f"{100 * some / max(1, each.there):.2f} %" for some in (each.ours, each.queried, each.recovered)]
        _say(f"| {kind} | {each.damages:,} | {each.there:,} | {' | '.join(found[: len(ways)])} |")
    _say(f"brought twice: {whole.twice}; sent once more, since only an older copy of them is left: {whole.again}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
