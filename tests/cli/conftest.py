"""What the tests of the commands share: a file with dead letters, made once and copied."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.admin.test_inbox import bot


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env` and no variable of the machine that runs the tests; a narrow terminal."""
    for name in list(os.environ):
        if name.startswith(("OUTBOX_", "SUPABASE_")):
            monkeypatch.delenv(name)
    for name, value in {"COLUMNS": "80", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    # A text that `edit` keeps stays where it is.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture(scope="session")
def _dead_letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dead-letters")
    with bot(folder / "bot.db"):
        pass
    return folder


@pytest.fixture
def dead(_dead_letters: Path, tmp_path: Path) -> Path:
    """A file with three dead letters, t0, t1, t2, as a killed bot leaves it; nobody has it open."""
    for file in _dead_letters.iterdir():
        if file.is_file():
            shutil.copy2(file, tmp_path)
    return tmp_path / "bot.db"
