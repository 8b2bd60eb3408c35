"""docs/forensics.md keeps its word: its commands run, on a file in which it all has happened."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forensics_file import hours, make
from tests.store.tools import shell

PAGE = Path(__file__).parents[1] / "docs" / "forensics.md"
# The page is written where a shell is; elsewhere (Windows) there may be none. CI installs one.
needs_shell = pytest.mark.skipif(
    shutil.which("sqlite3") is None and not os.environ.get("CI"), reason="no sqlite3 shell on this machine"
)


def answer(command: str, folder: Path) -> str:
    program, *arguments = shlex.split(command)
    if program == "outbox":
        call = [sys.executable, "-m", "outbox", *arguments]
    else:
        call = [shutil.which(program) or program, *arguments]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OUTBOX_", "SUPABASE_"))}
    env |= {"COLUMNS": "80", "NO_COLOR": "1", "PYTHONPATH": str(PAGE.parents[1]), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(call, cwd=folder, env=env, capture_output=True, timeout=200, encoding="utf-8", check=False)
    assert done.returncode in (0, 1, 2), f"{command}\n{done.stderr}"
    assert "Usage:" not in done.stderr + done.stdout, f"{command}\n{done.stderr}"
    return done.stdout


@needs_shell
def test_the_pages_other_commands_run_too(tmp_path: Path) -> None:
    asyncio.run(make(tmp_path / "bot.db"))
    commands = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    assert [command.split()[0] for command in commands] == ["sqlite3"] * 2
    with shell(tmp_path / "bot.db") as connection:  # a file of the bot's own, older than its outbox
        connection.execute("pragma auto_vacuum = none")
        connection.execute("vacuum")
        assert connection.execute("pragma auto_vacuum").fetchone() == (0,)
    answers = [answer(command, tmp_path) for command in commands]

    assert answers[0].startswith("stalled|")
    with shell(tmp_path / "bot.db") as connection:
        assert connection.execute("pragma auto_vacuum").fetchone() == (2,)
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)


def test_the_page_is_short() -> None:
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("now_s", [0.5, 60.0, 3600.0, 12 * 3600.0, 86_399.0])
def test_the_night_of_the_file_lies_in_one_day_at_whatever_hour_it_is_made(now_s: float) -> None:
    now_s += 20_000 * 86_400
    yesterday, night, late = (int((now_s - ago_s) // 86_400) for ago_s in hours(now_s))
    assert yesterday < night == late == int(now_s // 86_400)
