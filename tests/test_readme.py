"""The README keeps its word: its code runs, its commands run, the table of settings and its links are true."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import TupleRow
from supabase_lite import SupabaseLite

from outbox import Outbox, Settings
from tests.doc_blocks import run_page
from tests.support import run_async

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


@pytest.fixture
def project(clean_remote: SupabaseLite, monkeypatch: pytest.MonkeyPatch) -> SupabaseLite:
    """A reader's project, with its URL and key in the environment."""
    monkeypatch.setenv("SUPABASE_URL", clean_remote.url)
    monkeypatch.setenv("SUPABASE_SECRET_KEY", clean_remote.secret_key)
    return clean_remote


@run_async
async def test_every_block_of_python_runs_against_a_real_server(
    tmp_path: Path, project: SupabaseLite, sql: psycopg.Connection[TupleRow]
) -> None:
    assert await run_page(README, tmp_path, fresh_folders=True) >= 1
    assert sql.execute("select distinct symbol, direction from trades").fetchall() == [("EURUSD", 1)]
    assert sql.execute("select status from sessions where session_id = 's-1'").fetchall() == [("RUNNING",)]


def commands() -> list[str]:
    """Return the commands of the shell blocks; those under "Start" run in tests/test_first_minutes.py."""
    blocks = re.findall(r"^```sh\n(.*?)^```", TEXT.split("\n## Look inside\n")[1], re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_scripts_that_the_text_names_run_in_tests_of_their_own() -> None:
    assert {"scripts/demo", "scripts/test", "scripts/supabase"} == set(re.findall(r"python3 (scripts/\w+)", TEXT))
    assert "exec python3 scripts/test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@run_async
async def make_file(folder: Path) -> None:
    async with Outbox.open(Settings(path=folder / "bot.db")) as outbox:
        await outbox.put("events", {"event_type": "TICK", "timestamp": "2026-01-02T10:00:01Z"})


def test_the_commands_run_in_their_order(
    tmp_path: Path, project: SupabaseLite, sql: psycopg.Connection[TupleRow]
) -> None:
    make_file(tmp_path)
    for command in commands():
        run(command, tmp_path)

    assert sql.execute("select event_type from events order by timestamp").fetchall() == [("TICK",), ("NOTE",)]


def run(command: str, folder: Path) -> None:
    """Run one command as a reader would; without a sqlite3 shell on this machine, what it would do."""
    program, *arguments = shlex.split(command)
    if program == "sqlite3" and shutil.which("sqlite3") is None:
        connection = sqlite3.connect(folder / arguments[-2], isolation_level=None)
        connection.execute(arguments[-1]).fetchall()
        connection.close()
        return
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [shutil.which(program, path=path) or program, *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_table_of_settings_is_the_settings() -> None:
    rows = [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs" / "settings.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(("| `OUTBOX_", "| `SUPABASE_"))
    ]
    assert rows == [list(option) for option in Settings.options()]


def test_every_link_into_the_project_leads_somewhere() -> None:
    links = re.findall(r"\]\(((?!https?://)[^)#]+)\)", TEXT)
    assert len(links) > 20
    assert len(TEXT.splitlines()) <= 120
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_package_is_on_the_page_about_the_architecture() -> None:
    parts = [path for path in (ROOT / "outbox").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = [part.name for part in parts if not part.name.startswith("_") and f"outbox/{part.name})" not in page]
    assert missing == []
