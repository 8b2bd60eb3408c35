#!/usr/bin/env python3
"""A thousand bots after a long outage: what the jitter of the backoff is worth, by a simulation.

usage: scripts/benchmark/herd.py [--bots N] [--outage-h HOURS] [--seeds N] [--write]

  --write  put the table and the plot into docs/scale.md and docs/herd.svg

The clock is virtual, the decisions are the library's own: `policy.backoff` says when a bot tries again,
`policy.verdicts` what an answer means, `policy.batching` how many rows the next request carries. The server is a model
of one PostgREST in front of one PostgreSQL: a pool of connections, a queue in front of it, and its own answer (504,
PGRST003) to what has waited too long. Same seed, same figures, on every machine.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from outbox.entry import Operation
from outbox.flusher import backoff
from outbox.postgrest import batch as batching
from outbox.postgrest.verdicts import Delivered, Failure, Pause, Reply, judge
from outbox.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE, PLOT = ROOT / "docs" / "scale.md", ROOT / "docs" / "herd.svg"

STORED = Reply(201, {"preference-applied": "resolution=ignore-duplicates"}, b"")
NO_CONNECTION = Reply(504, {}, json.dumps({"code": "PGRST003", "message": "Timed out acquiring connection"}).encode())


@dataclass(frozen=True, slots=True)
class World:
    """What is simulated. The defaults of the server: 10 connections, about 16,000 rows/s, PostgREST's own 10 s."""

    bots: int = 1000
    outage_s: float = 6 * 3600
    bar_s: float = 60.0  # all bots put at the close of the same bar …
    spread_s: float = 1.0  # … within this time
    rows_a_bar: int = 6
    pool: int = 10
    request_s: float = 0.004  # what a request costs a connection, whatever it carries
    row_s: float = 0.0006  # and each of its rows
    acquire_s: float = 10.0  # how long PostgREST lets a request wait for a connection
    limits: Settings = field(default_factory=lambda: Settings(_env_file=None))

    @property
    def rows_per_s(self) -> float:
        """The most that the server can store with full batches."""
        rows = self.limits.batch_rows
        return self.pool * rows / (self.request_s + rows * self.row_s)


@dataclass
class Outcome:
    """What came of it. Times are seconds since the server's return; arrivals: requests by second."""

    finished_s: list[float]
    arrivals: Counter[int]
    refused: int
    fairness: float
    backlog: list[tuple[float, int]]

    def peak(self, seconds: Iterable[int]) -> int:
        """Return the most requests that arrived within one of these seconds."""
        return max((self.arrivals[second] for second in seconds), default=0)


