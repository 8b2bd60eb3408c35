"""What outlives the process: the network, the remote end, the clock, the dice, and what the bot was told."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests.proof.simulation.network import Network

Row = dict[str, Any]
# What in a row the remote end may refuse.
SPOILS = frozenset({"poison", "big", "fill", "slow"})
Action = tuple[str, dict[str, Any]]

# The same in every life, as the bound on waiting hangs on them.
LIMITS: dict[str, Any] = {
    "backoff_base_s": 0.5,
    "backoff_cap_s": 20.0,
    "pause_probe_s": 10.0,
    "request_deadline_s": 5.0,
}
_RETENTION_S = 7 * 86_400.0
_LONGEST_S = 22.0  # the cap and a tenth of jitter
# Once the remote end is sound again, whatever can be delivered is: behind a pause of everything, one of the table, one
# of the lane and a wait of its own, each at its longest, behind an update that matches nothing (a minute), and a few
# requests at their deadline. It does not hang on how much else is put.
BOUND_S = 4 * _LONGEST_S + 60 + 6 * LIMITS["request_deadline_s"]


def trade_id(n: int) -> str:
    """Return the id of trade `n`, a UUID."""
    return f"00000000-0000-4000-8000-{n:012x}"


@dataclass
class Put:
    """One write as the bot knows it. told: trying, acknowledged, refused (nothing was written) or unknown."""

    n: int
    table: str
    row: Row
    operation: str = "insert"
    group: int | None = None  # all of it is there or nothing; positive: with a row of the bot's own for each
    told: str = "trying"
    id: str | None = None
    seq: int = 0
    since_s: float | None = None  # when it was first found that it can arrive
    before: Row | None = None  # what it was, where somebody has asked for another row in its place
    unsure: bool = False  # and was not answered: it is one of the two
    by_shell: bool = False  # the bot learns of it with its next look at the file

    def spoiled(self) -> bool:
        """Whether the remote end may refuse its row."""
        return not SPOILS.isdisjoint(self.row)

    @property
    def key(self) -> str | None:
        """The remote row that an upsert or update is about; the ordering key of an insert."""
        key = self.row.get("session_id") if self.table == "sessions" else self.row.get("symbol") or self.row.get("k")
        return None if key is None else str(key)


@dataclass
class World:
    """seed: what all of its dice come from. story: what a person reads of a failure. wrongs: promises broken."""

    seed: int
    dice: random.Random
    network: Network = field(default_factory=Network)
    puts: dict[int, Put] = field(default_factory=dict)
    discarded: set[str] = field(default_factory=set)
    now_s: float = 1000.0
    stepped_s: float = 0.0
    lowest_step_s: float = 0.0
    pruned: bool = False  # the wall clock said that the retention is over
    sound_since_s: float = 1000.0  # nothing has ailed since: bounds count from here
    environment: dict[str, str] = field(default_factory=dict)  # of the next lives
    hurt: bool = False  # rows may be missing
    harmed: bool = False  # a file was damaged at some time: an edit may be undone, which no mark tells
    vanished: bool = False  # a file was taken away under a bot: a put of any bot may have failed
    unmarked: bool = False  # the lock's sidecar, with the mark of what was acknowledged, is gone until the next opening
    cut: bool = False  # of a -wal SQLite reads the beginning, which without a mark looks like all of it
    vanishing: list[bool] = field(default_factory=list)  # of each file that is gone: that nobody could tell of it
    told: bool = False  # the library has said that rows may be missing
    must_restart: bool = False  # the file was found to be damaged while it was open
    refused: str = ""  # the file is not opened any more
    steps: int = 0
    kills: int = 0
    longest_wait_s: float = 0.0
    digest: str = ""
    story: list[str] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)

    @property
    def damaged(self) -> bool:
        """Whether rows may be missing; after a file has vanished under a bot, until somebody has looked."""
        return self.hurt or bool(self.vanishing)

    @property
    def told_of_loss(self) -> bool:
        """Whether the library has said so, or had no way to."""
        return self.told or any(self.vanishing)

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        self.story.append(what)

    def wrong(self, what: str) -> None:
        """Note a broken promise, once."""
        if what not in self.wrongs:
            self.wrongs.append(what)
            self.tell(f"WRONG {what}")

    def step_clock(self, by_s: float) -> None:
        """Set the wall clock.

        Nobody can tell a year that it was set forward from one in which the machine was off; and what was delivered
        while it was a year behind is a year old once it is set right.
        """
        self.stepped_s += by_s
        self.lowest_step_s = min(self.lowest_step_s, self.stepped_s)
        self.pruned = self.pruned or self.stepped_s - self.lowest_step_s > _RETENTION_S / 2

    def ails(self, until_s: float) -> None:
        """Until then nothing need arrive."""
        self.sound_since_s = max(self.sound_since_s, until_s)

    # ------------------------------------------------------------------------------------------ what must arrive

    def can_arrive(self, put: Put) -> bool:
        """Whether the remote end would take it as things stand now."""
        rows, row = self.network.server.rows, put.row
        if self.in_doubt(put):
            return False
        if row.get("poison") or row.get("slow", 0) < 0 or row.get("fill") or len(str(row)) > 2_000:
            return False
        if put.table == "legs":
            return str(row["trade"]) in rows.get("trades", {})
        if put.operation == "update":
            return any(mark.get("symbol") == put.key for mark in self.network.server.all(put.table))
        return True

    def in_doubt(self, put: Put) -> bool:
        """Whether an edit of `put` may or may not be in the file."""
        return put.before is not None and (put.unsure or self.harmed)

    def may_give_way(self, put: Put) -> bool:
        """Whether `put` is an update that has matched nothing and was never applied, with something behind it in its
        line, for whose sake it may be dead."""
        server = self.network.server
        if put.operation != "update" or put.n in server.seen or put.n not in server.missed:
            return False
        return any(other.n > put.n and (other.table, other.key) == (put.table, put.key) for other in self.puts.values())

    def late(self) -> list[str]:
        """Return what has waited longer than the bound; its longest wait is kept."""
        seen, found = self.network.server.seen, []
        for put in self.puts.values():
            if put.table.startswith("busy"):
                continue  # more of it may be put than can be sent
            if put.told != "acknowledged" or put.n in seen or put.id in self.discarded:
                continue
            if not self.can_arrive(put) or self.may_give_way(put):
                put.since_s = None
                continue
            if put.key is not None and any(
                other.n in seen and other.n > put.n and other.key == put.key and other.operation == put.operation
                for other in self.puts.values()
            ):
                continue  # a newer one of its row has taken its place
            put.since_s = self.now_s if put.since_s is None else put.since_s
            waited_s = self.now_s - max(put.since_s, self.sound_since_s)
            self.longest_wait_s = max(self.longest_wait_s, waited_s)
            if waited_s > BOUND_S:
                found.append(f"{put.operation} {put.n} of {put.table} still waits after {BOUND_S:g} s")
        return found
