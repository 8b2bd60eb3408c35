"""Make the golden files: one database for each schema version, as that version of the library left it.

usage: python -m tests.store.make_golden      (from the checkout; only the files of versions that are missing are made)

A golden file of a released version is never made again: it is the proof that files in the field still open.
"""

from __future__ import annotations

import gzip
import sqlite3
import tempfile
from pathlib import Path

from outbox.store.migrate import _RECORDS
from outbox.store.migrations import shipped

GOLDEN = Path(__file__).with_name("golden")

# Two keys with two entries each, three inserts, a dead letter and a delivered row: what every version can hold.
_ROWS = [
    *(("insert", "pending", None, f"i-{n}", "trades", f'{{"n":{n}}}') for n in range(3)),
    *(("upsert", "pending", key, f"u-{key}-{n}", "sessions", f'{{"session_id":"{key}","status":"{n}"}}')
      for n in range(2) for key in ("a", "b")),
    ("insert", "dead", None, "d-1", "trades", '{"n":7}'),
    ("insert", "delivered", None, "s-1", "trades", '{"n":8}'),
]  # fmt: skip
PENDING = 7


def make(version: int, path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma auto_vacuum = incremental")
    connection.execute("pragma journal_mode = wal")
    connection.execute(_RECORDS)
    for step in shipped()[:version]:
        connection.executescript(step.text)
        record = (step.version, step.name, step.checksum, 1_767_225_600_000)
        connection.execute("insert into outbox_migrations values (?, ?, ?, ?)", record)
    for row in _ROWS:
        connection.execute(
            "insert into outbox (operation, state, key, id, destination, payload, created_at_ms)"
            " values (?, ?, ?, ?, ?, ?, 1767225600000)",
            row,
        )
    connection.close()


def golden(version: int) -> Path:
    return GOLDEN / f"{version:04}.db.gz"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for step in shipped():
        if not golden(step.version).exists():
            with tempfile.TemporaryDirectory() as folder:
                make(step.version, Path(folder) / "bot.db")
                golden(step.version).write_bytes(gzip.compress((Path(folder) / "bot.db").read_bytes(), mtime=0))


if __name__ == "__main__":
    main()
