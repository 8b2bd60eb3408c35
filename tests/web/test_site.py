"""Datasette on an outbox: it answers the ready questions, sees what a bot does, and leaves the file alone."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from datasette.app import Datasette

from outbox import Outbox, Settings
from outbox.web.hooks import came_by_loopback, moment
from outbox.web.questions import QUESTIONS
from tests.support import run_async
from tests.web.home import TOO_MUCH, busy_bot, open_site


async def rows(site: Datasette, query: str) -> list[dict[str, Any]]:
    reply = await site.client.get(
        f"/outbox/{query}{'&' if '?' in query else '?'}_shape=array".replace("?", ".json?", 1)
    )
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()
    return found


@run_async
async def test_every_question_has_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with busy_bot(path) as outbox:
        with open_site(path) as site:
            answers = {each.name: await rows(site, each.name) for each in QUESTIONS if ":id" not in each.sql}
            (refusal,) = answers["refusals"]
            story = await rows(site, f"story?id={refusal['an_id']}")
        assert (await outbox.stats()).pending == 4

    assert [row["waits"] for row in answers["waiting_longest"]] == [None, None, "turn", "turn"]
    assert [(row["scope"], row["reason"]) for row in answers["paused"]] == [("everything", "unreachable")]
    assert (refusal["error_code"], refusal["error_message"], refusal["entries"]) == ("23514", TOO_MUCH, 2)
    assert [line["event"] for line in story] == ["refused"]
    assert {row["destination"]: row["entries"] for row in answers["delivered_per_hour"]} == {"trades": 2, "sessions": 2}
    assert {row["destination"]: row["longest_s"] for row in answers["delay"]} == {"trades": 240.0, "sessions": 0.0}
    assert [(row["key"], row["behind"]) for row in answers["held_back"]] == [("s-1", 2)]
    assert answers["held_back"][0]["first_id"] == answers["waiting_longest"][1]["id"]
    assert {(row["source"], row["destination"]) for row in answers["who_puts"]} == {
        ("a-bot", "trades"),
        ("a-bot", "sessions"),
    }
    assert len(answers["largest"]) == 10
    assert answers["sessions"] == []


@run_async
async def test_the_first_page_shows_the_counts_the_pause_and_the_backlog(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with busy_bot(path):
        with open_site(path) as site:
            pages = {hours: (await site.client.get(f"/?hours={hours}")).text for hours in ("0", "6", "x", "99")}

    found = {name: number for number, name in re.findall(r"<strong>([\d,]+)</strong>\s*<a [^>]*>(\w+)</a>", pages["0"])}
    assert found == {"pending": "4", "delivered": "4", "dead": "2", "discarded": "0"}
    assert "Backlog over time: at most 4, now 4" in pages["0"]
    assert "<strong>6 hours</strong>" in pages["6"]
    assert all("<strong>all</strong>" in pages[unknown] for unknown in ("x", "99"))


@run_async
async def test_the_table_asks_for_no_facets_and_its_times_are_readable(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with busy_bot(path):
        with open_site(path) as site:
            page = (await site.client.get("/outbox/outbox")).text
            wanted = (await site.client.get("/outbox/outbox?_facet=state")).text
            counts = await rows(site, "counts")

    assert "facet-results" not in page  # each would read every entry
    assert "_facet=" not in page  # nor is one suggested: that reads them column by column
    assert re.search(r'state=dead"[^>]*>dead</a> 2', wanted)  # who asks for one gets it
    assert {(row["destination"], row["state"]): row["entries"] for row in counts}["trades", "dead"] == 2
    assert "1767225600000 · 2026-01-01 00:00:00.000" in page


@pytest.mark.parametrize("address", ["/", "/outbox/outbox", "/robots.txt", "/-/outbox-dark.css", "/no-such-page"])
@run_async
async def test_every_answer_keeps_to_itself(tmp_path: Path, address: str) -> None:
    path = tmp_path / "bot.db"
    async with busy_bot(path):
        with open_site(path) as site:
            answer = await site.client.get(address)
    assert "default-src 'self';" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.status_code == (404 if address == "/no-such-page" else 200)
    assert ("Disallow: /" in answer.text) == (address == "/robots.txt")


@run_async
async def test_it_sees_what_is_put_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with Outbox.open(Settings(path=path, _env_file=None)) as outbox:
        with open_site(path) as site:
            await site.client.get("/")
            frozen = sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)  # the control: datasette --immutable
            count = "select count(*) from outbox"
            assert frozen.execute(count).fetchone() == (0,)
            await outbox.put("events", {"event_type": "TICK"})

            assert len(await rows(site, "outbox")) == 1
            assert frozen.execute(count).fetchone() == (0,)
            frozen.close()


# ------------------------------------------------------------------------------------------------ it leaves it alone


def left_by_a_crash(path: Path) -> sqlite3.Connection:
    """Return the connection of a writer whose rows are all in the WAL; while it is open, nothing moves them."""
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("pragma wal_autocheckpoint = 0")
    writer.execute("insert into outbox (destination, payload) values ('events', '{\"n\": 1}')")
    return writer


def pictures(path: Path) -> tuple[bytes, bytes]:
    return path.read_bytes(), path.with_name(path.name + "-wal").read_bytes()


@run_async
async def make_file(path: Path) -> None:
    async with Outbox.open(Settings(path=path, _env_file=None)) as outbox:
        await outbox.put("events", {"event_type": "TICK"})


@run_async
async def visit(path: Path) -> None:
    with open_site(path) as site:
        for page in ("/", "/outbox", "/outbox/outbox", "/outbox/delay"):
            assert (await site.client.get(page)).status_code == 200


def test_neither_looking_nor_closing_writes_a_byte(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    make_file(path)
    writer = left_by_a_crash(path)
    before = pictures(path)

    visit(path)

    assert pictures(path) == before
    assert len(before[1]) > 0
    writer.close()


def test_a_common_connection_would_have_checkpointed_when_it_closed(tmp_path: Path) -> None:
    """The control of the next test: as the last one to leave, it moves the WAL into the file and removes it."""
    path = tmp_path / "bot.db"
    make_file(path)
    copy_of_a_crash(path)
    before = path.read_bytes()

    common = sqlite3.connect(path)
    assert common.execute("select count(*) from outbox").fetchone() == (2,)
    common.close()

    assert path.read_bytes() != before
    assert not path.with_name(path.name + "-wal").exists()


def test_the_wal_of_a_crash_is_as_it_was_when_the_last_one_to_leave_is_the_site(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    make_file(path)
    copy_of_a_crash(path)
    before = pictures(path)

    visit(path)

    assert pictures(path) == before


def copy_of_a_crash(path: Path) -> None:
    """Leave file and WAL as a killed writer does: nobody has them open."""
    writer = left_by_a_crash(path)
    kept = pictures(path)
    writer.close()
    path.write_bytes(kept[0])
    path.with_name(path.name + "-wal").write_bytes(kept[1])


@run_async
async def test_a_checkpoint_passes_while_the_site_is_open(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    make_file_in_loop = Outbox.open(Settings(path=path, _env_file=None))
    async with make_file_in_loop as outbox:
        await outbox.put("events", {"event_type": "TICK"})
        with open_site(path) as site:
            await site.client.get("/")
            await rows(site, "outbox")
            while not await truncated(outbox):
                pass  # the outbox itself may be in the middle of a look

            held = sqlite3.connect(path)  # the control: a reader that keeps its snapshot
            held.execute("begin")
            held.execute("select count(*) from outbox").fetchall()
            await outbox.put("events", {"event_type": "TICK"})
            assert not await truncated(outbox)
            held.close()


async def truncated(outbox: Outbox) -> bool:
    """Try to empty the WAL on the outbox's own connection, without waiting for readers."""

    async def work(connection: Any) -> bool:
        await connection.execute("pragma busy_timeout = 0")
        (answer,) = await connection.execute_fetchall("pragma wal_checkpoint(truncate)")
        await connection.execute("pragma busy_timeout = 5000")
        return bool(answer[0] == 0)

    return await outbox._store.writer.run_exclusive(work)


