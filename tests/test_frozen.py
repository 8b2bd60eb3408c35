"""A bot that PyInstaller froze carries its SQL; one without it says so and opens nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BOT = """
import asyncio
import sys

from outbox import Outbox, Settings


async def main() -> None:
    settings = Settings(path=sys.argv[1], supabase_url="http://127.0.0.1:9", supabase_key="sb_secret_none")
    async with Outbox.open(settings) as outbox:
        await outbox.put("trades", {"symbol": "EURUSD"})
        async with outbox.flushing():  # nobody listens there: what sends must be in the program, too
            while (stats := await outbox.stats()).paused is None:
                await asyncio.sleep(0.01)
        print(stats.pending, "pending,", stats.paused)


asyncio.run(main())
"""
# Development tools and optional parts that PyInstaller would analyse, too: three quarters of its work.
UNUSED = (
    *("_pytest", "click", "datasette", "hypothesis", "IPython", "mypy", "numpy", "opentelemetry", "pandas", "psycopg"),
    *("pygments", "rich", "setuptools", "typer", "uvloop", "yaml", "outbox.cli", "outbox.metrics", "outbox.web"),
)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OUTBOX_", "SUPABASE_", "PYTHON"))}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1000)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # 20 s of work, on a very busy machine many minutes
def test_a_frozen_bot_makes_its_file_and_opens_it_again(tmp_path: Path) -> None:
    (tmp_path / "bot.py").write_text(BOT, encoding="utf-8")
    options = ["--onedir", "--noconfirm", "--log-level=ERROR", *(f"--exclude-module={name}" for name in UNUSED)]
    frozen = run([sys.executable, "-m", "PyInstaller", *options, "bot.py"], tmp_path)
    assert frozen.returncode == 0, frozen.stderr
    program = str(tmp_path / "dist" / "bot" / "bot")

    first, again = (run([program, "bot.db"], tmp_path) for _ in range(2))

    assert (first.stdout, again.stdout) == ("1 pending, unreachable\n", "2 pending, unreachable\n"), (
        first.stderr + again.stderr
    )
    shutil.rmtree(tmp_path / "dist" / "bot" / "_internal" / "outbox" / "_migrations")
    without_sql = run([program, "other.db"], tmp_path)  # control: the SQL is what the hook adds
    assert without_sql.returncode == 1
    assert "outbox.errors.NotInstalled: migrations is missing" in without_sql.stderr
    assert "--collect-data outbox); no file was opened" in without_sql.stderr
    assert not (tmp_path / "other.db").exists()
