"""`outbox doctor` against a real file and a real server: what is in order is told so, and what is broken is found."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import TupleRow
from supabase_lite import SQL, EmbeddedPostgres, SupabaseLite
from typer.testing import CliRunner, Result

from outbox import Outbox, Settings
from outbox.cli.app import app
from outbox.doctor import findings
from tests.cli.test_cli import put_one, running_bot
from tests.postgrest_front import front
from tests.store.test_wal import process
from tests.support import run_async

Connection = psycopg.Connection[TupleRow]

TRADE = {"session_id": "s-1", "symbol": "EURUSD", "timestamp": "2026-01-02T10:00:00Z"}
SESSION = {"session_id": "s-1", "start_time": "2026-01-02T09:00:00Z"}
# Invented for these tests; no server knows it.
SECRET = "sb_secret_never_to_be_seen"


@pytest.fixture(autouse=True)
def _alone(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the machine's kind and speed of disk count."""
    monkeypatch.setattr("outbox.doctor.local.filesystem_of", lambda path: "ext4")
    monkeypatch.setattr(findings, "_SLOW_COMMIT_S", 60.0)


@pytest.fixture
def project(clean_remote: SupabaseLite, monkeypatch: pytest.MonkeyPatch) -> SupabaseLite:
    use(monkeypatch, clean_remote.url, clean_remote.secret_key)
    return clean_remote