@run_async
async def test_no_connection_of_the_site_can_write(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with busy_bot(path):
        with open_site(path) as site:
            database = site.get_database("outbox")
            assert database.is_mutable
            for connection in (database.connect(), database.connect(write=True)):
                assert connection.execute("pragma query_only").fetchone() == (1,)
                connection.execute("pragma query_only = 0")  # what is left is the file's own mode
                with pytest.raises(sqlite3.OperationalError, match="readonly database"):
                    connection.execute("delete from outbox")
            reply = await site.client.get("/outbox.json?sql=delete from outbox")
    assert reply.status_code == 400


# ------------------------------------------------------------------------------------------------ details


@run_async
async def test_a_name_with_signs_that_mean_something_in_a_uri_is_found(tmp_path: Path) -> None:
    path = tmp_path / "bot 50% #1.db"
    async with Outbox.open(Settings(path=path, _env_file=None)) as outbox:
        await outbox.put("events", {"event_type": "TICK"})
        with open_site(path) as site:
            assert len(await rows(site, "outbox")) == 1


@pytest.mark.parametrize(
    ("host", "welcome"),
    [
        (b"127.0.0.1:8001", True), (b"localhost:8001", True), (b"localhost", True),
        (b"rebound.example:8001", False), (b"127.0.0.1.example", False), (b"", False),
    ],
)  # fmt: skip
def test_only_who_comes_by_the_loopbacks_name_is_answered(host: bytes, welcome: bool) -> None:
    assert came_by_loopback(host) is welcome


@run_async
async def test_a_strangers_name_for_this_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with busy_bot(path):
        with open_site(path) as site:
            refused = await site.client.get("/outbox/outbox.json", headers={"host": "rebound.example"})
            welcome = await site.client.get("/outbox/outbox.json")
    assert refused.status_code == 403
    assert "EURUSD" not in refused.text
    assert "EURUSD" in welcome.text


@run_async
async def test_a_query_that_is_none_is_answered_on_the_page_and_not_in_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bot.db"
    async with Outbox.open(Settings(path=path, _env_file=None)):
        with open_site(path) as site:
            reply = await site.client.get("/outbox?sql=delete+from+outbox")

    printed = capsys.readouterr()
    assert (reply.status_code, "must be a SELECT" in reply.text) == (400, True)
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "1970-01-01 00:00:00.000"),
        (1_767_225_600_007, "2026-01-01 00:00:00.007"),
        (-1, None),
        (10**15, None),
        ("7", None),
    ],
)
def test_milliseconds_read_as_a_time_and_nonsense_as_it_is(value: object, text: str | None) -> None:
    assert moment(value) == text
