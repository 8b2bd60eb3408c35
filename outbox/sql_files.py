"""The SQL that ships with the library: beside the package in a checkout, else inside it, in a wheel or an archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from outbox.errors import NotInstalled

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_HERE = Path(__file__).parent

_REMEDY = (
    "a frozen program must carry the package's data (PyInstaller finds a hook for that in this distribution;"
    " else: --collect-data outbox)"
)


def folder(name: str) -> Traversable:
    """Return the folder `name`: migrations, supabase_sql or docs. Raises NotInstalled: this installation lacks it."""
    for place in (_HERE / f"_{name}", _HERE.parent / name):
        if place.is_dir():
            return place
    from importlib.resources import files  # for an archive; a command needs it for nothing else

    inside = files("outbox") / f"_{name}"
    if not inside.is_dir():
        raise NotInstalled(f"{name} is missing from this installation of outbox: {_REMEDY}; no file was opened")
    return inside


def sql_files(place: Traversable) -> list[Traversable]:
    """Return the SQL files directly in `place`, by name."""
    return sorted((file for file in place.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
