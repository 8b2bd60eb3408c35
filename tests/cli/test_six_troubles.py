"""Six troubles of a night, each solved by somebody who has read no page: with `outbox --help` and what answers say.

The terminal refuses a command that no earlier answer has named. `scripts/bad_night` has an outage, a kill and a full
disk as well; it begins with what the README says.
"""

from __future__ import annotations

import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from night.play import CACHE
from night.terminal import NightError, Terminal, Typed, outbox_command
from psycopg.rows import TupleRow
from supabase_lite import SupabaseLite

from outbox import Outbox, Settings
from tests.cli.test_cli import running_bot
from tests.support import run_async

Sql = psycopg.Connection[TupleRow]
TRADE = {"session_id": "s-1", "timestamp": "2026-01-31T06:00:00Z"}
STALLED, FAULT, REFUSED = (2,), (2,), (3,)


class Newcomer:
    """Somebody at the bot's folder who knows that there is a command `outbox`, and what it has said so far."""

    def __init__(self, folder: Path, remote: SupabaseLite) -> None:
        self.store = folder / "bot.db"
        self._env = folder / ".env"
        self._remote = remote
        self.configure(remote.secret_key)
        self._terminal = Terminal(folder, environment={}, programs={"outbox": outbox_command()}, say=lambda _: None)
        self._terminal.types("help", "outbox --help")

    def configure(self, key: str) -> None:
        """Write the bot's .env."""
        self._env.write_text(f"SUPABASE_URL={self._remote.url}\nSUPABASE_SECRET_KEY={key}\n", encoding="utf-8")

    def types(self, command: str, told: str = "", **how: Any) -> Typed:
        """Run `command`. told: as an earlier answer has put it, if not in just these words."""
        return self._terminal.types("-", command, told=told or command, **how)

    def looks(self, codes: tuple[int, ...]) -> Typed:
        """Ask how things stand."""
        return self.types("outbox status bot.db", told="outbox status FILE", codes=codes)

    def asks_the_doctor(self, codes: tuple[int, ...]) -> Typed:
        """Ask what is wrong; a statement_timeout that is missing may be."""
        return self.types("outbox doctor --path bot.db", codes=codes)

    def sends(self) -> None:
        """Send what waits, without a bot, and see that all is well."""
        self.types("outbox drain --path bot.db")
        self.looks((0,))


@pytest.fixture
def newcomer(clean_remote: SupabaseLite) -> Iterator[Newcomer]:
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="newcomer-", dir=CACHE) as folder:  # in memory the doctor would complain
        yield Newcomer(Path(folder).resolve(), clean_remote)


@run_async
async def bot_sends(path: Path, remote: SupabaseLite, table: str, *rows: dict[str, Any], key: str = "") -> None:
    """A bot puts rows, sends what can be sent, and ends."""
    settings = Settings(path=path, supabase_url=remote.url, supabase_key=key or remote.secret_key)
    async with Outbox.open(settings) as outbox:
        await outbox.put_many(table, rows)
        await outbox.drain(timeout=60)


@run_async
async def bot_puts(path: Path, rows: list[dict[str, Any]]) -> None:
    """A bot puts trades and ends before it has sent them."""
    async with Outbox.open(Settings(path=path, supabase_url=None)) as outbox:
        await outbox.put_many("trades", rows)


def trades(*more: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**TRADE, "trade_id": str(number), **each} for number, each in enumerate(more)]


def there(sql: Sql, query: str = "select count(*) from public.trades") -> int:
    ((found,),) = sql.execute(query.encode()).fetchall()
    return int(found)


def found(answer: Typed, pattern: str) -> str:
    match = re.search(pattern, answer.answer)
    assert match is not None, answer.answer
    return match[0]


def test_a_misspelt_column(newcomer: Newcomer, clean_remote: SupabaseLite, sql: Sql) -> None:
    bot_sends(newcomer.store, clean_remote, "trades", *trades({"symbl": "EURUSD"}, {"symbl": "EURUSD"}))

    newcomer.looks(STALLED)
    doctor = newcomer.asks_the_doctor(FAULT)
    rename = found(doctor, "outbox edit .*--rename-column symbl=symbol --all-matching --destination trades")
    newcomer.types(rename, answers="y")
    newcomer.sends()

    assert "did you mean symbol?" in " ".join(doctor.answer.split())
    assert there(sql, "select count(*) from public.trades where symbol = 'EURUSD'") == 2
    assert "symbl" not in newcomer.asks_the_doctor((0, 1)).answer


