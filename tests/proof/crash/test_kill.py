"""Writing and flushing processes are killed again and again; what their pipes acknowledged is counted in PostgreSQL.

KILLS=2000 kills that often, instead of 40 times. The simulation kills at every step; these kills are real.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import TupleRow
from supabase_lite import ROOT, EmbeddedPostgres, SupabaseLite
from witness import Witness

from outbox import DrainReport, Outbox, Settings
from tests import forked
from tests.proof.counts import reached
from tests.support import run_async

KILLS = int(os.environ.get("KILLS", "40"))
MOST = 10  # times as many at most, until something has been delivered
CONTROL_KILLS = 1000  # at most: it ends with the first duplicate, mostly after four lives
SESSION_KILLS = 20
LIVES_PER_FILE = 20  # the first of them leaves a file of the library's first version
LIVES_S = 400.0  # of silence: a busy machine is no failure
WRITERS = 8  # each may have stored one row whose acknowledgement the kill cut off
_WRITER = str(ROOT / "tests" / "proof" / "crash" / "writer.py")


@dataclass(slots=True)
class Story:
    """What came out of the pipes, by kind (see `writer.py`), and which files there are."""

    said: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    files: list[Path] = field(default_factory=list)

    def of(self, kind: str, file: Path) -> set[str]:
        """Return what was said about rows of `file`; each life has a million numbers of its own."""
        place = self.files.index(file)
        return {number for number in self.said[kind] if int(number) // 1_000_000 // LIVES_PER_FILE == place}


def storm(
    folder: Path, remote: SupabaseLite, kills: int, *options: str,
    between: Callable[[int], None] | None = None, enough: Callable[[int], bool] = lambda lives: False,
) -> Story:  # fmt: skip
    """Kill `kills` lives, each at a random moment; `between` is told the number of each before it begins.

    enough: asked after each kill with how many there were; the storm ends where it is true.
    """
    dice, story = random.Random(2026), Story()
    environment = surroundings(remote)
    for life in range(kills):
        first_of_file = life % LIVES_PER_FILE == 0
        if first_of_file:
            story.files.append(folder / f"bot-{len(story.files)}.db")
        if between is not None:
            between(life)
        arguments = [_WRITER, str(story.files[-1]), str(life * 1_000_000), *options]
        arguments += ["puts-only"] if first_of_file else []
        witness = Witness(arguments, folder=folder, environment=environment, popen=forked.Popen)
        witness.acknowledged = story.said
        witness.start()
        await_the_moment(witness, dice)
        witness.kill()
        if enough(life + 1):
            break
    return story


def surroundings(remote: SupabaseLite) -> dict[str, str]:
    return {
        "SUPABASE_URL": remote.url,
        "SUPABASE_SECRET_KEY": remote.secret_key,
        "OUTBOX_BACKOFF_BASE_S": "0.02",
        "OUTBOX_BACKOFF_CAP_S": "0.1",
        "OUTBOX_BATCH_ROWS": "20",  # many small requests: a kill nearly always meets one under way
        "OUTBOX_RETENTION_DAYS": "0",  # each life begins by pruning what those before it have delivered
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "scripts"))),
    }


def await_the_moment(witness: Witness, dice: random.Random, *, most: int = 150) -> None:
    """Let the process live for a moment: short enough to be killed while it opens, long enough to send, or between.

    most: acknowledgements to wait for.
    """
    draw = dice.random()
    if draw < 0.4:
        witness.watch(dice.uniform(0.0, 0.12))
    elif draw < 0.6:
        witness.watch(dice.uniform(0.2, 0.6))
    else:
        witness.wait_for(witness.total() + dice.randint(1, dice.choice((5, most))), timeout_s=LIVES_S)


@run_async
async def drain(file: Path, remote: SupabaseLite) -> DrainReport:
    chosen = Settings(path=file, supabase_url=remote.url, supabase_key=remote.secret_key)
    async with Outbox.open(chosen) as outbox:
        return await outbox.drain(timeout=200)


@dataclass(frozen=True, slots=True)
class Left:
    """What a file holds at the end. counts: by state, with pruned and removed. dead: their numbers."""

    counts: Counter[str]
    rows: Counter[str]
    dead: set[str]
    sound: bool


def look(file: Path) -> Left:
    """Read `file` with plain sqlite3."""
    with closing(sqlite3.connect(file)) as sql:
        counted = sql.execute("select state, sum(entries) from outbox_counts group by state")
        there = sql.execute("select state, count(*) from outbox group by state")
        dead = sql.execute("select payload ->> 'event_type' from outbox where state = 'dead'")
        return Left(
            Counter(dict(counted)),
            Counter(dict(there)),
            {number for (number,) in dead},
            sql.execute("pragma integrity_check").fetchall() == [("ok",)],
        )


def arrived(sql: psycopg.Connection[TupleRow]) -> Counter[str]:
    return Counter(trade_id for (trade_id,) in sql.execute("select trade_id from trades"))


class Wrecker:
    """Kills the REST server, or PostgreSQL and so both, in a thread of its own, and brings them back."""

    def __init__(self, remote: SupabaseLite, postgres: EmbeddedPostgres) -> None:
        self._remote = remote
        self._postgres = postgres
        self._pool = ThreadPoolExecutor(1)
        self.wrecks: list[Future[None]] = []

    def before(self, life: int) -> None:
        if life % 50 == 25:
            self.wrecks.append(self._pool.submit(self._wreck, database=life % 100 == 75))

    def _wreck(self, *, database: bool) -> None:
        self._remote.kill()
        if database:
            self._postgres.kill()
            self._postgres.start()
        self._remote.start()

    def end(self) -> None:
        """Wait until everything is up again. Raises what kept it from that."""
        self._pool.shutdown()
        for wreck in self.wrecks:
            wreck.result()


@pytest.mark.timeout(max(900, KILLS * 2))
def test_whatever_was_acknowledged_before_a_kill_arrives_exactly_once(
    tmp_path: Path, clean_remote: SupabaseLite, postgres: EmbeddedPostgres
) -> None:
    wrecker = Wrecker(clean_remote, postgres)

    def enough(lives: int) -> bool:
        """On a machine that is so busy that no life was long enough to deliver anything, there are more of them."""
        may_end = lives == KILLS or (lives > KILLS and lives % LIVES_PER_FILE == 0)
        return may_end and any(look(file).counts["pruned"] for file in tmp_path.glob("bot-*.db"))

    try:
        story = storm(tmp_path, clean_remote, MOST * KILLS, between=wrecker.before, enough=enough)
    finally:
        wrecker.end()
    assert len(wrecker.wrecks) >= KILLS // 50

    reports = [drain(file, clean_remote) for file in story.files]

    assert [report for report in reports if report.timed_out or report.pending] == []
    with psycopg.connect(postgres.dsn) as sql:
        rows = arrived(sql)
        events = [str(kind) for (kind,) in sql.execute("select event_type from events").fetchall()]
    assert [kind for kind in events if not kind.startswith("between ")] == [], "a refused row"
    numbers = [*map(int, rows), *(int(kind.removeprefix("between ")) for kind in events)]
    assert story.said["trades"] - set(rows) == set(), "acknowledged, but not in PostgreSQL"
    assert [number for number, times in rows.items() if times > 1] == [], "more than once in PostgreSQL"
    assert enough(KILLS), "no life was long enough to deliver anything"
    for place, file in enumerate(story.files):
        check_file(file, story, sum(number // 1_000_000 // LIVES_PER_FILE == place for number in numbers))
    reached("kills", KILLS)


def check_file(file: Path, story: Story, remote_rows: int) -> None:
    """The file is sound, nothing is unaccounted for, and a row that was refused is dead unless it was given up."""
    left = look(file)
    assert left.sound
    assert story.of("refused", file) - story.of("given up", file) - left.dead == set()
    assert all(left.counts[state] == left.rows[state] for state in ("pending", "delivered", "dead", "discarded"))
    assert left.counts["removed"] == 0
    acknowledged = len(story.of("trades", file)) + 2 * len(story.of("refused", file))  # and the one before each of them
    assert acknowledged <= left.counts.total() <= acknowledged + 2 * WRITERS * LIVES_PER_FILE
    # Every entry that was ever put is in PostgreSQL, or dead, or given up.
    refused = left.counts.total() - remote_rows
    assert len(left.dead) + left.counts["discarded"] <= refused <= len(left.dead) + len(story.of("given up", file))


def test_sessions_are_as_they_were_last_put_whenever_their_bots_were_killed(
    tmp_path: Path, clean_remote: SupabaseLite, sql: psycopg.Connection[TupleRow]
) -> None:
    story = storm(tmp_path, clean_remote, SESSION_KILLS, "sessions")
    for file in story.files:
        drain(file, clean_remote)
    last = {kind: max(map(int, numbers)) for kind, numbers in story.said.items() if kind.startswith("bot-")}
    sessions: dict[str, int] = dict(
        sql.execute("select session_id, total_trades from sessions where total_trades = version").fetchall()
    )
    assert len(last) > 0
    assert {key: (sessions.get(key), said) for key, said in last.items() if sessions.get(key, -1) < said} == {}


def test_control_without_the_idempotency_key_the_same_storm_leaves_duplicates(
    tmp_path: Path, clean_remote: SupabaseLite, sql: psycopg.Connection[TupleRow]
) -> None:
    def duplicates(_: int = 0) -> bool:
        return any(times > 1 for times in arrived(sql).values())

    storm(tmp_path, clean_remote, CONTROL_KILLS, "without-key", enough=duplicates)
    assert duplicates()
