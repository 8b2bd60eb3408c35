"""`outbox put` and `outbox resend`: as a shell or a cron job calls them, beside a bot and without one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from outbox import Outbox, Settings
from outbox.testing import ScriptedTransport
from tests import forked
from tests.store.tools import rows, shell
from tests.support import run_async


def outbox(path: Path, *arguments: str, text: str | None = None) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "outbox", *arguments, "--path", str(path), "--json"]
    ended = forked.run(
        command, input=text, text=True, capture_output=True, check=False, timeout=200, cwd=path.parent,
        env={name: value for name, value in os.environ.items() if not name.startswith(("OUTBOX_", "SUPABASE_"))},
    )  # fmt: skip
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


STORED = "select destination, operation, payload from outbox order by seq"


def test_rows_are_put_into_the_file_when_no_bot_runs(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    assert outbox(path, "put", "events", '{"event_type": "BACKUP"}')[0] == 0
    code, said = outbox(path, "put", "positions", '[{"symbol": "A"}, {"symbol": "B"}]', "--operation", "upsert",
                        "--on-conflict", "symbol")  # fmt: skip
    assert (code, said["put"], said["by"]) == (0, 2, "this command")
    code, said = outbox(path, "put", "ticks", text="".join(f'{{"n": {n}}}\n' for n in range(5000)))
    assert (code, said["put"]) == (0, 5000)
    found = rows(path, STORED)
    assert found[:3] == [
        ("events", "insert", '{"event_type":"BACKUP"}'),
        ("positions", "upsert", '{"symbol":"A"}'), ("positions", "upsert", '{"symbol":"B"}'),
    ]  # fmt: skip
    assert [payload for _, _, payload in found[3:]] == [f'{{"n":{n}}}' for n in range(5000)]


def test_what_is_reported_twice_is_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    for n in range(2):
        code, said = outbox(path, "put", "fills", f'{{"n": {n}}}', "--id", "x-1", "--keep")
        assert (code, said["duplicates"], said["ids"]) == (0, n, ["x-1"])
    code, said = outbox(path, "put", "fills", '{"n": 7}', "--id", "x-1")
    assert code == 3 and "stored already" in said["error"]
    assert rows(path, STORED) == [("fills", "insert", '{"n":0}')]


DIGITS = '{"price":0.123456789012345678901,"volume":1.10}'


def stored_in_full(path: Path) -> list[tuple[Any, ...]]:
    for row in (DIGITS, f"[{DIGITS}]"):
        assert outbox(path, "put", "ticks", row)[0] == 0
    assert outbox(path, "put", "ticks", text=f"\ufeff{DIGITS}\r\n")[0] == 0
    update = ("put", "ticks", '{"n":1}', "--operation", "update", "--match", '{"price":0.123456789012345678901}')
    assert outbox(path, *update)[0] == 0
    return rows(path, "select coalesce(match, payload) from outbox")


@run_async
async def test_numbers_keep_their_digits_on_the_way_through_the_command_and_the_bot(tmp_path: Path) -> None:
    stored = [(DIGITS,), (DIGITS,), (DIGITS,), ('{"price":0.123456789012345678901}',)]
    assert await asyncio.to_thread(stored_in_full, tmp_path / "alone.db") == stored
    async with Outbox.open(Settings(_env_file=None, path=tmp_path / "bot.db", poll_s=0.05)):
        assert await asyncio.to_thread(stored_in_full, tmp_path / "bot.db") == stored


@run_async
async def test_rows_of_a_pipe_that_are_longer_as_a_request_are_sent_in_several(tmp_path: Path) -> None:
    lines = "".join(f'{{"note":"{each * 100_000}"}}\n' for each in ("é", '\\"', "💹") * 3)
    path = tmp_path / "bot.db"
    async with Outbox.open(Settings(_env_file=None, path=path, poll_s=0.05)):
        code, said = await asyncio.to_thread(outbox, path, "put", "notes", text=lines)
    assert (code, said["put"]) == (0, 9), said


@run_async
async def test_a_row_too_long_for_a_request_is_refused_by_its_size_and_those_before_it_are_told(tmp_path: Path) -> None:
    fits, long = (f'{{"note":"{each * 300_000}"}}\n' for each in ('\\"', '\\"' * 4))
    path = tmp_path / "bot.db"
    async with Outbox.open(Settings(_env_file=None, path=path, poll_s=0.05)):
        code, said = await asyncio.to_thread(outbox, path, "put", "notes", text=fits)
        assert (code, said["put"]) == (0, 1), said
        code, said = await asyncio.to_thread(outbox, path, "put", "notes", text=fits + long + fits)
    assert (code, said["put"]) == (3, 1), said
    assert "of 4,000,000 that a running bot takes at once; nothing of it was written. Ask" in said["error"]
    assert rows(path) == [(2,)]


def test_a_row_that_the_file_refuses_is_not_said_to_have_kept_out_those_that_are_stored(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    assert outbox(path, "put", "notes", '{"note":"the first"}')[0] == 0
    with shell(path) as connection:
        connection.execute(
            "create trigger picky before insert on outbox when new.payload like '%unwanted%'"
            " begin select raise(abort, 'unwanted'); end"
        )
    line = f'{{"note":"{"a" * 300_000}"}}\n'
    code, said = outbox(path, "put", "notes", text=line * 2 + '{"note":"unwanted"}\n')
    assert (code, said["put"]) == (3, 1) and "unwanted" in said["error"], said
    assert rows(path) == [(2,)]


def test_a_line_that_is_no_row_is_not_said_to_have_kept_out_those_that_are_stored(tmp_path: Path) -> None:
    line, path = f'{{"note":"{"a" * 300_000}"}}\n', tmp_path / "bot.db"
    code, said = outbox(path, "put", "notes", text=line * 2 + "{\n")
    assert (code, said["put"]) == (3, 1) and "line 3" in said["error"]
    assert rows(path) == [(1,)]


@pytest.mark.parametrize(
    ("arguments", "text", "error"),
    [
        pytest.param(["events", "{"], None, "row: is not JSON", id="no JSON"),
        pytest.param(["events", '{"n": 1, "n": 2}'], None, "row.n: appears twice", id="a name twice"),
        pytest.param(["events"], '{"n": {"a": 1, "a": 2}}', "line 1.a: appears twice", id="a name twice in a line"),
        pytest.param(["events", "7"], None, "row: must be a JSON object", id="no object"),
        pytest.param(["events"], '{"n": 1}\n[]\n', "line 2: must be a JSON object", id="no object in a line"),
        pytest.param(["events", "{}"], None, "at least one column", id="an empty row"),
        pytest.param(["a b", '{"n": 1}'], None, "not a plain SQL identifier", id="no table"),
        pytest.param(["events", '{"n": 1}', "--operation", "delete"], None, "operation", id="no operation"),
        pytest.param(["fills", '{"n": 1}', "--keep"], None, "needs an id", id="keep of nothing"),
    ],
)
def test_what_cannot_be_put_is_named_and_nothing_is_stored(
    arguments: list[str], text: str | None, error: str, tmp_path: Path
) -> None:
    path = tmp_path / "bot.db"
    code, said = outbox(path, "put", *arguments, text=text)
    assert code == 3 and error in said["error"], said
    assert not path.exists() or rows(path) == [(0,)]


@run_async
async def test_a_running_bot_stores_and_resends_by_the_same_table_of_commands(tmp_path: Path) -> None:
    path, remote = tmp_path / "bot.db", ScriptedTransport()
    settings = Settings(_env_file=None, path=path, poll_s=0.05)
    async with Outbox.open(settings, transport=remote) as bot, bot.flushing():
        code, said = await asyncio.to_thread(outbox, path, "put", "events", '{"n": 1}')
        assert (code, said["put"], said["by"]) == (0, 1, "the running bot")
        many = "".join(f'{{"n": {n}}}\n' for n in range(2000))
        assert (await asyncio.to_thread(outbox, path, "put", "ticks", text=many))[1]["put"] == 2000
        assert (await bot.drain(timeout=200)).pending == 0
        for arguments, number in ((["--dry-run"], 2001), (["--destination", "events", "--yes"], 1)):
            code, said = await asyncio.to_thread(outbox, path, "resend", "--since", "1h", *arguments)
            assert (code, said["resent"], said["by"]) == (0, number, "the running bot")
        assert (await bot.drain(timeout=200)).pending == 0
    assert rows(path, "select event, count(*) from outbox_history group by 1") == [("resent", 1)]
    code, said = outbox(path, "resend", "--until", "nonsense")
    assert code == 3 and "until" in said["error"]