def test_rows_that_the_server_refuses(newcomer: Newcomer, clean_remote: SupabaseLite, sql: Sql) -> None:
    rows = trades({"volume": "0,1", "symbol": "EURUSD"}, {"volume": "none", "symbol": "TEST"})
    bot_sends(newcomer.store, clean_remote, "trades", *rows)

    newcomer.looks((1,))
    listed = newcomer.types("outbox ls --path bot.db --state dead")
    wrong, test = (found(listed, rf"[0-9a-f-]{{36}}(?=[^\n]*\n[^\n]*symbol={symbol})") for symbol in ("EURUSD", "TEST"))
    newcomer.types("outbox dead --path bot.db")
    newcomer.types(f"outbox show --path bot.db {wrong}", told="outbox show --path bot.db")
    newcomer.types(f"outbox edit --path bot.db {wrong}", answers="y", editor=_editor("0,1", "0.1"))
    newcomer.types(f"outbox show --path bot.db {test}", told="outbox show --path bot.db")
    newcomer.types(
        f'outbox discard --path bot.db --reason "a test" {test}',
        told='outbox discard --path bot.db --reason "..."',
        answers="y",
    )
    newcomer.sends()

    assert there(sql, "select count(*) from public.trades where volume = 0.1") == there(sql) == 1


def test_a_key_that_was_replaced(newcomer: Newcomer, clean_remote: SupabaseLite, sql: Sql) -> None:
    bot_sends(newcomer.store, clean_remote, "trades", *trades({"symbol": "EURUSD"}), key="sb_secret_of_yesterday")
    newcomer.configure("sb_secret_of_yesterday")

    newcomer.looks(STALLED)
    doctor = newcomer.asks_the_doctor(FAULT)
    newcomer.configure(clean_remote.secret_key)
    newcomer.types("outbox reload --path bot.db")
    newcomer.sends()

    assert "set SUPABASE_SECRET_KEY to the project's secret key" in doctor.answer
    assert there(sql) == 1


@pytest.fixture
def fills(clean_remote: SupabaseLite, sql: Sql) -> Iterator[str]:
    """How a table of one's own is made. The server of these tests learns of it by a restart."""
    yield "create table public.fills (id uuid primary key, ticket bigint)"
    sql.execute("drop table if exists public.fills")
    clean_remote.stop()
    clean_remote.start()


def test_a_table_that_is_missing(newcomer: Newcomer, clean_remote: SupabaseLite, sql: Sql, fills: str) -> None:
    bot_sends(newcomer.store, clean_remote, "fills", {"ticket": 4711})

    newcomer.looks(STALLED)
    doctor = newcomer.asks_the_doctor(FAULT)
    sql.execute(f"{fills}; {found(doctor, 'grant [^;]* to service_role')}".encode())
    clean_remote.stop()
    clean_remote.start()
    newcomer.types("outbox reload --path bot.db")
    newcomer.sends()

    assert "create table public.fills" in doctor.answer
    assert there(sql, "select count(*) from public.fills where ticket = 4711") == 1


def test_a_damaged_file(newcomer: Newcomer, sql: Sql) -> None:
    bot_puts(newcomer.store, trades(*({"symbol": "EURUSD"} for _ in range(200))))
    with closing(sqlite3.connect(newcomer.store)) as connection:
        ((page,),) = connection.execute("select rootpage from sqlite_schema where name = 'outbox'")
    with newcomer.store.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(100))

    newcomer.looks(REFUSED)
    newcomer.asks_the_doctor(REFUSED)
    drained = newcomer.types("outbox drain --path bot.db", told="outbox drain", codes=STALLED)
    newcomer.types(found(drained, r"outbox salvage .*bot\.db\.corrupt-\w+"))
    newcomer.sends()

    assert there(sql) == 200


def test_another_process_that_has_the_file(newcomer: Newcomer) -> None:
    with running_bot(newcomer.store) as bot:
        newcomer.looks(STALLED)
        refused = newcomer.types("outbox drain --path bot.db", told="drain Send what is pending", codes=REFUSED)
    assert f"process {bot.pid}" in refused.answer
    assert "stop it to drain from here" in refused.answer


def test_a_command_that_no_answer_has_named_is_refused(newcomer: Newcomer) -> None:
    """The control."""
    with pytest.raises(NightError, match="no answer so far says"):
        newcomer.types("outbox reload --path bot.db")


def _editor(old: str, new: str) -> str:
    code = "import sys, pathlib; f = pathlib.Path(sys.argv[3]); f.write_text(f.read_text().replace(*sys.argv[1:3]))"
    return f'{Path(sys.executable).as_posix()} -c "{code}" {old} {new}'