class Simulation:
    """One run. draw: the dice of the backoff. Time 0 is the server's return; the outage lies before it."""

    def __init__(self, world: World, draw: Callable[[], float], dice: random.Random) -> None:
        self.world = world
        self.draw = draw
        self.dice = dice
        self.now_s = -world.outage_s
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._queue: deque[Sent] = deque()
        self._busy = 0
        self.outcome = Outcome([], Counter(), 0, 0.0, [])
        self.bots = [Bot(self) for _ in range(world.bots)]
        self._total = 0

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        """Let `action` happen at `time_s`."""
        heapq.heappush(self._events, (max(time_s, self.now_s), next(self._order), action))

    def run(self) -> Outcome:
        """Run until every bot has sent what it had when the server came back."""
        for bot in self.bots:
            self.at(self.now_s, bot.close_bar)
        self.at(0.0, self._return)
        while len(self.outcome.finished_s) < len(self.bots):
            self.now_s, _, action = heapq.heappop(self._events)
            action()
        return self.outcome

    def _return(self) -> None:
        for bot in self.bots:
            bot.owed = bot.rows
        self._total = sum(bot.rows for bot in self.bots)
        self._note_backlog()

    def _note_backlog(self) -> None:
        waiting = sum(bot.rows for bot in self.bots)
        self.outcome.backlog.append((self.now_s, waiting))
        if not self.outcome.fairness and waiting <= self._total / 2:
            shares = [bot.sent_rows for bot in self.bots]
            # Jain's index: 1 is the same for everybody, 1/n is everything for one.
            self.outcome.fairness = sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))
        self.at(self.now_s + 1, self._note_backlog)

    # ------------------------------------------------------------------------------------------ the server

    def receive(self, sent: Sent) -> None:
        """Take a request in, or be away."""
        self.outcome.arrivals[int(self.now_s // 1)] += 1
        if self.now_s < 0:
            self.at(self.now_s, lambda: sent.bot.answered(sent, Failure.UNREACHABLE))
            return
        self._queue.append(sent)
        self.at(self.now_s + self.world.acquire_s, lambda: self._give_up(sent))
        self._serve()

    def _give_up(self, sent: Sent) -> None:
        if not sent.taken:
            sent.taken = True
            self.outcome.refused += 1
            sent.bot.answered(sent, NO_CONNECTION)

    def _serve(self) -> None:
        while self._queue and self._busy < self.world.pool:
            sent = self._queue.popleft()
            if sent.taken:
                continue
            sent.taken = True
            self._busy += 1
            work_s = self.world.request_s + sent.rows * self.world.row_s
            self.at(self.now_s + work_s * self.dice.uniform(0.8, 1.2), partial(self._served, sent))

    def _served(self, sent: Sent) -> None:
        self._busy -= 1
        sent.bot.answered(sent, STORED)
        self._serve()


@dataclass(eq=False, slots=True)
class Sent:
    """A request. turn: its place among the bot's requests and pauses. taken: served, or given up."""

    bot: Bot
    rows: int
    turn: int
    taken: bool = False


class Bot:
    """A bot with its outbox: the rules of `outbox.flusher` for one lane, without its files."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._limits = simulation.world.limits
        self.rows = 0
        self.sent_rows = 0
        self._limit = batching.Limit(self._limits.batch_rows, self._limits.batch_rows)  # its bytes are rows here
        self._under_way = 0
        self._rows_under_way = 0
        self._failures = 0  # of the pause in force; 0: none is
        self._pause_turn = 0
        self._due_s = 0.0
        self._turns = itertools.count(1)
        self.owed = 0  # rows of the outage that are still to be sent, once it is over

    def close_bar(self) -> None:
        """Put the rows of one bar, soon after its close."""
        world, now_s = self._simulation.world, self._simulation.now_s
        self._simulation.at(now_s + self._simulation.dice.uniform(0, world.spread_s), self._put)
        self._simulation.at(now_s + world.bar_s, self.close_bar)

    def _put(self) -> None:
        self.rows += self._simulation.world.rows_a_bar
        self.send()

    def send(self) -> None:
        """Start every request that may start: one row while a pause is probed, none before it is due."""
        if self._failures:
            if not self._under_way and self._due_s <= self._simulation.now_s:
                self._start(1)
            return
        while self._under_way < self._limits.requests_in_flight and self.rows > self._rows_under_way:
            self._start(min(self._limit.bytes, self.rows - self._rows_under_way))

    def _start(self, rows: int) -> None:
        self._under_way += 1
        self._rows_under_way += rows
        self._simulation.receive(Sent(self, rows, next(self._turns)))

    def answered(self, sent: Sent, answer: Reply | Failure) -> None:
        """Do what the library's own verdict says."""
        self._under_way -= 1
        self._rows_under_way -= sent.rows
        match judge(Operation.INSERT, sent.rows, answer):
            case Delivered():
                self._delivered(sent.rows)
            case Pause(shrink=shrink):
                self._paused(sent, shrink=shrink)
            case verdict:
                raise AssertionError(verdict)
        self.send()

    def _delivered(self, rows: int) -> None:
        self.rows -= rows
        self.sent_rows += rows
        self._failures = 0
        self._resize(rows, succeeded=True)
        if self.owed > 0:
            self.owed -= rows
            if self.owed <= 0:
                self._simulation.outcome.finished_s.append(self._simulation.now_s)

    def _paused(self, sent: Sent, *, shrink: bool) -> None:
        if shrink:
            self._resize(sent.rows, succeeded=False)
        if self._failures and self._pause_turn > sent.turn:
            return  # several requests met the same failure: it counts once
        self._failures += 1
        self._pause_turn = next(self._turns)
        limits = self._limits
        wait_s = backoff.delay_s(
            self._failures, base_s=limits.backoff_base_s, cap_s=limits.backoff_cap_s, draw=self._simulation.draw()
        )
        self._due_s = self._simulation.now_s + wait_s
        self._simulation.at(self._due_s, self.send)

    def _resize(self, rows: int, *, succeeded: bool) -> None:
        self._limit = batching.next_limit(
            self._limit,
            sent=rows,
            took_s=0.0 if succeeded else None,
            deadline_s=self._limits.request_deadline_s,
            most=self._limits.batch_rows,
        )


def simulate(world: World, *, jitter: bool, seed: int) -> Outcome:
    """Return what becomes of `world`; without jitter each wait is as long as it may be."""
    dice, waits = random.Random(seed), random.Random(seed + 1000)
    return Simulation(world, waits.random if jitter else lambda: 1 - 2**-53, dice).run()


# ------------------------------------------------------------------------------------------ what is shown


@dataclass(frozen=True, slots=True)
class Figures:
    """One column of the table: medians over the seeds."""

    peak_away: float
    peak_back: float
    refused: float
    first_s: float
    median_s: float
    last_s: float
    fairness: float


def figures(outcomes: Sequence[Outcome]) -> Figures:
    """Return the medians of some runs."""

    def middle(each: Callable[[Outcome], float]) -> float:
        return statistics.median(map(each, outcomes))

    return Figures(
        # The first ten minutes of the outage are the doubling; then every wait has reached the cap.
        middle(lambda run: run.peak(second for second in run.arrivals if min(run.arrivals) + 600 < second < 0)),
        middle(lambda run: run.peak(second for second in run.arrivals if second >= 0)),
        middle(lambda run: run.refused),
        middle(lambda run: min(run.finished_s)),
        middle(lambda run: statistics.median(run.finished_s)),
        middle(lambda run: max(run.finished_s)),
        middle(lambda run: run.fairness),
    )


def table(world: World, with_jitter: Figures, without: Figures) -> str:
    """Return the figures as Markdown."""
    rows = [
        ("most requests in one second, server away", "peak_away", "{:,.0f}"),
        ("most requests in one second, server back", "peak_back", "{:,.0f}"),
        ("requests that got no connection in time (504)", "refused", "{:,.0f}"),
        ("the first bot has caught up after", "first_s", "{:,.0f} s"),
        ("half of the bots have", "median_s", "{:,.0f} s"),
        ("all of them have", "last_s", "{:,.0f} s"),
        ("fairness (Jain) when half of the rows are there", "fairness", "{:.2f}"),
    ]
    backlog = world.bots * world.rows_a_bar * int(world.outage_s / world.bar_s)
    lines = [
        f"{world.bots:,} bots, {world.outage_s / 3600:g} h away, {backlog:,} rows waiting;",
        f"the server can store {world.rows_per_s:,.0f} rows/s: {backlog / world.rows_per_s:,.0f} s of work.",
        "",
        "| | full jitter | no jitter |",
        "| --- | --- | --- |",
    ]
    for what, name, form in rows:
        lines.append(f"| {what} | {form.format(getattr(with_jitter, name))} | {form.format(getattr(without, name))} |")
    return "\n".join(lines)


_FONT = 'font-family="sans-serif" font-size="12"'
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 760, 150, 70, 34, 62


def plot(with_jitter: Outcome, without: Outcome) -> str:
    """Return the requests per second and the backlog around the server's return, as SVG."""
    first, last = -600, int(max(*with_jitter.finished_s, *without.finished_s)) + 60
    curves = [("full jitter", "#1f77b4", with_jitter), ("no jitter", "#d62728", without)]
    requests = [(color, [(s, run.arrivals[s]) for s in range(first, last)]) for _, color, run in curves]
    backlog = [(color, [(s, rows / 1e6) for s, rows in run.backlog if s < last]) for _, color, run in curves]
    height = 2 * (_HEIGHT + _GAP) + _TOP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH + _LEFT + 20} {height}" {_FONT}>',
        f'<rect width="100%" height="{height}" fill="white"/>',
        *_panel(_TOP, "requests in a second", first, last, requests),
        *_panel(_TOP + _HEIGHT + _GAP, "rows waiting, millions", first, last, backlog),
    ]
    for number, (name, color, _) in enumerate(curves):
        x = _LEFT + _WIDTH - 200 + 100 * number
        parts.append(
            f'<rect x="{x}" y="8" width="14" height="4" fill="{color}"/><text x="{x + 20}" y="14">{name}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    top: int, title: str, first: int, last: int, curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]
) -> list[str]:
    highest = max(value for _, points in curves for _, value in points) or 1

    def x(second: float) -> float:
        return _LEFT + _WIDTH * (second - first) / (last - first)

    def y(value: float) -> float:
        return top + _HEIGHT * (1 - value / highest)

    parts = [
        f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>',
        f'<text x="{_LEFT}" y="{top - 6}">{title}</text>',
        f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end">{highest:,.3g}</text>'.replace("e+03", "k"),
        f'<text x="{_LEFT - 6}" y="{top + _HEIGHT}" text-anchor="end">0</text>',
        f'<line x1="{x(0):.1f}" y1="{top}" x2="{x(0):.1f}" y2="{top + _HEIGHT}" stroke="#999" stroke-dasharray="4"/>',
    ]
    parts += [
        f'<text x="{x(second):.0f}" y="{top + _HEIGHT + 16}" text-anchor="middle">{second} s</text>'
        for second in range(-(-first // 300) * 300, last, 300)
    ]
    for color, points in reversed(curves):
        text = " ".join(f"{x(second):.1f},{y(value):.1f}" for second, value in points)
        parts.append(f'<polyline points="{text}" fill="none" stroke="{color}" stroke-width="1.3"/>')
    return parts


BEGIN, END = "<!-- herd.py: begin -->", "<!-- herd.py: end -->"


def with_table(page: str, text: str) -> str:
    """Return `page` with `text` between the two marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Simulate, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bots", type=int, default=World().bots)
    parser.add_argument("--outage-h", type=float, default=6.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    world = World(bots=options.bots, outage_s=options.outage_h * 3600)
    runs = {
        jitter: [simulate(world, jitter=jitter, seed=seed) for seed in range(options.seeds)] for jitter in (True, False)
    }
    text = table(world, figures(runs[True]), figures(runs[False]))
    print(text)
    if options.write:
        PAGE.write_text(with_table(PAGE.read_text("utf-8"), text), "utf-8")
        PLOT.write_text(plot(runs[True][0], runs[False][0]), "utf-8")


if __name__ == "__main__":
    main()
