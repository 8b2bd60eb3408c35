"""Random programs of puts, faults, kills and recoveries against the real remote end, then a count.

For inserts PostgreSQL ends with one row per acknowledged number; for upserts and updates with what a model says.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from psycopg.rows import TupleRow
from supabase_lite import ROOT, SupabaseLite

from tests import forked
from tests.proof.faults.proxy import Fault, Proxy

Sql = psycopg.Connection[TupleRow]
# Each program is a handful of process starts, two CPU seconds. The simulation plays hundreds; these are real.
PROGRAMS = int(os.environ.get("EXAMPLES", "15"))
# No shrinking: a failing program is short already, and each try takes seconds.
PHASES = (Phase.explicit, Phase.generate)

inserts = st.tuples(st.just("insert"), st.integers(1, 60))
upserts = st.tuples(st.just("upsert"), st.sampled_from("abc"))
updates = st.tuples(st.just("update"), st.sampled_from("abc"))
faults = st.tuples(st.just("fault"), st.lists(st.sampled_from(list(Fault)), min_size=1, max_size=3))
kills = st.tuples(st.sampled_from(["kill", "kill-at-once", "release", "drain"]), st.none())
steps = st.lists(st.one_of(inserts, inserts, upserts, updates, faults, faults, kills), min_size=3, max_size=14)


@dataclass
class Model:
    """What must be at the remote end, and what may be: a put whose bot died before it answered."""

    inserted: set[str] = field(default_factory=set)
    maybe_inserted: set[str] = field(default_factory=set)
    # Per key the states that the remote may end with: the last acknowledged one, and unanswered ones after it.
    states: dict[str, set[str]] = field(default_factory=dict)


class Bot:
    """One process of `bot.py`, spoken to line by line."""

    def __init__(self, folder: Path, proxy: Proxy, remote: SupabaseLite, *options: str) -> None:
        self._command = [
            sys.executable,
            str(ROOT / "tests" / "proof" / "faults" / "bot.py"),
            str(folder / "bot.db"),
            *options,
        ]
        self._folder = folder
        self._environment = {
            "PATH": "",
            "PYTHONPATH": str(ROOT),
            "SUPABASE_URL": proxy.url,
            "SUPABASE_SECRET_KEY": remote.secret_key,
            "OUTBOX_BACKOFF_BASE_S": "0.01",
            "OUTBOX_BACKOFF_CAP_S": "0.05",
            "OUTBOX_PAUSE_PROBE_S": "0.05",
            "OUTBOX_REQUEST_DEADLINE_S": "0.5",
            "OUTBOX_POLL_S": "0.05",
            "OUTBOX_BATCH_ROWS": "25",
            "OUTBOX_HEALTH_S": "0",  # a program names the requests that it spoils by their number
        }
        self.start()

    def start(self) -> None:
        with (self._folder / "bot.log").open("ab") as log:
            self._process = forked.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=self._folder,
                env=self._environment,
            )  # fmt: skip

    def tell(self, **words: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()

    def ask(self, **words: Any) -> Any:
        assert self._process.stdout is not None
        self.tell(**words)
        line = self._process.stdout.readline()
        assert line, (self._folder / "bot.log").read_text()[-3000:]
        return json.loads(line)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # what was told last had no reader any more
                pipe.close()


def play(program: list[tuple[str, Any]], folder: Path, proxy: Proxy, remote: SupabaseLite, *options: str) -> Any:
    """Run `program` in a bot, heal everything, drain, and return (model, counts by destination and state)."""
    model, number, version = Model(), 0, 0
    bot = Bot(folder, proxy, remote, *options)
    try:
        for position, (step, what) in enumerate(program):
            answered = program[position + 1 : position + 2] != [("kill-at-once", None)]
            command: dict[str, Any] = {}
            if step == "insert":
                numbers = [str(number + n) for n in range(what)]
                number += what
                command = {"do": "insert", "numbers": numbers}
                (model.inserted if answered else model.maybe_inserted).update(numbers)
            elif step == "upsert" or (step == "update" and what in model.states):
                version += 1
                command = {"do": step, "key": what, "value": f"v{version}", "version": version}
                before = model.states.get(what, {"nothing"})
                model.states[what] = {f"v{version}"} | (set() if answered else before)
            if command:
                bot.ask(**command) if answered else bot.tell(**command)
            elif step == "fault":
                proxy.break_next(*what)
            elif step == "release":
                proxy.release()
            elif step == "drain":
                bot.ask(do="drain", timeout_s=3)
            elif step.startswith("kill"):
                bot.kill()
                bot.start()
        bot.ask(do="drain", timeout_s=3)  # through the faults that are left, or as far as that goes
        proxy.heal()
        bot.ask(do="be patient")
        report = bot.ask(do="drain", timeout_s=200)
        proxy.release()  # first sendings that arrive after everything else
        return model, report, bot.ask(do="stats")
    finally:
        bot.kill()


def wrongs(model: Model, sql: Sql) -> list[str]:
    """Return what PostgreSQL has other than the model says."""
    rows = Counter(each for (each,) in sql.execute("select trade_id from trades"))
    found = [f"missing {number}" for number in sorted(model.inserted - set(rows))]
    found += [f"{times} times {number}" for number, times in rows.items() if times > 1]
    found += [f"never put {number}" for number in set(rows) - model.inserted - model.maybe_inserted]
    states: dict[str, str] = dict(sql.execute("select session_id, end_reason from sessions").fetchall())
    for key, allowed in model.states.items():
        if states.get(key, "nothing") not in allowed:
            found.append(f"{key} is {states.get(key)}, not one of {sorted(allowed)}")
    return found


@pytest.fixture
def proxy(clean_remote: SupabaseLite) -> Iterator[Proxy]:
    with Proxy(clean_remote.url) as proxy:
        yield proxy


@pytest.mark.timeout(max(900, PROGRAMS * 20))
def test_after_any_program_of_faults_and_kills_the_remote_has_what_was_put_once_and_in_order(
    proxy: Proxy, clean_remote: SupabaseLite, sql: Sql
) -> None:
    @settings(
        max_examples=PROGRAMS, deadline=None, database=None, derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], phases=PHASES,
    )  # fmt: skip
    @given(steps)
    def check(program: list[tuple[str, Any]]) -> None:
        sql.execute("truncate public.sessions, public.trades, public.events")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            model, report, counts = play(program, Path(folder), proxy, clean_remote)
            assert report == {"pending": 0, "dead": 0}
            assert wrongs(model, sql) == []
            trades = counts.get("trades", {})
            assert len(model.inserted) <= sum(trades.values()) <= len(model.inserted | model.maybe_inserted)

    check()


LOST_REPLY: list[tuple[str, Any]] = [("fault", [Fault.CUT_INSTEAD_OF_REPLY]), ("insert", 20)]
PORTAL: list[tuple[str, Any]] = [("fault", [Fault.CAPTIVE_PORTAL]), ("insert", 20)]
EXPIRED_KEY: list[tuple[str, Any]] = [("fault", [Fault.UNAUTHORIZED] * 6), ("insert", 1)]


@pytest.mark.parametrize("program", [LOST_REPLY, PORTAL, EXPIRED_KEY], ids=["lost reply", "captive portal", "key"])
def test_what_the_controls_break_goes_well_with_the_outbox_as_it_is(
    program: list[tuple[str, Any]], tmp_path: Path, proxy: Proxy, clean_remote: SupabaseLite, sql: Sql
) -> None:
    model, report, _ = play(program, tmp_path, proxy, clean_remote)
    assert report == {"pending": 0, "dead": 0}
    assert wrongs(model, sql) == []


def test_control_without_the_idempotency_key_a_lost_reply_leaves_duplicates(
    tmp_path: Path, proxy: Proxy, clean_remote: SupabaseLite, sql: Sql
) -> None:
    model, _, _ = play(LOST_REPLY, tmp_path, proxy, clean_remote, "without-key")
    assert [wrong for wrong in wrongs(model, sql) if " times " in wrong] != []


def test_control_judged_by_status_alone_a_captive_portal_loses_rows(
    tmp_path: Path, proxy: Proxy, clean_remote: SupabaseLite, sql: Sql
) -> None:
    model, _, _ = play(PORTAL, tmp_path, proxy, clean_remote, "status-only")
    assert [wrong for wrong in wrongs(model, sql) if wrong.startswith("missing")] != []


def test_control_judged_by_status_alone_an_expired_key_kills_rows(
    tmp_path: Path, proxy: Proxy, clean_remote: SupabaseLite, sql: Sql
) -> None:
    _, report, _ = play(EXPIRED_KEY, tmp_path, proxy, clean_remote, "status-only")
    assert report["dead"] == 1


STUCK: list[tuple[str, Any]] = [("fault", [Fault.LATE]), ("upsert", "a"), ("drain", None), ("upsert", "a")]


def test_a_first_sending_that_arrives_after_a_later_put_does_not_revert_it(
    tmp_path: Path, proxy: Proxy, clean_remote: SupabaseLite, sql: Sql
) -> None:
    model, report, _ = play(STUCK, tmp_path, proxy, clean_remote)
    assert proxy.seen["LATE"] == 1
    assert report == {"pending": 0, "dead": 0}
    assert wrongs(model, sql) == []


def test_control_without_the_trigger_the_same_sending_does_revert_it(
    tmp_path: Path, proxy: Proxy, clean_remote: SupabaseLite, sql: Sql
) -> None:
    sql.execute("alter table public.sessions disable trigger outbox_keep_newer")
    try:
        model, _, _ = play(STUCK, tmp_path, proxy, clean_remote)
        assert wrongs(model, sql) == ["a is v1, not one of ['v2']"]
    finally:
        sql.execute("alter table public.sessions enable trigger outbox_keep_newer")
