"""A new user's first minutes, from the README alone: its program, its commands, and their own row in a database.

What is typed is what stands there. Only the three values that the dashboard shows are put in their places, and this
checkout in the place of "here".
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg.rows import TupleRow
from supabase_lite import Driver, EmbeddedPostgres, SupabaseLite

from outbox import Settings

ROOT = Path(__file__).parents[1]
START = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Start\n")[1].split("\n## ")[0]
COMMANDS, WITHOUT_ACCOUNT = (
    [line.split("  #")[0] for line in block.splitlines()]
    for block in re.findall(r"^```sh\n(.*?)^```", START, re.DOTALL | re.MULTILINE)
)
IN_THE_DASHBOARD = ("postgresql://…", "https://<project>.supabase.co", "sb_secret_…")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the commands are those of a POSIX shell")


class Terminal:
    """A shell in the user's folder, with an environment of their own first on PATH and no setting of ours."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "scripts").symlink_to(ROOT / "scripts")  # the user is in the checkout; their files stay out of ours
        venv.create(home / "env", with_pip=True, symlinks=True)
        ours = ("SUPABASE_", "OUTBOX_", "VIRTUAL_ENV", "PYTHON")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.environment["PATH"] = f"{home / 'env' / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def type(self, command: str, folder: Path | None = None) -> str:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=folder or self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, f"{command.split()[:4]}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    """A new user's terminal after the first step: the program saved, the library installed."""
    started = Terminal(tmp_path_factory.mktemp("user"))
    [program] = re.findall(r"^```python\n(.*?)^```", START, re.DOTALL | re.MULTILINE)
    (started.home / "bot.py").write_text(program, encoding="utf-8")
    started.type(COMMANDS[0], ROOT)
    return started


@pytest.fixture
def empty_project(postgres: EmbeddedPostgres) -> Iterator[tuple[SupabaseLite, str]]:
    """What somebody has who has just made a project: an endpoint, a database, and no table of ours."""
    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as server:
        server.execute("create database first_minutes")
        dsn = postgres.database("first_minutes")
        with SupabaseLite(Driver.POSTGRES, dsn=dsn) as lite:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("drop table trades, events, sessions, outbox_health cascade")
            yield lite, dsn
        server.execute("drop database first_minutes with (force)")


def test_five_commands_lead_from_an_empty_project_to_the_first_row(
    terminal: Terminal, empty_project: tuple[SupabaseLite, str]
) -> None:
    lite, dsn = empty_project
    text = "\n".join(COMMANDS)
    assert len(COMMANDS) == 5
    assert all(text.count(place) == 1 for place in IN_THE_DASHBOARD)
    for place, value in zip(IN_THE_DASHBOARD, (dsn, lite.url, lite.secret_key), strict=True):
        text = text.replace(place, value)

    said = [terminal.type(command) for command in text.splitlines()[1:]]

    assert said[-2] == "0 pending, 0 dead\n"
    assert "healthy" in said[-1]
    assert (terminal.home / ".env").stat().st_mode & 0o077 == 0  # the key is for its owner alone
    with psycopg.connect(dsn) as connection:
        assert rows(connection) == [("EURUSD", "RUNNING")]
    clean(terminal)


def test_without_an_account_one_command_takes_the_place_of_two(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("SUPABASE_")]:
        monkeypatch.delenv(name)
    [other_terminal] = WITHOUT_ACCOUNT
    with running(other_terminal, terminal):
        ran = [terminal.type(command) for command in COMMANDS[3:]]
        settings = Settings(_env_file=terminal.home / ".env")
        assert settings.supabase_key is not None
        headers = {"apikey": settings.supabase_key.get_secret_value()}
        found = httpx.get(f"{settings.rest_url}/trades?select=symbol", headers=headers, timeout=200).json()

    assert found == [{"symbol": "EURUSD"}]
    assert ran[0] == "0 pending, 0 dead\n"
    assert "healthy" in ran[1]
    clean(terminal)


def rows(connection: psycopg.Connection[TupleRow]) -> list[TupleRow]:
    return connection.execute("select symbol, status from trades join sessions using (session_id)").fetchall()


def clean(terminal: Terminal) -> None:
    for file in (*terminal.home.glob("bot.db*"), terminal.home / ".env"):
        if file.is_file():
            file.unlink()


@contextmanager
def running(command: str, terminal: Terminal) -> Iterator[None]:
    program, *arguments = command.split()
    python = terminal.home / "env" / "bin" / program
    with subprocess.Popen(
        [str(python), *arguments], cwd=terminal.home, env=terminal.environment, stderr=subprocess.PIPE, text=True
    ) as started:
        assert started.stderr is not None
        try:
            assert any(line.startswith("Ready") for line in started.stderr)
            yield
        finally:
            started.send_signal(signal.SIGINT)
        assert started.wait(200) == 0
