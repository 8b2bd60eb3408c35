"""From an image to facts: its files, written out and opened with plain sqlite3; the library is not involved."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path

from outbox.prepare import digest
from tests.proof.power.images import Image
from tests.proof.power.ledger import Facts
from tests.proof.power.workload import OWN, SCHEMA, filler
from tests.store.planted import with_planted

_ROWS = "select state, destination, operation, key, payload, on_conflict, match, digest from outbox"
_COUNTED = (
    "select destination, state, entries from outbox_counts where entries > 0 and state not in ('pruned', 'removed')"
)
_THERE = "select destination, state, count(*) from outbox group by 1, 2"


def facts_of(image: Image, store: str, folder: Path, *, index: bytes | None = None) -> Facts:
    """Return what is in the outbox file `store` of `image`, which is written out below `folder` and removed again.

    index: the content of a `-shm` file that the crash has left; None: there is none.
    """
    place = folder / "image"
    place.mkdir()
    try:
        write_out(image, place)
        if store not in image:
            return Facts({})
        if index is not None:
            (place / f"{store}-shm").write_bytes(index)
        return _read(place / store)
    finally:
        shutil.rmtree(place)


def write_out(image: Image, place: Path) -> None:
    """Write the files of `image` below `place`, without the `-shm`: SQLite makes it anew."""
    for name, content in image.items():
        if not name.endswith("-shm"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)


def _read(path: Path) -> Facts:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            states: dict[str, str] = {}
            faults: list[str] = [f"integrity: {row[0]}" for row in _asked(file, "pragma integrity_check")]
            if faults == ["integrity: ok"]:
                faults.clear()
            tables = {name for (name,) in _asked(file, "select name from sqlite_schema where type = 'table'")}
            if "outbox_migrations" in tables:
                _read_schema(file, states, faults)
                _read_rows(file, states, faults)
            if "own" in tables:
                states |= {f"{OWN}{number}": "there" for (number,) in _asked(file, "select n from own")}
            return Facts(states, tuple(faults))
    except sqlite3.Error as error:
        return Facts({}, (f"{type(error).__name__}: {error}",))


def _asked(file: sqlite3.Connection, sql: str) -> list[tuple[str, ...]]:
    return file.execute(sql).fetchall()


def _read_schema(file: sqlite3.Connection, states: dict[str, str], faults: list[str]) -> None:
    ((version,),) = file.execute("select max(version) from outbox_migrations").fetchall()
    states[SCHEMA] = str(version)
    if _schema_of(file) != _schema(int(version)):
        faults.append(f"the tables are not those of version {version}")


def _schema_of(file: sqlite3.Connection) -> frozenset[tuple[str, ...]]:
    sql = "select type, name, sql from sqlite_schema where tbl_name like 'outbox%' and name <> 'outbox_migrations'"
    return frozenset(_asked(file, sql))


@cache
def _schema(version: int) -> frozenset[tuple[str, ...]]:
    """Return what the first `version` migrations make."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as file:
        for migration in with_planted()[:version]:
            file.executescript(migration.text)
        return _schema_of(file)


def _read_rows(file: sqlite3.Connection, states: dict[str, str], faults: list[str]) -> None:
    for state, *row in _asked(file, _ROWS):
        number, wrongs = _judged(*row)
        if number in states:
            faults.append(f"{number} is there twice")
        faults += wrongs
        states[number] = state
    if sorted(_asked(file, _COUNTED)) != sorted(_asked(file, _THERE)):
        faults.append("outbox_counts does not count what is there")


@cache
def _judged(
    destination: str, operation: str, key: str, payload: str, on_conflict: str, match: str, stored: str
) -> tuple[str, tuple[str, ...]]:
    """Return the number of a row and what is wrong with its content; most rows stand in hundreds of images."""
    content, wrongs = json.loads(payload), []
    number, text = str(content["n"]), filler(content["n"])
    if stored != digest(destination, operation, key, payload, on_conflict, match):
        wrongs.append(f"the digest of {number} is not its row's")
    if content["text"] != text * (len(content["text"]) // len(text)):
        wrongs.append(f"{number} has another text than was put")
    return number, tuple(wrongs)
