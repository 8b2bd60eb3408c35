"""When the remote end was away, and when the bot started, ended or was killed: kept in the file and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outbox.postgrest.client import Request
from outbox.testing import Answer, refused
from tests.admin.test_inbox import bot
from tests.cli.test_changes import as_json, call
from tests.flusher.bench import DOWN, flushing, table
from tests.store.tools import rows, shell
from tests.support import run_async

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def night(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    """The file of a night in which everything was away for some ten minutes, and one row was refused later."""

    @run_async
    async def play(folder: Path) -> Path:
        async with flushing(folder) as bench:
            bench.remote.otherwise = DOWN
            await bench.put_many(3, "trades")
            await bench.live(600)
            bench.remote.otherwise = bench.remote.commit
            await bench.settled()
            await bench.idle()
            bench.remote.otherwise = refused(400, "22P02", "bad text")
            await bench.put_many(1, "trades")
            await bench.live(5)
            return bench.path

    return play(tmp_path)


def test_an_outage_is_three_log_lines_that_tell_it_whole(night: Path, caplog: pytest.LogCaptureFixture) -> None:
    story = ["sending paused", "sending resumed", "backlog gone"]
    lines = [record for record in caplog.get_records("setup") if record.msg in story]
    assert [record.msg for record in lines] == story
    (_, resumed, gone) = (vars(record) for record in lines)
    assert 600 <= resumed["lasted_s"] < 1200
    assert resumed["failures"] > 3
    assert resumed["backlog"] == gone["backlog"] > 0


def test_outages_says_when_for_how_long_and_why(night: Path) -> None:
    code, found = as_json("outages", "--path", night)
    assert code == 0
    (outage,) = found["outages"]
    assert (outage["what"], outage["reason"], outage["refused"]) == ("everything", "unreachable", 0)
    assert 600 <= outage["lasted_s"] < 1200
    assert outage["failures"] > 3
    assert outage["until"] is not None
    assert call("outages", "--path", night, "--until", outage["since"]).stdout == "No outage is recorded.\n"
    assert as_json("outages", "--path", night, "--since", outage["since"])[1]["outages"] == [outage]
    shown = call("outages", "--path", night).stdout
    assert "everything" in shown
    assert "failures; 0 refused meanwhile" in shown
    ((what, why, refusals, lasted),) = rows(night, "select what, why, refused, lasted from v_outages")
    assert (what, why, refusals) == ("everything", "unreachable", 0)
    assert str(lasted).startswith("0 d 00:1")


@run_async
async def test_what_is_refused_while_something_is_away_is_counted(tmp_path: Path) -> None:
    def away(request: Request) -> Answer:
        gone = refused(404, "PGRST205", "Could not find the table 'public.events' in the schema cache")
        return gone if table(request) == "events" else refused(400, "22P02", "bad text")

    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = away
        await bench.put_many(1, "events")
        await bench.live(1)
        await bench.put_many(2, "trades")
        await bench.live(30)
        found = await bench.store.read("select what, until_utc, refused from v_outages")
    assert found == [("events", None, 2)]


def test_the_history_of_pauses_and_lives_is_bounded(tmp_path: Path) -> None:
    with bot(tmp_path / "bot.db"):
        pass
    pause = (
        "insert into outbox_pauses (scope, subject, reason, failures, since_ms, next_try_at_ms)"
        " values ('everything', '', 'unreachable', 1, 1, 1)"
    )
    with shell(tmp_path / "bot.db") as connection:
        connection.execute("begin")
        for n in range(1005):
            connection.execute(pause)
            connection.execute("delete from outbox_pauses")
            connection.execute("delete from outbox_meta where name = 'open'")
            connection.execute("insert into outbox_meta values ('open', ?)", (json.dumps({"at_ms": n}),))
        connection.execute("commit")
        for table in ("outbox_pause_history", "outbox_lives"):
            assert connection.execute(f"select count(*) from {table}").fetchone() == (1000,)
        assert connection.execute("select count(*) from outbox_pause_history where ended_ms is null").fetchone() == (0,)


def test_lives_says_who_was_killed_and_who_closed(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with bot(path) as process:
        code, found = as_json("lives", "--path", path)
        assert code == 0
        (life,) = found["lives"]
        assert (life["program"], life["pid"], life["ended"]) == ("-c", process.pid, "open")
        assert life["sends_since"] is not None  # it has drained
    assert as_json("lives", "--path", path)[1]["lives"][0]["ended"] == "killed"
    assert "killed, or the machine stopped; sent from" in call("lives", "--path", path).stdout
    assert as_json("requeue", "t0", "--path", path, "--yes")[0] == 0
    command, before = as_json("lives", "--path", path)[1]["lives"]
    assert (command["ended"], command["sends_since"], before["ended"]) == ("closed", None, "killed")
    assert command["closed"] >= command["opened"]
    assert call("lives", "--path", path, "--until", "2020-01-01").stdout.startswith("No opening is recorded yet.")
    assert rows(path, "select ended from v_lives") == [("closed",), ("killed, or the machine stopped",)]


def test_a_file_of_an_older_version_has_no_history(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with bot(path):
        pass
    with shell(path) as connection:
        for view in ("v_outages", "v_lives"):
            connection.execute(f"drop view {view}")
        for table in ("outbox_pause_history", "outbox_lives"):
            connection.execute(f"drop table {table}")
    assert call("outages", "--path", path).stdout == "No outage is recorded.\n"
    assert call("lives", "--path", path).exit_code == 0
