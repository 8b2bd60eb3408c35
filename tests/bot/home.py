"""What these tests share: an outbox whose clock stands still, and a look into its file."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from outbox import Outbox, Settings
from outbox.opening import Opening
from outbox.testing import ManualClock, ScriptedTransport

ROOT = Path(__file__).parents[2]
VICTIM = str(Path(__file__).with_name("victim.py"))


def opened(folder: Path, clock: ManualClock, *, source: str = "bot-a") -> Opening:
    """Return an outbox to open; closing it without ending the session is, to the session, a crash."""
    return Outbox.open(Settings(path=folder / "bot.db", source=source), clock=clock, transport=ScriptedTransport())


def rows(folder: Path, sql: str, *parameters: object) -> list[dict[str, Any]]:
    """Return what another process would find in the file."""
    with closing(sqlite3.connect(folder / "bot.db")) as file:
        file.row_factory = sqlite3.Row
        return [dict(row) for row in file.execute(sql, parameters)]


def run(folder: Path, sql: str) -> None:
    """Change the file as a shell would."""
    with closing(sqlite3.connect(folder / "bot.db", isolation_level=None)) as file:
        file.execute(sql)


def puts(folder: Path, destination: str) -> list[dict[str, Any]]:
    """Return the payloads of all that was put for `destination`, in order."""
    found = rows(folder, "select payload from outbox where destination = ? order by seq", destination)
    return [json.loads(row["payload"]) for row in found]


def state(folder: Path, source: str = "bot-a") -> dict[str, Any]:
    """Return the stored session of `source`."""
    (row,) = rows(folder, "select * from outbox_sessions where source = ?", source)
    return row
