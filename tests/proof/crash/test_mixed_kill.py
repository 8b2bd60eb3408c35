"""Killed in the middle of mixed batches: inserts once, sessions as they were last put, refused rows dead; by SQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import TupleRow
from supabase_lite import EmbeddedPostgres, SupabaseLite

from tests.integration.mixing import function_installed
from tests.proof.crash.test_kill import Story, arrived, drain, look, storm

KILLS = int(os.environ.get("KILLS", "25"))
CONTROL_KILLS = 12
CALLS = "select coalesce(sum(calls), 0) from pg_stat_user_functions where funcname = 'outbox_apply'"


@pytest.fixture(scope="module")
def function(remote: SupabaseLite, postgres: EmbeddedPostgres) -> Iterator[None]:
    counted = ("alter database postgres set track_functions = 'pl'",)
    with function_installed(remote, postgres, before=counted, after=("alter database postgres reset track_functions",)):
        yield


@pytest.fixture
def server(function: None, clean_remote: SupabaseLite, monkeypatch: pytest.MonkeyPatch) -> SupabaseLite:
    monkeypatch.setenv("OUTBOX_RPC", "auto")  # of the lives, and of the last drain
    return clean_remote


def last_acknowledged(story: Story) -> dict[str, int]:
    """Return each session's last number that came out of a pipe."""
    return {kind: max(map(int, numbers)) for kind, numbers in story.said.items() if kind.startswith("bot-")}


@pytest.mark.timeout(max(120, KILLS * 2))
def test_whatever_was_acknowledged_before_a_kill_arrives_exactly_once_also_in_mixed_batches(
    tmp_path: Path, server: SupabaseLite, sql: psycopg.Connection[TupleRow]
) -> None:
    story = storm(tmp_path, server, KILLS, "sessions")
    reports = [drain(file, server) for file in story.files]

    assert [report for report in reports if report.timed_out or report.pending] == []
    rows, calls = arrived(sql), sql.execute(CALLS).fetchone()
    assert calls is not None and calls[0] > KILLS / 2, "the batches were not mixed"
    assert len(story.said["trades"]) > KILLS
    assert story.said["trades"] - set(rows) == set(), "acknowledged, but not in PostgreSQL"
    assert [number for number, times in rows.items() if times > 1] == [], "more than once in PostgreSQL"
    assert sql.execute("select count(*) from events").fetchone() == (0,), "a refused row"

    sessions: dict[str, int] = dict(
        sql.execute("select session_id, total_trades from sessions where total_trades = version").fetchall()
    )
    assert sessions.keys() >= last_acknowledged(story).keys()
    stale = {key: (sessions[key], said) for key, said in last_acknowledged(story).items() if sessions[key] < said}
    assert stale == {}, "an acknowledged state that a later one was not written over is not there"

    for file in story.files:
        left = look(file)
        assert left.sound
        assert story.of("refused", file) - story.of("given up", file) - left.dead == set()
        assert (left.counts["pending"], left.counts["removed"]) == (0, 0)


def test_control_without_the_idempotency_key_mixed_batches_leave_duplicates(
    tmp_path: Path, server: SupabaseLite, sql: psycopg.Connection[TupleRow]
) -> None:
    story = storm(tmp_path, server, CONTROL_KILLS, "without-key")
    for file in story.files:
        drain(file, server)
    assert [number for number, times in arrived(sql).items() if times > 1] != []
