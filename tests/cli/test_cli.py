"""The command line on real files: beside a running bot, after a clean end, after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress
from typer.testing import CliRunner, Result

from outbox import Outbox, Settings
from outbox.cli import format as formatting
from outbox.cli.app import app
from outbox.cli.drain import BAR
from outbox.cli.format import age, size
from outbox.snapshot import take_in_thread
from outbox.store.sidecar import Flushing
from tests import forked
from tests.admin.test_inbox import until
from tests.store.tools import shell
from tests.support import run_async

ROOT = Path(__file__).parents[2]
ROW = {"symbol": "EURUSD", "pnl": 1.25}
# Invented for these tests; no server knows them.
SECRET = "sb_secret_never_to_be_seen"
PUBLISHABLE = "sb_publishable_never_to_be_seen"

WRITER = """
import asyncio, sys
from outbox import Outbox

async def main():
    async with Outbox.open(path=sys.argv[1]) as outbox:
        flusher = asyncio.create_task(outbox.run_flusher()) if "flushing" in sys.argv else None
        for number in range(7):
            await outbox.put("trades", {"number": number})
        print("ready", flush=True)
        for line in sys.stdin:
            if flusher and "stop" in line:
                flusher.cancel()
                await asyncio.wait([flusher])
            await outbox.put("trades", {"line": line})
            print("stored", flush=True)

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env` and no variable of the machine that runs the tests."""
    for name in list(os.environ):
        if name.startswith(("OUTBOX_", "SUPABASE_")):
            monkeypatch.delenv(name)
    for name, value in {"COLUMNS": "80", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def bot_db(tmp_path: Path) -> Path:
    """An outbox file with three trades and one event, closed cleanly."""
    path = tmp_path / "bot.db"
    fill(path)
    return path


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL and a key in the environment."""
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SUPABASE_SECRET_KEY", SECRET)


@run_async
async def fill(path: Path) -> None:
    async with Outbox.open(Settings(path=path)) as outbox:
        for _ in range(3):
            await outbox.put("trades", ROW)
        await outbox.put("events", {"kind": "started"})


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def status(path: Path, *more: object) -> tuple[int, dict[str, Any]]:
    result = call("status", "--path", path, "--json", *more)
    return result.exit_code, json.loads(result.stdout)


def run(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "outbox", *map(str, arguments)]
    return forked.run(command, capture_output=True, text=True, env=os.environ | env, timeout=200)


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def running_bot(path: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that has put seven trades and has the file open; it puts one more per line.

    more: "flushing", if its flusher runs; the line "stop" ends that.
    """
    command = [sys.executable, "-c", WRITER, str(path), *more]
    with forked.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as bot:
        assert bot.stdout is not None
        try:
            assert bot.stdout.readline() == "ready\n"
            yield bot
        finally:
            bot.kill()


def put_one(bot: subprocess.Popen[str], line: str = "one more") -> None:
    assert bot.stdin is not None and bot.stdout is not None
    bot.stdin.write(f"{line}\n")
    bot.stdin.flush()
    assert bot.stdout.readline() == "stored\n"


def listing(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


# ------------------------------------------------------------------------------------------ loading


def test_the_library_loads_neither_typer_nor_rich_and_the_command_line_loads_both() -> None:
    # httpx loads a command line of its own, and rich with it, wherever it finds click; that is not our doing.
    without_click = "import sys; sys.modules['click'] = None; "
    code = "import {}, sys; print(sorted({{'typer', 'rich'}} & set(sys.modules)))"

    def loaded_by(module: str, before: str = without_click) -> str:
        return subprocess.check_output([sys.executable, "-c", before + code.format(module)], text=True).strip()

    assert loaded_by("outbox.outbox") == "[]"
    assert loaded_by("outbox.cli") == "[]"
    assert loaded_by("outbox.cli.status_command", before="") == "['rich', 'typer']"


def test_the_package_runs_as_a_module_and_lists_its_commands() -> None:
    done = run("--help")

    assert done.returncode == 0
    assert "status" in done.stdout
    assert "drain" in done.stdout


# ------------------------------------------------------------------------------------------ status: the file


@pytest.mark.usefixtures("project")
def test_a_full_disk_is_said_to_people_and_to_monitors(bot_db: Path) -> None:
    """As the writer notes it; what held a checkpoint back is history once the writer has gone."""
    notes = "('reserve_released_ms', '1767225600000'), ('checkpoint_held_ms', '1767225600000')"
    deliver_one(bot_db)
    execute(bot_db, f"insert into outbox_meta values {notes}")

    code, found = status(bot_db)

    assert code == found["exit_code"] == 4
    assert found["health"] == "hindered"
    assert found["reserve_released"].startswith("2026-01-01")
    assert found["checkpoint_held"] is None
    assert found["pending_bytes"] > 0
    assert "puts are refused" in found["warnings"][0]
    assert "puts are refused" in " ".join(call("status", "--path", bot_db).stdout.split())

    execute(bot_db, "update outbox set state = 'dead' where seq = 1")
    assert status(bot_db)[0] == 4  # dead letters can wait, a full disk cannot


def test_status_counts_what_is_in_a_cleanly_closed_file(bot_db: Path) -> None:
    code, found = status(bot_db)

    assert code == found["exit_code"] == 2
    assert found["health"] == "stalled"
    assert found["pending"] == 4
    assert {name: counts["pending"] for name, counts in found["destinations"].items()} == {"events": 1, "trades": 3}
    assert 0 <= found["oldest_pending_age_s"] < 600
    assert found["db_bytes"] == bot_db.stat().st_size
    assert found["wal_bytes"] == 0
    assert found["writer"] == {"pid": os.getpid(), "since": found["writer"]["since"], "running": False}


def test_status_leaves_a_cleanly_closed_file_and_its_folder_as_they_are(bot_db: Path) -> None:
    before = listing(bot_db.parent)

    assert status(bot_db)[0] == 2

    assert listing(bot_db.parent) == before
    # Control: an ordinary read-only connection makes files and leaves them there.
    with closing(sqlite3.connect(f"file:{bot_db}?mode=ro", uri=True)) as connection:
        connection.execute("select count(*) from outbox").fetchall()
    assert set(listing(bot_db.parent)) - set(before) == {"bot.db-wal", "bot.db-shm"}


def test_status_says_that_a_file_is_missing_and_creates_nothing(tmp_path: Path) -> None:
    result = call("status", "--path", tmp_path / "nowhere" / "bot.db")

    assert result.exit_code == 3
    assert "does not exist; nothing was created" in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_without_a_path_the_error_says_how_to_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hint = "--path or OUTBOX_PATH names another file"

    assert hint in call("status").stderr.replace("\n", " ")
    assert hint not in call("status", "--path", tmp_path / "bot.db").stderr


def test_status_says_what_to_do_about_what_waits_where_no_bot_runs(bot_db: Path) -> None:
    assert "start a bot to send it" in call("status", "--path", bot_db).stdout
    with shell(bot_db) as connection:
        connection.execute("update outbox set state = 'delivered', settled_at_ms = 1 where state = 'pending'")
    assert "start a bot to send it" not in call("status", "--path", bot_db).stdout


def test_status_answers_machines_with_an_object_when_the_file_is_missing_too(tmp_path: Path) -> None:
    code, found = status(tmp_path / "bot.db")

    assert (code, found["exit_code"], found["health"]) == (3, 3, "unreadable")
    assert "does not exist" in found["error"]


def test_status_refuses_a_file_that_is_no_database_in_one_line_and_leaves_it_alone(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("no database at all\n" * 100)

    done = run("status", "--path", notes)

    assert done.returncode == 3
    assert done.stderr.splitlines() == [f"outbox: {notes} is not a SQLite database; it was not touched"]
    assert notes.read_text() == "no database at all\n" * 100


def test_status_refuses_a_database_that_holds_no_outbox(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    execute(other, "create table positions (symbol text)")

    result = call("status", "--path", other)

    assert result.exit_code == 3
    assert "is not an outbox" in result.stderr


def test_status_finds_the_file_that_the_environment_names(bot_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_PATH", str(bot_db))

    assert json.loads(call("status", "--json").stdout)["pending"] == 4


# ------------------------------------------------------------------------------------------ status: the bot


def test_status_beside_a_running_bot_sees_what_is_only_in_the_wal_and_who_writes(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with running_bot(path) as bot:
        _, first = status(path)
        put_one(bot)
        _, second = status(path)

        assert (first["pending"], second["pending"]) == (7, 8)
        assert first["writer"]["running"] is True
        assert first["writer"]["pid"] == bot.pid
        assert first["wal_bytes"] > 0


def test_status_asks_for_the_lock_without_taking_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bot.db"
    taken: list[int] = []
    if sys.platform != "win32":  # which can only be tried
        monkeypatch.setattr("outbox.store.lock._try_lock", taken.append)
    with running_bot(path) as bot:
        assert status(path)[1]["writer"]["running"] is True
        put_one(bot)
    assert status(path)[1]["writer"]["running"] is False
    assert taken == []


def test_status_after_a_kill_shows_every_row_and_no_writer(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with running_bot(path) as bot:
        bot.send_signal(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
        bot.wait()

        code, found = status(path)

        assert code == 2
        assert found["pending"] == 7
        assert found["writer"] == {"pid": bot.pid, "since": found["writer"]["since"], "running": False}


def test_status_says_how_the_running_bots_flusher_does(tmp_path: Path) -> None:
    def told() -> tuple[Any, str]:
        shown = call("status", "--path", path).stdout
        return status(path)[1]["flusher"], next((line for line in shown.splitlines() if "Flusher" in line), "").rstrip()

    path = tmp_path / "bot.db"
    with running_bot(path):  # the control: it has the file open, and sends nothing
        found, line = told()
        assert (found["started"], found["running"], found["last_look"]) == (False, False, None)
        assert line == "Flusher  never started: this process sends nothing"
    with running_bot(path, "flushing") as bot:
        put_one(bot)
        until(lambda: told()[0]["last_look"])
        found, line = told()
        assert (found["started"], found["running"], found["last_error"]) == (True, True, None)
        assert found["last_look"] >= found["since"]
        assert line.startswith("Flusher  runs, last look ")
        put_one(bot, "stop")
        found, line = told()
        assert (found["started"], found["running"]) == (True, False)
        assert line.startswith("Flusher  stopped ")
    with running_bot(path, "flushing") as bot:
        put_one(bot)
        bot.kill()
        bot.wait()
        found, line = told()
        assert (found["started"], found["running"], line) == (True, False, "")
    with running_bot(path):  # what the one before has left is not this one's
        assert told()[0]["started"] is False


def test_a_bot_can_open_the_file_after_a_look_at_what_a_kill_left(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with running_bot(path):
        pass
    assert status(path)[1]["pending"] == 7

    with running_bot(path):
        assert status(path)[1]["pending"] == 14


# ------------------------------------------------------------------------------------------ status: health


def deliver_one(path: Path) -> None:
    execute(path, "update outbox set state = 'delivered', settled_at_ms = created_at_ms where seq = 2")


@pytest.mark.usefixtures("project")
def test_rows_that_wait_on_a_file_that_no_flusher_has_ever_run_on_are_stalled_at_once(bot_db: Path) -> None:
    code, found = status(bot_db)

    assert (code, found["health"], found["unsent"]) == (2, "stalled", "no flusher has ever run on this file")
    assert "Unsent   no flusher has ever run on this file" in call("status", "--path", bot_db).stdout
    deliver_one(bot_db)  # the control: one has
    assert (status(bot_db)[0], status(bot_db)[1]["unsent"]) == (0, None)
    execute(bot_db, "update outbox set state = 'delivered', settled_at_ms = 1", "delete from outbox_counts")
    assert status(bot_db)[0] == 0  # nothing waits


def test_rows_that_wait_where_no_url_is_set_are_stalled(bot_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver_one(bot_db)

    code, found = status(bot_db)

    assert (code, found["unsent"]) == (2, found["warnings"][0])
    assert found["unsent"].startswith("SUPABASE_URL and SUPABASE_SECRET_KEY not set")
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SUPABASE_SECRET_KEY", SECRET)
    assert status(bot_db)[0] == 0  # the control
    monkeypatch.setenv("SUPABASE_URL", "no url")
    assert "the settings cannot be used" in status(bot_db)[1]["unsent"]


@pytest.mark.usefixtures("project")
def test_rows_that_wait_in_a_running_bot_without_a_flusher_are_stalled(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with running_bot(path):
        assert "has never started its flusher" in status(path)[1]["unsent"]
    with running_bot(path, "flushing") as bot:
        assert "flusher" not in (status(path)[1]["unsent"] or "")
        put_one(bot, "stop")
        code, found = status(path)
        assert (code, "has stopped its flusher" in found["unsent"]) == (2, True)


DELIVERS = Flushing(running=True, since_ms=1, looked_ms=2, delivered_ms=2)


@pytest.mark.parametrize(
    ("bot_runs", "flushing", "unsent"),
    [
        pytest.param(True, DELIVERS, None, id="the bot has settings of its own"),
        pytest.param(True, DELIVERS._replace(delivered_ms=None), "no URL", id="nothing has arrived"),
        pytest.param(False, DELIVERS._replace(running=False), "no URL", id="it has ended"),
        pytest.param(None, None, "no URL", id="another user's lock file"),
    ],
)
def test_a_shell_without_a_url_says_nothing_against_a_bot_that_delivers(
    bot_db: Path, bot_runs: bool | None, flushing: Flushing | None, unsent: str | None
) -> None:
    found = take_in_thread(bot_db)

    assert found.unsent(bot_runs=bot_runs, flushing=flushing, settings=("no URL",)) == unsent


@pytest.mark.usefixtures("project")
def test_dead_letters_are_exit_code_1(bot_db: Path) -> None:
    execute(bot_db, "update outbox set state = 'dead' where destination = 'events'")

    code, found = status(bot_db)

    assert code == 1
    assert (found["health"], found["dead"], found["pending"]) == ("dead letters", 1, 3)


@pytest.mark.usefixtures("project")
def test_entries_that_wait_for_too_long_are_exit_code_2_and_the_limit_can_be_set(bot_db: Path) -> None:
    deliver_one(bot_db)
    execute(bot_db, "update outbox set created_at_ms = created_at_ms - 10 * 60 * 1000 where seq = 1")

    assert status(bot_db, "--stalled-after", 60)[0] == 0
    code, found = status(bot_db)

    assert (code, found["health"]) == (2, "stalled")
    assert 600 <= found["oldest_pending_age_s"] < 1200


def test_a_pause_is_exit_code_2_also_beside_dead_letters_and_is_told_in_the_servers_words(bot_db: Path) -> None:
    pause(bot_db, "destination", "trades", message="permission denied for table trades")
    execute(bot_db, "update outbox set state = 'dead' where destination = 'events'")

    code, found = status(bot_db)
    text = call("status", "--path", bot_db).stdout

    assert code == 2
    assert found["pauses"] == [
        {
            "scope": "destination",
            "subject": "trades",
            "reason": "forbidden",
            "status": 403,
            "code": "42501",
            "message": "permission denied for table trades",
            "failures": 3,
            "since": "2026-01-01T00:00:00+00:00",
            "next_try": "2026-01-01T00:01:00+00:00",
        }
    ]
    assert "403 42501 permission denied for table trades" in text
    assert "next try once a flusher runs" in text


def test_a_paused_lane_is_shown_by_what_it_sends_and_not_by_its_number(bot_db: Path) -> None:
    with closing(sqlite3.connect(bot_db)) as connection:
        ((lane,),) = connection.execute("select lane from outbox_lanes where destination = 'trades'").fetchall()
    pause(bot_db, "lane", str(lane), message="column pnll does not exist")

    assert status(bot_db)[1]["pauses"][0]["subject"] == "trades: insert of id, pnl, symbol"


def test_a_servers_words_cannot_steer_the_terminal(bot_db: Path) -> None:
    steering = "\x1b[2J\x9b31m\u202eall is well[/bold][red]\r\n"
    pause(bot_db, "everything", "", message=steering, code=steering)

    for command in ("status", "outages", "doctor", "tail"):
        text = call(command, "--path", bot_db, *(["--offline"] if command == "doctor" else [])).stdout
        assert all(sign.isprintable() for sign in text.replace("\n", "")), command
        assert "all is well[/bold][red]" in text.replace("\n", "") or command == "tail", command


def pause(path: Path, scope: str, subject: str, *, message: str, code: str = "42501") -> None:
    since_ms = 1_767_225_600_000  # 2026-01-01
    row = (scope, subject, "forbidden", 403, code, message, 3, since_ms, since_ms + 60_000)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("insert into outbox_pauses values (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


# ------------------------------------------------------------------------------------------ status: the text


def test_the_text_fits_80_columns_with_long_names_and_large_numbers(bot_db: Path) -> None:
    name = "a_destination_with_a_name_of_sixty_three_characters_which_is_ok"
    assert len(name) == 63
    execute(bot_db, f"insert into outbox_counts values ('{name}', 'delivered', 123456789, 0)")
    pause(bot_db, "destination", name, message="words " * 100)

    lines = call("status", "--path", bot_db).stdout.splitlines()

    assert any("123,456,789" in line for line in lines)
    assert max(len(line.replace(str(bot_db), "bot.db")) for line in lines) <= 80  # a path stands in one piece


def test_every_name_of_the_json_object_is_described_in_the_help(bot_db: Path) -> None:
    pause(bot_db, "everything", "", message="no")
    found = status(bot_db)[1]
    help_text = call("status", "--help").stdout

    names = {*found, *found["pauses"][0], *found["writer"], *found["flusher"], *found["sqlite"]}

    assert {name for name in names if name not in help_text} == set()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        pytest.param(0.4, "0 s", id="less than a second"),
        pytest.param(59.9, "59 s", id="seconds"),
        pytest.param(200, "3 min 20 s", id="minutes and seconds"),
        pytest.param(3600, "1 h", id="a whole hour"),
        pytest.param(3601, "1 h", id="seconds do not count beside hours"),
        pytest.param(187_200, "2 d 4 h", id="days and hours"),
        pytest.param(-5, "0 s", id="a clock that was set back"),
    ],
)
def test_an_age_is_shown_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert age(seconds) == words


def test_a_size_is_shown_in_a_suitable_unit() -> None:
    assert [size(number) for number in (0, 1023, 4 * 2**20, 3 * 2**40)] == ["0 B", "1023 B", "4.0 MiB", "3072.0 GiB"]


# ------------------------------------------------------------------------------------------ settings


def test_status_warns_when_there_is_no_url_and_no_key(bot_db: Path) -> None:
    assert status(bot_db)[1]["warnings"] == [
        "SUPABASE_URL and SUPABASE_SECRET_KEY not set: rows are kept in the file until they are"
    ]


def test_status_warns_of_a_publishable_key_and_never_shows_it(bot_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", "https://project.supabase.co")
    monkeypatch.setenv("SUPABASE_KEY", PUBLISHABLE)

    text = call("status", "--path", bot_db).output
    _, found = status(bot_db)

    assert "the key is a publishable key" in text
    assert PUBLISHABLE not in text + json.dumps(found)


def test_settings_that_cannot_be_used_do_not_hide_what_the_file_says(
    bot_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPABASE_URL", "http://far.example")
    monkeypatch.setenv("SUPABASE_KEY", SECRET)

    code, found = status(bot_db)

    assert (code, found["pending"]) == (2, 4)
    assert "supabase_url: http:// would send the key in the clear" in found["warnings"][0]
    assert call("drain", "--path", bot_db).exit_code == 3
    assert SECRET not in json.dumps(found)


# ------------------------------------------------------------------------------------------ drain


class _Taker(BaseHTTPRequestHandler):
    """A server that takes every row; what it took is in the server's `taken`."""

    def do_POST(self) -> None:
        rows = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.taken += rows  # type: ignore[attr-defined]
        self.send_response(201)
        self.send_header("preference-applied", self.headers["prefer"])
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The rows that a REST server on this machine took; the environment names it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Taker) as server:
        rows: list[Any] = []
        server.taken = rows  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("SUPABASE_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("SUPABASE_SECRET_KEY", SECRET)
        yield rows
        server.shutdown()


class _Refuser(_Taker):
    """A server that knows the key no more."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = b'{"code": "PGRST301", "message": "JWT expired"}'
        self.send_response(401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def refusing() -> Iterator[str]:
    """The URL of a REST server on this machine that refuses every key."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refuser) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_drain_sends_everything_and_exits_with_0(bot_db: Path, taken: list[Any]) -> None:
    done = run("drain", "--path", bot_db, "--json")
    report = json.loads(done.stdout)

    assert done.returncode == report["exit_code"] == 0
    assert (report["delivered"], report["pending"], report["timed_out"]) == (4, 0, False)
    assert len(taken) == 4
    assert SECRET not in done.stdout + done.stderr
    assert status(bot_db)[1]["delivered"] == 4


def test_drain_shows_its_progress_on_a_terminal_only(bot_db: Path, taken: list[Any]) -> None:
    quiet = run("drain", "--path", bot_db)
    fill(bot_db)
    seen = run("drain", "--path", bot_db, FORCE_COLOR="1")

    assert len(taken) == 8
    assert quiet.stderr == ""
    assert "draining" in seen.stderr
    assert quiet.stdout.startswith("4 delivered in ")


def test_the_bar_of_a_drain_says_how_fast_it_moves_and_how_long_it_will_take() -> None:
    seconds = iter(range(100))
    with Progress(
        *BAR, console=formatting.console(), get_time=lambda: float(next(seconds)), auto_refresh=False
    ) as progress:
        bar = progress.add_task("", total=1000)
        for _ in range(4):
            progress.advance(bar, 100)
        told = [str(column.render(progress.tasks[0])) for column in BAR[-2:]]
    assert re.fullmatch(r"\d+/s 0:00:\d\d", " ".join(told)), told


def test_drain_exits_with_2_when_something_is_left(bot_db: Path) -> None:
    result = call("drain", "--path", bot_db, "--timeout", 0.1)

    assert result.exit_code == 2
    assert "4 pending" in result.stdout
    assert "SUPABASE_URL and SUPABASE_SECRET_KEY not set" in result.stdout


def test_drain_exits_with_2_when_nobody_answers_in_time(bot_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SUPABASE_KEY", SECRET)

    result = call("drain", "--path", bot_db, "--timeout", 0.3)

    assert result.exit_code == 2
    assert "what is pending stays pending" in result.stdout


@pytest.mark.parametrize(
    ("belongs_to", "says"),
    [
        pytest.param(None, "everything is paused (unauthorized): 401 PGRST301 JWT expired", id="a wrong key"),
        pytest.param("mine", "the project mine, and the URL names other", id="another project"),
    ],
)
def test_drain_does_not_wait_for_somebody_to_act_and_says_who_must(
    bot_db: Path, monkeypatch: pytest.MonkeyPatch, refusing: str, belongs_to: str | None, says: str
) -> None:
    monkeypatch.setenv("SUPABASE_URL", refusing if belongs_to is None else "https://other.supabase.co")
    monkeypatch.setenv("SUPABASE_SECRET_KEY", SECRET)
    if belongs_to is not None:
        with closing(sqlite3.connect(bot_db)) as shell, shell:
            shell.execute("insert into outbox_meta values ('project', ?)", (belongs_to,))

    result = call("drain", "--path", bot_db, "--timeout", 3600)
    facts = json.loads(call("drain", "--path", bot_db, "--timeout", 3600, "--json").stdout)

    assert (result.exit_code, facts["exit_code"]) == (2, 2)
    assert says in " ".join(result.stdout.split())
    assert "outbox doctor" in result.stdout
    assert (facts["pending"], facts["timed_out"]) == (4, False)
    assert says in facts["held_by"]
    assert SECRET not in result.stdout + json.dumps(facts)


def test_drain_beside_a_running_bot_names_its_process_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with running_bot(path) as bot:
        result = call("drain", "--path", path)

        assert result.exit_code == 3
        assert f"open for writing by process {bot.pid}" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_drain_creates_no_file_for_a_mistyped_path(tmp_path: Path) -> None:
    result = call("drain", "--path", tmp_path / "bto.db")

    assert result.exit_code == 3
    assert "does not exist" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("project")
def test_status_says_what_waits_by_itself_and_what_a_dead_letter_means_for_its_key(bot_db: Path) -> None:
    with closing(sqlite3.connect(bot_db)) as shell, shell:
        shell.execute("update outbox set waits = 'retry', next_attempt_at_ms = 9 where seq = 1")
        shell.execute("update outbox set state = 'dead' where seq = 2")

    code, facts = status(bot_db)
    shown = call("status", "--path", bot_db).stdout

    assert code == 1
    assert (facts["postponed"], facts["dead"], facts["strict_order"]) == (1, 1, False)
    assert "1 wait for a row of their own or are stuck" in " ".join(shown.split())
    assert "what follows under their keys goes on" in " ".join(shown.split())


# ------------------------------------------------------------------------------------------ as people expect it


def test_the_file_may_be_named_alone_as_an_argument_or_with_p(bot_db: Path) -> None:
    told = status(bot_db)[1]["pending"]
    for words in ([bot_db], ["status", bot_db], ["status", "-p", bot_db], ["--path", bot_db]):
        result = call(*words, *(["--json"] if words[0] == "status" else []))
        if words[0] == "--path":  # the control: it is no option of `outbox` itself
            assert result.exit_code == 2
        else:
            assert result.exit_code == 2 and (f'"pending": {told}' in result.stdout or "Pending  4" in result.stdout)
    assert "No such command" in call("statuss").stderr
    assert re.fullmatch(r"outbox \S+, SQLite \S+, Python \S+\n", call("--version").stdout)


def test_errors_speak_of_flags(bot_db: Path) -> None:
    said = call("requeue", "-p", bot_db).stderr
    assert "say which: IDS, --destination, --code" in said
    assert "--since" in call("ls", "-p", bot_db, "--since", "soon").stderr
    assert "--all contradicts" in call("requeue", "-p", bot_db, "--all", "--code", "1").stderr.replace(": ", " ")


def test_no_line_that_a_program_reads_ends_in_blanks(bot_db: Path) -> None:
    for command in ("status", "ls", "tail", "doctor"):
        lines = call(command, "-p", bot_db, *(["--offline"] if command == "doctor" else [])).stdout.splitlines()
        assert lines and [line for line in lines if line != line.rstrip()] == []


def test_each_commands_summary_is_whole_on_80_columns() -> None:
    assert "..." not in call("--help").stdout.partition("Commands:")[2]
