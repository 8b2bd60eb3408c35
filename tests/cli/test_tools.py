"""`tail`, `status --watch`, `edit`, `prune` and the filters: beside a bot, and without one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from outbox.cli import entries
from outbox.cli.app import app
from outbox.cli.filters import moment_ms
from outbox.cli.status import Status
from outbox.cli.tail import Seen, turns
from outbox.cli.watch import Speed
from outbox.entry import State
from outbox.errors import InvalidRequest
from outbox.forensics import entries as forensic_entries
from outbox.forensics.tail import START, Mark, News, news
from outbox.snapshot import Snapshot
from outbox.store.lock import Holder
from outbox.store.read_only import look
from outbox.store.rows import Notices
from outbox.store.selection import Selection
from tests import forked
from tests.admin.test_inbox import bot, states, until
from tests.cli.test_changes import as_json, call, editor
from tests.store.tools import shell
from tests.support import run_async

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("alone")
posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
CORRECTED = '{"id": "t0", "n": 1.10}'


def execute(path: Path, *statements: str) -> None:
    with shell(path) as connection:
        for statement in statements:
            connection.execute(statement)


def one(path: Path, sql: str) -> Any:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchone()


def started(*arguments: object) -> subprocess.Popen[str]:
    """Start the command line in a process of its own; a test ends it with Ctrl-C."""
    # Tests that run in the background have children that ignore Ctrl-C.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import outbox.cli as c; c.main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=100)
    return process.returncode, complaints


# ------------------------------------------------------------------------------------------ filters


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        pytest.param("90s", -90_000, id="seconds"),
        pytest.param("30min", -1_800_000, id="minutes"),
        pytest.param("2h", -7_200_000, id="hours"),
        pytest.param("1.5h", -5_400_000, id="a fraction"),
        pytest.param("3d", -259_200_000, id="days"),
        pytest.param("2026-01-01", 1_767_225_600_000, id="a day is its midnight, UTC"),
        pytest.param("2026-01-01T01:00", 1_767_229_200_000, id="UTC unless it says"),
        pytest.param("2026-01-01T01:00+01:00", 1_767_225_600_000, id="another offset"),
        pytest.param("2026-01-01T00:00:00Z", 1_767_225_600_000, id="Z"),
    ],
)
def test_a_time_is_an_age_or_iso(text: str, expected_ms: int) -> None:
    now_ms = 10_000_000_000_000
    found = moment_ms(text, now_ms=now_ms, field="since")
    assert found == (expected_ms if expected_ms > 0 else now_ms + expected_ms)


@pytest.mark.parametrize("text", ["", "yesterday", "2", "2 fortnights", "-2h", "2026-13-01", "99999999999d"])
def test_a_time_that_is_none_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(InvalidRequest, match="since"):
        moment_ms(text, now_ms=0, field="since")


def test_ls_filters_by_session_and_time(dead: Path) -> None:
    execute(
        dead,
        "update outbox set payload = '{\"session_id\": \"s-1\"}', created_at_ms = 1767225600000 where id = 't0'",
        "update outbox set match = '{\"session_id\": \"s-1\"}' where id = 't1'",
    )

    def ids(*arguments: object) -> list[str]:
        code, found = as_json("ls", "--path", dead, *arguments)
        assert code == 0
        return [entry["id"] for entry in found["entries"]]

    assert ids("--session", "s-1") == ["t1", "t0"]
    assert ids("--since", "1h") == ["t2", "t1"]
    assert ids("--until", "2026-01-02", "--since", "2026-01-01") == ["t0"]
    assert ids("--until", "2026-01-01") == []
    assert ids("--session", "s-1", "--since", "1h", "--state", "dead", "--code", "22P02") == ["t1"]
    code, found = as_json("ls", "--path", dead, "--since", "yesterday")
    assert code == 3
    assert "since" in found["error"]


SETTLED = "insert into outbox (destination, payload, state, settled_at_ms) values"


@pytest.mark.parametrize("state", [None, State.DELIVERED, State.DISCARDED, State.DEAD, State.PENDING])
@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_what_ls_looks_at_step_by_step_is_what_one_look_finds(
    dead: Path, monkeypatch: pytest.MonkeyPatch, state: State | None, step: int
) -> None:
    execute(
        dead,
        *(
            f"{SETTLED} ('events', '{{\"session_id\": \"s-{n % 3}\"}}', '{kind}', {1000 + n * 7 % 5})"
            for n in range(11)
            for kind in ("delivered", "discarded")
        ),
        "update outbox set payload = '{\"session_id\": \"s-1\"}' where id = 't0'",
    )

    def found(limit: int) -> list[Any]:
        chosen = () if state is None else ("--state", state)
        return [
            [entry["seq"] for entry in as_json("ls", "--path", dead, *chosen, *more, "--limit", limit)[1]["entries"]]
            for more in ((), ("--session", "s-1"), ("--session", "nobody's"))
        ]

    at_once = [found(limit) for limit in (1, 4, 100)]
    monkeypatch.setattr(entries, "_STEP", step)
    assert [found(limit) for limit in (1, 4, 100)] == at_once
    assert at_once[2][2] == []
    assert state is State.PENDING or at_once[2][1]


def looks(monkeypatch: pytest.MonkeyPatch, *, stop_at: int | None = None) -> list[int]:
    """Let `ls` look at two entries in a step, and return the list of how much each step may find."""
    done: list[int] = []
    listed = forensic_entries.listed

    async def look(*arguments: Any, limit: int, **more: Any) -> Any:
        done.append(limit)
        if len(done) == stop_at:
            raise KeyboardInterrupt
        return await listed(*arguments, limit=limit, **more)

    monkeypatch.setattr(entries, "_STEP", 2)
    monkeypatch.setattr(forensic_entries, "listed", look)
    return done


def test_ls_looks_no_further_than_it_must(dead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(dead, *[f"{SETTLED} ('events', '{{}}', 'delivered', 5)"] * 20)
    steps = looks(monkeypatch)
    assert len(as_json("ls", "--path", dead, "--limit", 3)[1]["entries"]) == 3
    assert steps == [3, 1]
    steps.clear()
    assert as_json("ls", "--path", dead, "--session", "nobody's")[1]["entries"] == []
    assert len(steps) == 12  # the control: of all 23, with two in a step


def test_ctrl_c_lists_what_ls_has_found_so_far_and_says_how_far_it_has_come(
    dead: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(dead, *[f"{SETTLED} ('events', '{{\"session_id\": \"s-1\"}}', 'delivered', 5)"] * 9)
    looks(monkeypatch, stop_at=3)
    shown = call("ls", "--path", dead, "--session", "s-1")
    assert shown.exit_code == 0
    assert shown.stdout.count("delivered") == 4
    assert "Stopped: only the newest 4 were looked at." in shown.stdout


def test_ls_of_an_unknown_session_names_those_that_the_bots_keep_here(dead: Path) -> None:
    unknown = call("ls", "--path", dead, "--session", "s-9").stdout
    assert unknown == "No entry matches.\n"
    execute(
        dead,
        *(
            "insert into outbox_sessions (source, session_id, status, start_time, day_start, last_heartbeat, symbols,"
            f" version) values ('bot-{n}', 's-{n}', 'RUNNING', '2026-01-0{n}T00:00:00.000+00:00',"
            " '2026-01-01T00:00:00.000+00:00', '2026-01-01T00:00:00.000+00:00', '[]', 1)"
            for n in range(1, 8)
        ),
    )
    told = " ".join(call("ls", "--path", dead, "--session", "s-9").stdout.split())
    assert told.endswith("keeps its state here: s-7, s-6, s-5, s-4, s-3 and 2 more")
    assert "s-7" not in call("ls", "--path", dead, "--session", "s-9", "--json").stdout


# ------------------------------------------------------------------------------------------ edit


def test_edit_without_a_bot_corrects_the_row_and_keeps_what_it_was(dead: Path) -> None:
    Path("new.json").write_text(CORRECTED, encoding="utf-8")
    code, found = as_json("edit", "t0", "--from", "new.json", "--path", dead, "--yes")

    assert (code, found["by"], found["outcomes"]) == (0, "this command", {"requeued": 1})
    assert one(dead, "select state, payload from outbox where id = 't0'") == ("pending", '{"id":"t0","n":1.10}')
    _, shown = as_json("show", "t0", "--path", dead)
    events = [line["event"] for line in shown["entries"][0]["history"]]
    assert events == ["refused", "edited", "requeued"]
    assert shown["entries"][0]["history"][1]["message"] == 'it was {"id":"t0","n":0}'


def test_edit_beside_a_bot_is_done_by_the_bot(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    Path("new.json").write_text('{"n": 5, "extra": true}', encoding="utf-8")
    with bot(path):
        code, found = as_json("edit", "t1", "--from", "new.json", "--path", path, "--yes")
        assert (code, found["by"], found["done"]) == (0, "the running bot", 1)
        refused = as_json("edit", "t2", "--from", "new.json", "--path", path, "--yes", "--destination", "orders")
        assert (refused[0], refused[1]["outcomes"]) == (1, {"unknown id": 1})
    assert one(path, "select payload, columns from outbox join outbox_lanes using (lane) where id = 't1'") == (
        '{"extra":true,"n":5}', "extra,id,n",
    )  # fmt: skip


def test_the_editor_gets_the_row_laid_out_and_its_text_counts(
    dead: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDITOR", editor(dead.parent, '{"n": 7}'))
    said = call("edit", "t0", "--path", dead, answer="y\n")

    assert said.exit_code == 0
    assert "n: 0 -> 7" in said.stderr
    assert "kept" not in said.stderr
    assert one(dead, "select payload from outbox where id = 't0'") == ('{"n":7}',)


def test_an_edit_that_is_not_made_keeps_its_text(
    dead: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDITOR", editor(dead.parent, '{"n": 7}'))
    said = call("edit", "t0", "--path", dead, answer="n\n")

    assert said.exit_code == 1
    kept = re.search(r"kept in (\S+)", said.stderr)
    assert kept is not None
    file = Path(kept[1])
    assert file.read_text(encoding="utf-8") == '{"n": 7}'
    if os.name != "nt":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.unlink()
    assert states(dead) == {"dead": 3}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("[1]", "must be a JSON object", id="an array"),
        pytest.param('{"n": }', "is not JSON", id="broken"),
        pytest.param('{"n": 1, "n": 2}', "appears twice", id="a name twice"),
        pytest.param('{"n": NaN}', "is not JSON: NaN", id="NaN"),
        pytest.param("{}", "at least one column", id="nothing"),
        pytest.param('{"id": "other"}', "is the idempotency key", id="another id"),
        pytest.param('{"no such column!": 1}', "no such column!", id="no identifier"),
    ],
)
def test_a_row_that_cannot_be_stored_changes_nothing(text: str, complaint: str, dead: Path) -> None:
    Path("new.json").write_text(text, encoding="utf-8")
    code, found = as_json("edit", "t0", "--from", "new.json", "--path", dead, "--yes")
    assert code == 3
    assert complaint in found["error"]
    assert states(dead) == {"dead": 3}


def test_an_edit_without_a_change_an_unknown_id_and_a_living_entry_are_exit_code_1(dead: Path) -> None:
    Path("same.json").write_text('{"n": 0, "id": "t0"}', encoding="utf-8")
    code, found = as_json("edit", "t0", "--from", "same.json", "--path", dead, "--yes")
    assert (code, found["by"], found["done"]) == (1, None, 0)
    assert as_json("edit", "nobody", "--path", dead, "--yes")[1]["outcomes"] == {"unknown id": 1}
    call("discard", "t0", "--reason", "x", "--path", dead, "--yes")
    assert as_json("edit", "t0", "--path", dead, "--yes")[1]["outcomes"] == {"already discarded": 1}


def test_a_misspelt_column_is_renamed_in_one_row_or_in_all_that_have_it(dead: Path) -> None:
    call("requeue", "t1", "--path", dead, "--yes")  # pending beside two dead ones

    code, found = as_json("edit", "t1", "--rename-column", "n=number", "--path", dead, "--yes")
    assert (code, found["outcomes"]) == (0, {"requeued": 1})
    shown = call("edit", "--rename-column", "n=number", "--all-matching", "--path", dead)
    assert (shown.exit_code, states(dead)) == (1, {"dead": 2, "pending": 1})  # nobody has said yes
    assert "rename n to number in 2 entries and send them?" in shown.stderr
    code, found = as_json("edit", "--rename-column", "n=number", "--all-matching", "--path", dead, "--yes")
    assert (code, found["outcomes"], states(dead)) == (0, {"requeued": 2}, {"pending": 3})
    code, found = as_json("edit", "--rename-column", "n=number", "--all-matching", "--path", dead, "--yes")
    assert (code, found["outcomes"]) == (1, {})
    for wrong in (["--all-matching"], ["--rename-column", "n=m"], [], ["t1", "--rename-column", "n"]):
        assert as_json("edit", *wrong, "--path", dead)[0] == 3


def test_a_pending_entry_is_discarded_by_its_id_alone(dead: Path) -> None:
    call("requeue", "t1", "--path", dead, "--yes")

    asked = call("discard", "t0", "t1", "--reason", "x", "--path", dead)
    assert (asked.exit_code, "discard 1 dead and 1 pending entries?" in asked.stderr) == (1, True)
    assert as_json("discard", "--all", "--reason", "x", "--path", dead, "--yes")[1]["outcomes"] == {"discarded": 2}
    assert states(dead) == {"discarded": 2, "pending": 1}  # all dead ones
    code, found = as_json("discard", "t1", "--reason", "x", "--path", dead, "--yes")
    assert (code, found["outcomes"], states(dead)) == (0, {"discarded": 1}, {"discarded": 3})


def test_without_a_terminal_and_an_editor_edit_says_what_to_do(
    dead: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("EDITOR", "VISUAL"):
        monkeypatch.delenv(name, raising=False)
    code, found = as_json("edit", "t0", "--path", dead)
    assert code == 3
    assert "--from FILE" in found["error"]


# ------------------------------------------------------------------------------------------ prune


def settled(path: Path) -> None:
    execute(path, "update outbox set state = 'delivered', settled_at_ms = 1767225600000 where id in ('t0', 't1')")


def test_prune_asks_first_and_counts_what_it_took(dead: Path) -> None:
    settled(dead)
    no = call("prune", "--path", dead, answer="n\n")
    assert (no.exit_code, "prune 2 that arrived" in no.stderr) == (1, True)
    assert as_json("prune", "--path", dead, "--older-than", "99999d", "--yes")[1]["pruned"] == 0
    code, found = as_json("prune", "--path", dead, "--yes")

    assert (code, found["pruned"], found["by"]) == (0, 2, "this command")
    assert states(dead) == {"dead": 1}
    assert one(dead, "select day, delivered from outbox_daily") == ("2026-01-01", 2)
    assert as_json("prune", "--path", dead, "--older-than", "soon", "--yes")[0] == 3


def test_prune_beside_a_bot_is_done_by_the_bot(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with bot(path):
        call("discard", "t0", "--reason", "x", "--path", path, "--yes")
        code, found = as_json("prune", "--path", path, "--older-than", "0d", "--yes")
        assert (code, found["by"], found["pruned"]) == (0, "the running bot", 1)
    assert states(path) == {"dead": 2}


# ------------------------------------------------------------------------------------------ tail, watch


def test_tail_tells_what_happened_last(dead: Path) -> None:
    call("discard", "t0", "--reason", "a test row", "--path", dead, "--yes")
    lines = [json.loads(line) for line in call("tail", "--path", dead, "--json").stdout.splitlines()]

    assert [line["event"] for line in lines if line["id"] == "t0"] == ["put", "refused", "discarded"]
    assert lines[-1]["message"] == "a test row"
    assert len(call("tail", "-n", 2, "--path", dead, "--json").stdout.splitlines()) == 2
    assert call("tail", "-n", 0, "--path", dead).stdout == ""
    assert call("tail", "--destination", "events", "--path", dead).stdout == ""
    text = call("tail", "--path", dead).stdout
    assert "UTC" in text.splitlines()[0]
    assert max(map(len, text.splitlines())) <= 80
    assert set(lines[0]) == {"at", "event", "seq", "destination", "id", "status", "code", "message", "columns"}


@posix
def test_tail_follows_a_bot_through_puts_deaths_and_its_end(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with bot(path) as running:
        follower = started("tail", "-f", "--every", "0.05", "-n", "1", "--json", "--path", path)
        try:
            assert follower.stdout is not None
            lines = iter(follower.stdout.readline, "")
            assert json.loads(next(lines))["event"] == "refused"
            call("discard", "t1", "--reason", "seen", "--path", path, "--yes")
            assert (found := json.loads(next(lines)))["event"] == "discarded"
            assert (found["id"], found["message"]) == ("t1", "seen")
            execute(path, "insert into outbox (id, destination, payload) values ('s', 'events', '{\"a\": 1}')")
            assert json.loads(next(lines))["event"] == "put"
            assert running.stdin is not None
            running.stdin.write("\n")
            running.stdin.flush()
            assert (found := json.loads(next(lines)))["event"] == "closed"
            assert found["message"] == f"by process {running.pid}"
            assert ended(follower) == (0, "")
        finally:
            follower.kill()


def test_tail_of_one_table_is_not_drowned_by_another(dead: Path) -> None:
    many = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 100)"
    execute(dead, f"insert into outbox (destination, payload) {many} select 'events', '{{}}' from n")
    found = call("tail", "-n", 2, "--destination", "fills", "--path", dead, "--json").stdout.splitlines()
    assert [json.loads(line)["destination"] for line in found] == ["fills", "fills"]


def seen(pauses: dict[str, str], writer: int | None, left_out: int = 0) -> Seen:
    return Seen(News((), left_out, START), pauses, writer)


def test_tail_shows_events_that_belong_to_no_entry() -> None:
    before, now = seen({"trades": "forbidden"}, 7), seen({"everything": "unreachable"}, 8, left_out=4000)
    told = [(change.event, change.destination or change.message) for change in turns(before, now, 1)]
    assert told == [
        ("left_out", "4,000 more puts and deliveries"),
        ("paused", "everything"),
        ("resumed", "trades"),
        ("closed", "by process 7"),
        ("opened", "by process 8"),
    ]
    assert list(turns(now, seen({"everything": "unreachable"}, 8), 2)) == []


def test_a_drain_of_thousands_is_counted_and_not_shown_one_by_one(dead: Path) -> None:
    @run_async
    async def since(mark: Mark, most: int) -> News:
        return await look(dead, lambda observer: news(observer, mark, Selection(), most=most))

    first = since(START, 50)
    assert (first.left_out, len(first.changes)) == (0, 6)
    seventy = (
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 70) select 'events', '{}' from n"
    )
    execute(dead, f"insert into outbox (destination, payload) {seventy}")
    execute(dead, "update outbox set state = 'delivered', settled_at_ms = 9e12 where destination = 'events'")

    then = since(first.mark, 50)

    assert (then.left_out, len(then.changes)) == (40, 100)
    assert since(then.mark, 50) == News((), 0, then.mark)


@posix
def test_watch_prints_one_object_for_each_look_and_ends_with_the_healths_code(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with bot(path):
        watcher = started("status", "--watch", "--every", "0.1", "--json", "--path", path)
        try:
            assert watcher.stdout is not None
            first, second = (json.loads(watcher.stdout.readline()) for _ in range(2))
            assert ended(watcher) == (1, "")
        finally:
            watcher.kill()
    assert (first["put_per_s"], first["dead"], first["writer"]["running"]) == (None, 3, True)
    assert (second["put_per_s"], second["delivered_per_s"], second["empty_in_s"]) == (0.0, 0.0, None)
    assert first["last_refusal"]["code"] == "22P02"
    promised = call("status", "--help").stdout
    assert {name for name in second if name not in promised} == set()


def status(pending: int, delivered: int, pruned: int = 0) -> Status:
    counts = {"trades": {"pending": pending, "delivered": delivered, "pruned": pruned}}
    file = Snapshot(counts, None, 0, 0, False, (), {}, Notices(), 0, 0, None)
    return Status(Path("x"), 0, file, None, Holder(None, None, running=False), None, {}, (), None, 300.0)


def test_the_rates_come_from_the_counters_and_pruning_does_not_fool_them() -> None:
    speed = Speed()
    assert speed.take(status(100, 0), 0.0) is None
    rates = speed.take(status(60, 50), 10.0)
    assert rates is not None
    assert (rates.put_per_s, rates.delivered_per_s, rates.empty_in_s) == (1.0, 5.0, 15.0)
    rates = speed.take(status(120, 0, pruned=50), 20.0)
    assert rates is not None
    assert (rates.put_per_s, rates.delivered_per_s, rates.empty_in_s) == (3.5, 2.5, None)


# ------------------------------------------------------------------------------------------ small things


def test_a_no_is_answered_as_an_object_too(dead: Path) -> None:
    for command in (["requeue", "--all"], ["discard", "t0", "--reason", "x"]):
        result = CliRunner().invoke(app, [*command, "--path", str(dead), "--json"], input="n\n")
        found = json.loads(result.stdout.splitlines()[-1])  # this runner repeats there what was typed
        assert (result.exit_code, found["exit_code"], found["by"], found["done"]) == (1, 1, None, 0)


def test_the_same_id_in_another_table_is_no_failure(dead: Path) -> None:
    execute(
        dead,
        "insert into outbox (id, destination, payload, state, settled_at_ms) values ('t0', 'orders', '{}', 'dead', 1)",
    )
    code, found = as_json("requeue", "t0", "--destination", "fills", "--path", dead, "--yes")
    assert (code, found["outcomes"]) == (0, {"requeued": 1})
    code, found = as_json("requeue", "t1", "--destination", "orders", "--path", dead, "--yes")  # the control
    assert (code, found["outcomes"]) == (1, {"outside the selection": 1})


@posix
def test_a_request_that_cannot_be_taken_back_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bool:
        raise PermissionError(13, "not yours")

    monkeypatch.setattr("outbox.admin.inbox.withdraw", refuse)
    monkeypatch.setattr("outbox.store.lock.look", refuse)
    path = tmp_path / "bot.db"
    with bot(path) as running:
        running.send_signal(signal.SIGSTOP)
        try:
            code, found = as_json("discard", "t1", "--reason", "x", "--path", path, "--yes", "--timeout", "0.2")
        finally:
            running.send_signal(signal.SIGCONT)
        assert (code, "request" in found) == (2, True)
        until(lambda: states(path).get("discarded"))


@pytest.mark.parametrize("typed", ["outbox ba", "outbox s"])
def test_shell_completion_yields_the_commands(typed: str) -> None:
    program = shutil.which("outbox", path=str(Path(sys.executable).parent))
    assert program is not None
    env = {**os.environ, "_OUTBOX_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": "1"}
    done = subprocess.run([program], capture_output=True, text=True, env=env, timeout=200)
    words = set(done.stdout.split())
    assert words == {"backup"} if typed.endswith("ba") else {"status", "show"} <= words, done.stderr


def test_every_read_command_has_json_and_every_change_has_yes() -> None:
    for command in ("status", "ls", "show", "tail", "export", "backup"):
        assert "--json" in call(command, "--help").stdout
    for command in ("requeue", "discard", "edit", "prune"):
        helped = call(command, "--help").stdout
        assert "--yes" in helped and "--json" in helped