@pytest.fixture
def fronted(project: SupabaseLite, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The project behind a server that answers an insert of no rows as PostgREST does."""
    with front(project.url, postgres.dsn) as url:
        use(monkeypatch, url, project.secret_key)
        yield url


@pytest.fixture
def bot_db(tmp_path: Path) -> Path:
    """A file with a trade and a session that wait."""
    path = tmp_path / "bot.db"
    put(path, "trades", TRADE)
    put(path, "sessions", SESSION, operation="upsert")
    return path


def use(monkeypatch: pytest.MonkeyPatch, url: str, key: str) -> None:
    monkeypatch.setenv("SUPABASE_URL", url)
    monkeypatch.setenv("SUPABASE_SECRET_KEY", key)


@run_async
async def put(path: Path, table: str, row: dict[str, Any], **how: Any) -> None:
    async with Outbox.open(Settings(path=path, supabase_url=None)) as outbox:
        await outbox.put(table, row, **how)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in ("doctor", *arguments)])


class Report:
    """What `outbox doctor --json` says."""

    def __init__(self, path: Path, *arguments: object) -> None:
        result = call("--path", path, "--json", *arguments)
        self.text = result.stdout
        self.code = result.exit_code
        self.facts: dict[str, Any] = json.loads(self.text)
        assert self.facts["exit_code"] == self.code

    def bad(self) -> dict[str, tuple[str, str]]:
        """What is not in order: severity and sentence by check."""
        found = self.facts["findings"]
        return {
            each["check"]: (each["severity"], each["says"])
            for each in found
            if each["severity"] not in ("ok", "skipped")
        }

    def fix(self, check: str) -> str:
        (fix,) = [each["fix"] for each in self.facts["findings"] if each["check"] == check]
        return str(fix)

    def says(self, check: str) -> str:
        return " | ".join(each["says"] for each in self.facts["findings"] if each["check"] == check)


def whole_remote(sql: Connection) -> list[Any]:
    """Every row, and all of the schema that anything could be left in: columns, indexes, rights, policies, numbers."""
    asked = [
        "select to_jsonb(t) from public.trades t order by 1",
        "select to_jsonb(t) from public.events t order by 1",
        "select to_jsonb(t) from public.sessions t order by 1",
        (
            "select table_name, column_name, data_type, column_default from information_schema.columns"
            " where table_schema = 'public' order by 1, 2"
        ),
        "select indexdef from pg_indexes where schemaname = 'public' order by 1",
        (
            "select grantee, table_name, privilege_type from information_schema.role_table_grants"
            " where table_schema = 'public' order by 1, 2, 3"
        ),
        "select tablename, policyname from pg_policies order by 1, 2",
        "select sequencename, last_value from pg_sequences order by 1",
        "select proname from pg_proc where pronamespace = 'public'::regnamespace order by 1",
    ]
    return [sql.execute(query.encode()).fetchall() for query in asked]


@contextmanager
def orders(project: SupabaseLite, sql: Connection, definition: str) -> Iterator[None]:
    """A table of the bot's own, for a while. The server reads the schema when it starts, and then grants everything."""
    sql.execute(f"create table public.orders ({definition})".encode())
    try:
        project.stop()
        project.start()
        sql.execute((SQL / "0002_access.sql").read_bytes())
        yield
    finally:
        sql.execute("drop table public.orders")


@contextmanager
def changed(sql: Connection, there: str, back: str) -> Iterator[None]:
    sql.execute(there.encode())
    try:
        yield
    finally:
        sql.execute(back.encode())


# ------------------------------------------------------------------------------------------ in order


def test_a_healthy_project_has_no_finding_and_nothing_is_left_at_either_end(
    bot_db: Path, fronted: str, project: SupabaseLite, sql: Connection
) -> None:
    with orders(project, sql, "order_id text primary key, number bigserial, lots int"):
        put(bot_db, "orders", {"order_id": "o-1", "lots": 2}, operation="upsert", on_conflict=("order_id",))
        before = whole_remote(sql)
        contents, folder = bot_db.read_bytes(), sorted(each.name for each in bot_db.parent.iterdir())

        report = Report(bot_db)

        assert (report.bad(), report.code, report.facts["health"]) == ({}, 0, "ok")
        assert whole_remote(sql) == before
        assert bot_db.read_bytes() == contents
        assert sorted(each.name for each in bot_db.parent.iterdir()) == folder
        assert "there is one on (id)" in report.says("trades: unique index")
        assert "there is one on (session_id)" in report.says("sessions: unique index")
        assert "there is one on (order_id)" in report.says("orders: unique index")
        assert "read and inserted into, and updated" in report.says("sessions: grants")
        assert report.says("key") == "it is a secret key"
        # Control: the comparison sees one row more, and one number less.
        sql.execute("insert into orders values ('x')")
        sql.execute("insert into trades (session_id, symbol, timestamp) values ('s', 'x', now())")
        after = whole_remote(sql)
        assert [old == new for old, new in zip(before, after, strict=True)].count(False) == 2


def test_a_server_that_does_not_ask_its_database_is_not_taken_at_its_word(bot_db: Path, project: SupabaseLite) -> None:
    report = Report(bot_db)

    assert (report.bad(), report.code) == ({}, 0)
    assert "did not ask its database" in report.says("trades: unique index")
    severities = {each["check"]: each["severity"] for each in report.facts["findings"]}
    assert (severities["trades: unique index"], severities["integrity"]) == ("skipped", "ok")
    assert re.search(r"^skipped +trades: unique index +not looked at", call("--path", bot_db).stdout, re.MULTILINE)


def test_the_key_is_never_shown(bot_db: Path, project: SupabaseLite) -> None:
    shown = call("--path", bot_db).output + Report(bot_db).text

    assert project.secret_key not in shown
    assert project.secret_key[-4:] not in shown
    assert "it is a secret key" in shown


def test_beside_a_running_bot_it_names_its_process_and_the_bot_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    path = tmp_path / "bot.db"
    with running_bot(path) as bot:
        report = Report(path, "--offline")
        put_one(bot)

    assert set(report.bad()) == {"settings"}  # no URL, no key
    assert report.says("writer") == f"process {bot.pid} has the file open for writing"


# ------------------------------------------------------------------------------------------ tables


def test_a_table_of_the_bots_own_is_asked_about_by_what_it_last_sent(
    bot_db: Path, fronted: str, project: SupabaseLite, sql: Connection
) -> None:
    put(bot_db, "orders", {"order_id": "o-1"}, operation="upsert", on_conflict=("order_id",))
    with orders(project, sql, "order_id text primary key"):
        assert CliRunner().invoke(app, ["drain", "--path", str(bot_db)]).exit_code == 0
        report = Report(bot_db)

    assert report.bad() == {}
    assert report.says("orders: unique index") == "there is one on (order_id)"


def test_what_a_shell_has_put_under_no_columns_name_is_not_asked_about(bot_db: Path, project: SupabaseLite) -> None:
    with closing(sqlite3.connect(bot_db)) as shell, shell:
        shell.execute("""insert into outbox (destination, payload) values ('events', '{"x&limit=9": 1}')""")

    assert Report(bot_db).bad() == {}


def test_a_missing_table_of_undeclared_entries_is_a_fault(bot_db: Path, project: SupabaseLite) -> None:
    assert Report(bot_db).bad() == {}  # control
    put(bot_db, "ordres", {"lots": 1})

    report = Report(bot_db)

    severity, says = report.bad()["ordres: table"]
    assert (severity, report.code) == ("fault", 2)
    assert "PGRST205" in says
    assert (
        "create table public.ordres (...); grant select, insert, update on public.ordres to service_role"
        in report.fix("ordres: table")
    )


def test_a_missing_table_that_nothing_was_put_for_is_a_warning_and_can_be_left_out(
    bot_db: Path, project: SupabaseLite
) -> None:
    report = Report(bot_db, "--table", "trades", "--table", "ordres")

    assert list(report.bad()) == ["ordres: table"]
    assert (report.bad()["ordres: table"][0], report.code) == ("warning", 1)
    assert Report(bot_db, "--table", "trades").code == 0


def test_missing_columns_of_pending_entries_are_named_all_of_them(bot_db: Path, project: SupabaseLite) -> None:
    put(bot_db, "trades", {**TRADE, "symboll": "EURUSD", "volumen": 0.1})
    insert = "insert into outbox (destination, payload) values ('events', '{\"event_typ\": \"X\"}')"
    with closing(sqlite3.connect(bot_db)) as shell, shell:
        shell.execute(insert)

    report = Report(bot_db)

    assert report.bad()["trades: columns"] == ("fault", "symboll, volumen are missing: did you mean symbol, volume?")
    assert report.bad()["events: columns"] == ("fault", "event_typ is missing: did you mean event_type?")
    assert "alter table public.trades add column symboll <type>, add column volumen" in report.fix("trades: columns")
    # They might be shipped ones that somebody has dropped: the shipped SQL adds those that are missing.
    assert "0001_tables.sql brings back a shipped column" in report.fix("trades: columns")
    assert set(report.bad()) == {"trades: columns", "events: columns"}


def test_a_missing_unique_index_is_a_fault(bot_db: Path, fronted: str, project: SupabaseLite, sql: Connection) -> None:
    put(bot_db, "orders", {"order_id": "o-1"}, operation="upsert", on_conflict=("order_id",))
    with orders(project, sql, "order_id text, lots int"):
        report = Report(bot_db)
        sql.execute("create unique index on public.orders (order_id)")
        fixed = Report(bot_db)

    assert report.bad() == {"orders: unique index": ("fault", "none on (order_id), which decides what is a duplicate")}
    assert report.fix("orders: unique index") == "create unique index on public.orders (order_id)"
    assert fixed.bad() == {}


@pytest.mark.parametrize("right", ["select", "insert", "update"])
def test_a_missing_grant_is_a_fault(bot_db: Path, fronted: str, sql: Connection, right: str) -> None:
    with changed(
        sql,
        f"revoke {right} on public.sessions from service_role",
        f"grant {right} on public.sessions to service_role",
    ):
        report = Report(bot_db)

    severity, says = report.bad()["sessions: grants"]
    assert (severity, list(report.bad())) == ("fault", ["sessions: grants"])
    assert "42501 permission denied for table sessions" in says
    # The shipped file brings grant and policy together: a grant alone would turn the pause into dead letters.
    assert report.fix("sessions: grants") == f'psql "$SUPABASE_DB_URL" -f {shlex.quote(str(SQL / "0002_access.sql"))}'
    assert Report(bot_db).bad() == {}  # control


def test_a_missing_grant_is_found_on_supabase_lite_too(bot_db: Path, project: SupabaseLite, sql: Connection) -> None:
    with changed(sql, "revoke all on public.trades from service_role", (SQL / "0002_access.sql").read_text()):
        assert list(Report(bot_db).bad()) == ["trades: grants"]
    assert Report(bot_db).bad() == {}


def test_a_delivered_row_that_cannot_be_seen_is_a_warning(bot_db: Path, project: SupabaseLite, sql: Connection) -> None:
    assert CliRunner().invoke(app, ["drain", "--path", str(bot_db)]).exit_code == 0
    seen = Report(bot_db)
    # The server under these tests may have made the role as Supabase does, so that no policy holds for it.
    (passes,) = sql.execute("select rolbypassrls from pg_roles where rolname = 'service_role'").fetchall()[0]
    sql.execute("alter role service_role nobypassrls")
    try:
        with changed(sql, "drop policy trades_service on public.trades", (SQL / "0002_access.sql").read_text()):
            hidden = Report(bot_db)
    finally:
        sql.execute(f"alter role service_role {'' if passes else 'no'}bypassrls".encode())

    assert (seen.bad(), seen.says("trades: rows")) == ({}, "the newest delivered one can be seen")
    assert list(hidden.bad()) == ["trades: rows"]
    assert "row-level security hides it" in hidden.bad()["trades: rows"][1]
    assert hidden.fix("trades: rows").endswith("0002_access.sql")


def test_a_pause_is_shown_with_its_remedy_until_it_ends(
    bot_db: Path, fronted: str, project: SupabaseLite, sql: Connection
) -> None:
    put(bot_db, "orders", {"order_id": "o-1"}, operation="upsert", on_conflict=("order_id",))
    with orders(project, sql, "order_id text, lots int"):
        assert CliRunner().invoke(app, ["drain", "--path", str(bot_db), "--timeout", "60"]).exit_code == 2
        paused = Report(bot_db)
        offline = Report(bot_db, "--offline")
        sql.execute("create unique index on public.orders (order_id)")
        fixed = Report(bot_db)

    assert paused.bad()["pauses"][0] == offline.bad()["pauses"][0] == "fault"
    assert "orders" in paused.bad()["pauses"][1] and "42P10" in paused.bad()["pauses"][1]
    then = f"outbox reload{given(bot_db)}"
    assert offline.fix("pauses") == f"create unique index on public.orders (order_id); then: {then}"
    assert {check: found[0] for check, found in fixed.bad().items()} == {"pauses": "warning"}
    assert fixed.fix("pauses") == then


def given(path: Path) -> str:
    """What a suggested command has behind its name: it means the same file."""
    return f" --path {shlex.quote(str(path))}"


def test_a_pause_for_a_column_leaves_the_column_to_the_servers_words(bot_db: Path, project: SupabaseLite) -> None:
    put(bot_db, "trades", {**TRADE, "symboll": "EURUSD"})
    assert CliRunner().invoke(app, ["drain", "--path", str(bot_db), "--timeout", "60"]).exit_code == 2

    report = Report(bot_db, "--offline")

    assert "Could not find the 'symboll' column" in report.bad()["pauses"][1]
    assert "alter table public.trades add column <name> <type>; then: outbox reload" in report.fix("pauses")


# ------------------------------------------------------------------------------------------ key and project


def jwt(**claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'HS256'})}.{part(claims)}.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("key", "says"),
    [
        pytest.param("publishable", "it is a publishable key, which may not write", id="publishable"),
        pytest.param(
            jwt(role="service_role", exp=1_700_000_000),
            "it is a legacy service_role key, and expired on 2023-11-14",
            id="expired",
        ),
        pytest.param(
            jwt(role="service_role", exp=4_000_000_000),
            "it is a legacy service_role key, and the server refuses it: 401 Invalid API key",
            id="signature of another project",
        ),
        pytest.param(
            "sb_secret_wrong",
            "it is a secret key, and the server refuses it: 401 Invalid API key",
            id="revoked",
        ),
    ],
)
def test_a_key_that_will_not_do_is_a_fault(
    bot_db: Path, project: SupabaseLite, monkeypatch: pytest.MonkeyPatch, key: str, says: str
) -> None:
    use(monkeypatch, project.url, project.publishable_key if key == "publishable" else key)

    report = Report(bot_db)

    assert report.bad()["key"] == ("fault", says)
    assert report.code == 2
    assert "SUPABASE_SECRET_KEY" in report.fix("key") and "outbox reload" in report.fix("key")
    assert not [each for each in report.facts["findings"] if "trades" in each["check"]]  # it would say nothing new
    if key != "publishable":
        assert key not in report.text


