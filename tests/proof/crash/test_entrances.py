"""Every way into an outbox survives a storm of kills, with all fills told again at each start; counted in PostgreSQL.

KILLS=2000 kills that often, instead of 12 times for each entrance.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import TupleRow
from supabase_lite import ROOT, SupabaseLite
from witness import Witness

from outbox import Outbox, Settings
from tests import forked
from tests.proof.crash.entrances import ENTRANCES, Broker
from tests.proof.crash.test_kill import arrived, await_the_moment, drain, look, surroundings
from tests.support import run_async

KILLS = int(os.environ.get("KILLS", "12"))
CONTROL_KILLS = 10
_VICTIM = str(ROOT / "tests" / "proof" / "crash" / "entrances.py")


@dataclass(frozen=True, slots=True)
class Storm:
    """What is left of one: the outbox file, the broker's, and the numbers that were acknowledged."""

    path: Path
    broker: Path
    acknowledged: set[str]


def storm(folder: Path, remote: SupabaseLite, entrance: str, kills: int, *options: str) -> Storm:
    """Kill `kills` lives of one bot, each at a random moment."""
    dice, acknowledged = random.Random(entrance), set[str]()
    path, broker = folder / "bot.db", folder / "broker.txt"
    environment = surroundings(remote)
    arguments = [_VICTIM, entrance, str(path), str(broker), *options]
    witness = Witness(arguments, folder=folder, environment=environment, popen=forked.Popen)
    witness.acknowledged["trades"] = acknowledged
    for _ in range(kills):
        witness.start()
        await_the_moment(witness, dice, most=20 if entrance == "put" else 150)  # a command takes a second
        witness.kill()
    return Storm(path, broker, acknowledged)


@run_async
async def tell_again(left: Storm, remote: SupabaseLite) -> int:
    """Start once more, and return how many fills the broker knows."""
    fills = Broker(left.broker, natural_ids=True).told_again()
    chosen = Settings(path=left.path, supabase_url=remote.url, supabase_key=remote.secret_key)
    async with Outbox.open(chosen) as outbox:
        for fill in fills:
            outbox.put_nowait("trades", fill.row, id=fill.id)
        report = await outbox.drain(timeout=200)
        assert (report.pending, report.dead) == (0, 0)
    return len(fills)


@pytest.mark.timeout(max(900, KILLS * 20))
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_an_entrance_loses_no_row_and_sends_none_twice(
    entrance: str, tmp_path: Path, clean_remote: SupabaseLite, sql: psycopg.Connection[TupleRow]
) -> None:
    left = storm(tmp_path, clean_remote, entrance, KILLS)
    assert len(left.acknowledged) > KILLS

    report = drain(left.path, clean_remote)

    assert (report.pending, report.dead) == (0, 0)
    assert left.acknowledged - set(arrived(sql)) == set(), "acknowledged, but not in PostgreSQL"
    assert look(left.path).sound

    fills = tell_again(left, clean_remote)

    rows = arrived(sql)
    assert sorted(rows, key=int) == list(map(str, range(fills))), "a fill that the broker knows is not in PostgreSQL"
    assert [number for number, times in rows.items() if times > 1] == [], "more than once in PostgreSQL"


def test_control_fills_reported_again_without_their_own_ids_leave_duplicates(
    tmp_path: Path, clean_remote: SupabaseLite, sql: psycopg.Connection[TupleRow]
) -> None:
    left = storm(tmp_path, clean_remote, "blocking", CONTROL_KILLS, "without-ids")
    drain(left.path, clean_remote)
    assert [number for number, times in arrived(sql).items() if times > 1] != []
