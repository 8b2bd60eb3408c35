"""A writing and flushing process is killed again and again; what its pipe acknowledged is counted in PostgreSQL."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import TupleRow
from supabase_lite import ROOT, SupabaseLite
from witness import Witness

from outbox import DrainReport, Outbox, Settings
from tests.support import run_async

KILLS = 20
LIVES_S = 30.0


def settings(folder: Path, remote: SupabaseLite) -> dict[str, str]:
    return {
        "OUTBOX_PATH": str(folder / "bot.db"),
        "SUPABASE_URL": remote.url,
        "SUPABASE_SECRET_KEY": remote.secret_key,
        "OUTBOX_BACKOFF_CAP_S": "0.2",
        "OUTBOX_BATCH_ROWS": "20",  # many small requests: a kill nearly always meets one under way
        "PYTHONPATH": str(ROOT),
    }


def storm(folder: Path, remote: SupabaseLite, *options: str) -> set[str]:
    """Let the writer live KILLS lives, each until a random number of further acknowledgements; return all of those."""
    dice = random.Random(2026)
    writer = str(ROOT / "tests" / "crash" / "writer.py")
    acknowledged: set[str] = set()
    for life in range(KILLS):
        # Each life has a million numbers of its own: none of them is ever put twice.
        arguments = [writer, str(folder / "bot.db"), str(life * 1_000_000), *options]
        witness = Witness(arguments, folder=folder, environment=settings(folder, remote))
        witness.acknowledged["trades"] = acknowledged
        witness.start()
        witness.wait_for(len(acknowledged) + dice.randint(1, 400), timeout_s=LIVES_S)
        witness.kill()
    return acknowledged


@run_async
async def drain(folder: Path, remote: SupabaseLite) -> DrainReport:
    chosen = Settings(path=folder / "bot.db", supabase_url=remote.url, supabase_key=remote.secret_key)
    async with Outbox.open(chosen) as outbox:
        report = await outbox.drain(timeout=60)
        stats = await outbox.stats()
        # Conservation: whatever was put is in exactly one state.
        assert stats.delivered + stats.pending + stats.dead == sum(
            sum(states.values()) for states in stats.destinations.values()
        )
        return report


def arrived(sql: psycopg.Connection[TupleRow]) -> Counter[str]:
    return Counter(trade_id for (trade_id,) in sql.execute("select trade_id from trades"))


@pytest.mark.timeout(300)
def test_whatever_was_acknowledged_before_a_kill_arrives_exactly_once(
    tmp_path: Path, clean_remote: SupabaseLite, sql: psycopg.Connection[TupleRow]
) -> None:
    acknowledged = storm(tmp_path, clean_remote)

    report = drain(tmp_path, clean_remote)

    rows = arrived(sql)
    assert not report.timed_out and report.pending == report.dead == 0
    assert acknowledged - set(rows) == set(), "acknowledged, but not in PostgreSQL"
    assert [number for number, times in rows.items() if times > 1] == [], "more than once in PostgreSQL"
    with sqlite3.connect(tmp_path / "bot.db") as file:
        assert file.execute("pragma integrity_check").fetchall() == [("ok",)]
    file.close()


@pytest.mark.timeout(300)
def test_control_without_the_idempotency_key_the_same_storm_leaves_duplicates(
    tmp_path: Path, clean_remote: SupabaseLite, sql: psycopg.Connection[TupleRow]
) -> None:
    storm(tmp_path, clean_remote, "without-key")

    # What is left is sent the honest way: the duplicates below come from the storm alone.
    drain(tmp_path, clean_remote)

    assert [number for number, times in arrived(sql).items() if times > 1] != []
