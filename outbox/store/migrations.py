"""The schema's history: what this version ships, what a file records, and whether the two go together."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from outbox.errors import MigrationChanged, StoreTooNew
from outbox.sql_files import folder, sql_files


class Migration(NamedTuple):
    """One file of `migrations/`."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 over the text with Unix line ends: a checkout on Windows must not change it."""
        return hashlib.sha256(self.text.replace("\r\n", "\n").encode()).hexdigest()


def shipped() -> tuple[Migration, ...]:
    """Return this version's migrations in order. Raises NotInstalled: this installation lacks them."""
    return tuple(
        Migration(int(file.name[:4]), file.name.removesuffix(".sql"), file.read_text(encoding="utf-8"))
        for file in sql_files(folder("migrations"))
    )


def applied(connection: sqlite3.Connection) -> dict[int, str]:
    """Return the versions that the file records, each with its checksum; empty for a new file."""
    if not connection.execute("select 1 from sqlite_schema where name = 'outbox_migrations'").fetchall():
        return {}
    rows = connection.execute("select version, checksum from outbox_migrations").fetchall()
    return {int(version): str(checksum) for version, checksum in rows}


def check(done: dict[int, str], steps: Sequence[Migration], path: Path) -> None:
    """Raise StoreTooNew or MigrationChanged if this version of the library must not touch the file."""
    shipped_sums = {step.version: step.checksum for step in steps}
    newest = max(shipped_sums)
    if done and max(done) > newest:
        raise StoreTooNew(
            f"{path} has schema version {max(done)}, this library knows {newest}; it was not touched."
            " Install the version of durable-outbox that wrote it, or a newer one",
            path=path,
        )
    for version, checksum in done.items():
        if shipped_sums.get(version) != checksum:
            raise MigrationChanged(
                f"{path} was made with another text of migration {version:04}; it was not touched", path=path
            )
