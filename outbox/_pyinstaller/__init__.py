"""Tells PyInstaller where its hook for this package is (pyinstaller.org, "Hook configuration": the entry point)."""

from pathlib import Path


def hook_dirs() -> list[str]:
    """Return the folders that hold hooks."""
    return [str(Path(__file__).parent)]