def test_a_project_that_does_not_answer_is_a_fault(bot_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody else gets it, and nobody listens
        use(monkeypatch, f"http://127.0.0.1:{taken.getsockname()[1]}", SECRET)
        report = Report(bot_db, "--timeout", 5)

    assert set(report.bad()) == {"remote"}
    assert "nobody listens there" in report.bad()["remote"][1]


class _Portal(BaseHTTPRequestHandler):
    """A captive portal: a page of its own, and 200, for everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + 3600 if timestamp is None else timestamp)

    def log_message(self, *_: object) -> None:
        pass


def test_a_page_that_is_not_postgrests_is_a_fault_and_its_clock_is_compared(
    bot_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Portal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        use(monkeypatch, f"http://127.0.0.1:{server.server_address[1]}", SECRET)
        report = Report(bot_db)
        server.shutdown()

    assert set(report.bad()) == {"remote", "clock"}
    assert "not as Supabase's REST endpoint does" in report.bad()["remote"][1]
    assert report.bad()["clock"][0] == "fault"
    assert "behind the remote end's" in report.bad()["clock"][1]


def test_offline_asks_nothing(bot_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "http://127.0.0.1:9", SECRET)

    report = Report(bot_db, "--offline")

    assert (report.bad(), report.code) == ({}, 0)
    assert "remote" in Report(bot_db).bad()  # control


def test_settings_that_cannot_be_used_do_not_hide_the_file(bot_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "http://far.example", SECRET)

    report = Report(bot_db)

    assert list(report.bad()) == ["settings"]
    assert "would send the key in the clear" in report.bad()["settings"][1]
    assert "nothing wrong" in report.says("integrity")
    assert SECRET not in report.text
    assert call().exit_code == 2  # without --path nobody knows which file is meant


# ------------------------------------------------------------------------------------------ the file


def test_a_missing_file_is_exit_code_3_and_nothing_is_created_but_the_project_is_checked(
    tmp_path: Path, project: SupabaseLite
) -> None:
    report = Report(tmp_path / "bot.db")

    assert report.code == 3
    assert "does not exist; nothing was created" in report.bad()["file"][1]
    assert report.says("trades: table") == "it is there"
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_exit_code_3(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("no database at all\n" * 100)

    report = Report(notes, "--offline")

    assert report.code == 3
    assert "not a SQLite database; it was not touched" in report.bad()["file"][1]


@pytest.mark.parametrize("thorough", [(), ("--thorough",)], ids=["quick", "thorough"])
def test_a_damaged_file_is_exit_code_3(bot_db: Path, thorough: tuple[str, ...]) -> None:
    assert "integrity" not in Report(bot_db, "--offline", *thorough).bad()  # control
    content = bytearray(bot_db.read_bytes())
    with closing(sqlite3.connect(bot_db)) as shell:
        (page,) = shell.execute("select rootpage from sqlite_schema where name = 'outbox'").fetchone()
        (size,) = shell.execute("pragma page_size").fetchone()
    content[(page - 1) * size : page * size] = b"\xff" * size
    bot_db.write_bytes(content)

    report = Report(bot_db, "--offline", *thorough)

    assert report.code == 3
    assert report.bad()["integrity"][0] == "unreadable"
    assert "keep a copy" in report.fix("integrity")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_a_file_that_others_may_read_is_a_warning_with_the_command_that_closes_it(bot_db: Path) -> None:
    bot_db.chmod(0o644)

    report = Report(bot_db, "--offline")

    assert report.bad()["permissions"] == ("warning", "other users of this machine may read bot.db")
    os.system(report.fix("permissions"))
    assert "permissions" not in Report(bot_db, "--offline").bad()


def test_a_clock_that_went_back_is_a_warning(bot_db: Path) -> None:
    with closing(sqlite3.connect(bot_db)) as shell, shell:
        shell.execute("update outbox set created_at_ms = created_at_ms + 3600000 where seq = 2")

    severity, says = Report(bot_db, "--offline").bad()["clock"]

    assert severity == "warning"
    assert "the clock was wrong then, or is now" in says


def test_dead_letters_are_a_warning(bot_db: Path) -> None:
    with closing(sqlite3.connect(bot_db)) as shell, shell:
        shell.execute("update outbox set state = 'dead' where seq = 1")

    report = Report(bot_db, "--offline")

    assert "1 entry was refused by the server for good" in report.bad()["dead letters"][1]
    assert report.fix("dead letters") == f"outbox ls{given(bot_db)} --state dead"


def test_another_journal_mode_is_a_fault(bot_db: Path) -> None:
    with closing(sqlite3.connect(bot_db)) as shell:
        shell.execute("pragma journal_mode = delete")

    report = Report(bot_db, "--offline")

    assert report.bad()["durability"][0] == "fault"
    assert "pragma journal_mode=wal" in report.fix("durability")


READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("begin")
connection.execute("select count(*) from outbox").fetchall()
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows does not say who has a lock")
def test_a_reader_that_holds_the_wal_back_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(findings, "_LARGE_WAL_BYTES", 1)
    path = tmp_path / "bot.db"
    with running_bot(path) as bot:
        with process(READER, path) as reader:
            put_one(bot)
            held = Report(path, "--offline")
        free = Report(path, "--offline")

    assert f"process {reader.pid} has been reading an old state" in held.bad()["wal"][1]
    assert held.fix("wal").endswith(f"ps -p {reader.pid}")
    assert "process" not in free.says("wal")


def test_a_full_disk_and_a_network_file_system_are_faults(bot_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outbox.doctor.local._free_bytes", lambda folder: 1000)
    monkeypatch.setattr("outbox.doctor.local.filesystem_of", lambda path: "nfs4")

    bad = Report(bot_db, "--offline").bad()

    assert (bad["disk"][0], bad["durability"][0]) == ("fault", "fault")


@pytest.mark.skipif(os.name == "nt", reason="a link needs a right of its own on Windows")
def test_a_link_is_followed_to_the_file_and_a_loop_of_links_is_an_error(bot_db: Path, tmp_path: Path) -> None:
    bot_db.chmod(0o640)
    link, circle = tmp_path / "link.db", tmp_path / "circle.db"
    link.symlink_to(bot_db)
    circle.symlink_to(circle)

    assert "chmod 600" in Report(link, "--offline").fix("permissions")
    assert Report(circle, "--offline").code == 3


# ------------------------------------------------------------------------------------------ the text


def test_every_check_stands_in_the_page_about_it(bot_db: Path, project: SupabaseLite) -> None:
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    checks = {found["check"] for found in Report(bot_db).facts["findings"]}

    named = {f"TABLE:{check.partition(':')[2]}" if ":" in check else check for check in checks}

    assert len(named) > 15
    assert {check for check in named if f"| `{check}` |" not in page} == set()


def test_the_text_has_a_line_for_each_check_and_its_fix_in_one_piece(bot_db: Path) -> None:
    with closing(sqlite3.connect(bot_db)) as shell, shell:
        shell.execute("update outbox set state = 'dead' where seq = 1")
    report = Report(bot_db, "--offline")

    lines = call("--path", bot_db, "--offline").stdout.splitlines()

    assert max(len(line) for line in lines[1:] if "->" not in line) <= 80
    assert lines[0].startswith("warning")
    for finding in report.facts["findings"]:
        assert any(line.startswith(finding["severity"]) and finding["check"] in line for line in lines[1:])
        if finding["fix"]:
            assert any(line.endswith(f"-> {finding['fix']}") for line in lines)


def test_every_name_of_the_json_object_is_described_in_the_help(bot_db: Path) -> None:
    report = Report(bot_db, "--offline")
    help_text = call("--help").stdout

    names = {*report.facts, *report.facts["findings"][0]}

    assert {name for name in names if name not in help_text} == set()


def test_a_table_that_cannot_be_one_is_refused() -> None:
    result = call("--table", "trades?select=*")

    assert result.exit_code == 2
    assert "not a plain SQL identifier" in " ".join(result.output.split())
