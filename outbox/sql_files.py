"""The SQL that ships with the library: beside the package in a checkout, else inside it, in a wheel or an archive."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from outbox.errors import NotInstalled

_REMEDY = (
    "a frozen program must carry the package's data (PyInstaller finds a hook for that in this distribution;"
    " else: --collect-data outbox)"
)


def folder(name: str) -> Traversable:
    """Return the folder `name`: migrations, supabase_sql or docs. Raises NotInstalled: this installation lacks it."""
    package = files("outbox")
    inside = package / f"_{name}"
    beside = Path(str(package)).parent / name
    found: Traversable = inside if inside.is_dir() else beside
    if not found.is_dir():
        raise NotInstalled(f"{name} is missing from this installation of outbox: {_REMEDY}; no file was opened")
    return found


def sql_files(place: Traversable) -> list[Traversable]:
    """Return the SQL files directly in `place`, by name."""
    return sorted((file for file in place.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
