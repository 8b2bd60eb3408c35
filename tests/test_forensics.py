"""docs/forensics.md keeps its word: each command runs on a file in which it all has happened, and says what it says.

OUTBOX_WRITE_PAGES=1 writes the answers into the page instead of comparing them.
"""

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
_BLOCK = re.compile(r"^```text\n\$ (?P<command>(?:sqlite3|outbox) .*)\n(?P<answer>(?:.*\n)*?)```$", re.MULTILINE)
# What differs from run to run: times, ages, minted ids, sizes, versions, process numbers.
_VARIES = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?"), "<time>"),
    (re.compile(r"\d{4}-\d\d-\d\d"), "<day>"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "<time>"),
    (re.compile(r"\d+ d <time>"), "<age>"),
    (re.compile(r"\b(\d+ (d|h|min|s)\b ?)+"), "<age>"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"process \d+"), "process <n>"),
    (re.compile(r"[\d.]+ [KM]iB"), "<size>"),
    (re.compile(r"SQLite +\d.*(\n {8}.*)*"), "SQLite <version>"),
    (re.compile(r"next try (in <age>|once a flusher runs)"), "next try <time>"),
    # A column is as wide as its widest age, and what is cut off begins there.
    (re.compile(r"^(  .{30}).*… *$", re.MULTILINE), r"\1…"),
    (re.compile(r" {2,}"), "  "),
]


def normal(text: str) -> str:
    for pattern, name in _VARIES:
        text = pattern.sub(name, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def blocks() -> list[tuple[str, str]]:
    """Return each command of the page with the answer that stands under it."""
    return [(match["command"], match["answer"]) for match in _BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]


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
def test_the_page_says_what_the_commands_say(tmp_path: Path) -> None:
    asyncio.run(make(tmp_path / "bot.db"))
    found = blocks()
    said = {command: answer(command, tmp_path) for command, _ in found}
    if os.environ.get("OUTBOX_WRITE_PAGES"):
        text = PAGE.read_text(encoding="utf-8")
        for command, old in found:
            lines = "\n".join(line.rstrip() for line in said[command].rstrip().splitlines())
            text = text.replace(f"$ {command}\n{old}```", f"$ {command}\n{lines}\n```")
        PAGE.write_text(text, encoding="utf-8")
        return

    assert {command: normal(text) for command, text in found} == {command: normal(said[command]) for command in said}


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


def test_there_are_twenty_questions_and_each_answer_fits_80_columns() -> None:
    shells = [(command, text) for command, text in blocks() if command.startswith("sqlite3")]
    questions = re.findall(r"^### \d+\. .*\?$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

    assert len(shells) == len(questions) == 20
    assert all(command.startswith("sqlite3 -readonly ") for command, _ in shells)
    payloads = ("select payload", "select outbox_edits.payload")  # shown whole
    wide = {command for command, text in blocks() for line in text.splitlines() if len(line) > 80}
    assert {command for command in wide if not any(each in command for each in payloads)} == set()


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("2026-01-02 03:04:05 | t-7", "<time> | t-7"),
        ("0 d 00:20:01 and 3 min 20 s", "<age> and <age>"),
        ("process 4711 since 2026-01-02T03:04:05+00:00", "process <n> since <time>"),
        ("3 dead, 42 pending", "3 dead, 42 pending"),
    ],
)
def test_only_what_varies_is_made_alike(said: str, kept: str) -> None:
    assert normal(said) == kept


@pytest.mark.parametrize("now_s", [0.5, 60.0, 3600.0, 12 * 3600.0, 86_399.0])
def test_the_night_of_the_file_lies_in_one_day_at_whatever_hour_it_is_made(now_s: float) -> None:
    now_s += 20_000 * 86_400
    yesterday, night, late = (int((now_s - ago_s) // 86_400) for ago_s in hours(now_s))
    assert yesterday < night == late == int(now_s // 86_400)
