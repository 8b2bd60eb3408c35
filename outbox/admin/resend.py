"""Sends delivered entries again, after the remote end was restored from a backup or a table was emptied.

Entries still here, within the retention, become pending again under their old ids. An insert is harmless however often
it is sent. Only the newest upsert of each key is sent, unless an older one filled columns that no later one names.
Updates are left out: the rows that they matched may have changed since.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiosqlite

from outbox.entry import Operation
from outbox.store import queries
from outbox.store.selection import STEP, Selection
from outbox.store.store import Store, note


@dataclass(frozen=True, slots=True, kw_only=True)
class ResendReport:
    """The result of a resend.

    Attributes:
        resent: Pending again; after a dry run: would be.
        superseded: Upserts left out in favour of a newer one of their key.
        updates: Updates, which are left out.
        destinations: How many of `resent` each has.
    """

    resent: int
    superseded: int
    updates: int
    destinations: dict[str, int]
    dry_run: bool

    def as_json(self) -> dict[str, Any]:
        """Return the answer for machines."""
        return {name: getattr(self, name) for name in self.__slots__}


async def resend(store: Store, which: Selection, *, now_ms: int, dry_run: bool = False) -> ResendReport:
    """Make the entries in `which` pending again. Errors as `Store.transact`: what is done stays; run it again.

    dry_run: only count. All entries are found before the first is changed, so that none is sent twice: 50 bytes of
    memory for each.
    """
    until_ms = now_ms + 1 if which.until_ms is None else which.until_ms
    parameters = (which.since_ms or 0, until_ms, *which.parameters())
    found = sorted([int(row[0]) for row in await store.read(queries.DELIVERED.sql, parameters)])

    async def step(connection: aiosqlite.Connection, seqs: list[int]) -> Counter[str]:
        """Judge some entries and revive them; count by destination, or by why they are left out."""
        counts: Counter[str] = Counter()
        again = []
        rows = await connection.execute_fetchall(queries.RESENDABLE.sql, (json.dumps(seqs),))
        for seq, destination, operation, superseded in rows:
            if operation == Operation.UPDATE:
                counts["-updates"] += 1
            elif operation == Operation.UPSERT and superseded:
                counts["-superseded"] += 1
            else:
                counts[str(destination)] += 1
                again.append(int(seq))
        if again and not dry_run:
            await connection.execute(queries.RESEND.sql, (json.dumps(again),))
            await note(connection, again, now_ms=now_ms, event="resent")
        return counts

    counts: Counter[str] = Counter()
    for start in range(0, len(found), STEP):
        counts += await store.transact(partial(step, seqs=found[start : start + STEP]))
    destinations = {name: number for name, number in sorted(counts.items()) if not name.startswith("-")}
    return ResendReport(
        resent=sum(destinations.values()),
        superseded=counts["-superseded"],
        updates=counts["-updates"],
        destinations=destinations,
        dry_run=dry_run,
    )
