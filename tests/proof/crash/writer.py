"""The victim: puts trades from eight tasks, flushes, settles and prunes, until it is killed.

usage: writer.py OUTBOX_FILE FIRST_NUMBER [without-key] [puts-only] [sessions]

It prints `["trades", number]` for each acknowledged row, `["refused", number]` for one that the remote end will refuse,
and `["given up", number]` before it discards one of those. sessions: each task has a session of its own as well, which
it upserts, and updates now and then, `["sessions", number]`. puts-only: without a
flusher.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from outbox import Outbox, Settings
from outbox.entry import LaneSpec, Operation, Outgoing
from outbox.flusher import delivery
from outbox.postgrest.client import Request, build


def without_key(spec: LaneSpec, entries: Sequence[Outgoing]) -> Request:
    """Build the request of an outbox that has no idempotency key: the server makes up the ids."""
    request = build(spec, entries)
    if spec.operation is not Operation.INSERT:
        return request
    rows = json.loads(request.body)
    for row in rows:
        del row["id"]
    return Request(request.method, spec.destination, request.headers, json.dumps(rows).encode())


def say(kind: str, number: str) -> None:
    """One line, at once and whole."""
    sys.stdout.write(json.dumps([kind, number]) + "\n")
    sys.stdout.flush()


async def main(path: Path, first: int, *, sending: bool, sessions: bool) -> None:
    numbers = itertools.count(first)
    async with Outbox.open(Settings(path=path)) as outbox, asyncio.TaskGroup() as tasks:
        if sending:
            tasks.create_task(outbox.run_flusher())
            tasks.create_task(give_up_some(outbox))
        for _ in range(8):
            tasks.create_task(trade_for_ever(outbox, numbers))
        for task in range(4) if sessions else ():
            tasks.create_task(report_for_ever(outbox, f"{path.stem}-{task}", numbers))


async def trade_for_ever(outbox: Outbox, numbers: itertools.count[int]) -> None:
    for number in numbers:
        row = {"session_id": "crash", "trade_id": str(number), "symbol": "EURUSD", "timestamp": "2026-01-01T00:00:00Z"}
        await outbox.put("trades", row)
        say("trades", str(number))
        if number % 50 == 0:
            # One that is accepted between: a run of refusals alone would be a fault of the table.
            await outbox.put("events", {"event_type": f"between {number}", "timestamp": "2026-01-01T00:00:00Z"})
            await outbox.put("events", {"event_type": str(number), "timestamp": "yesterdayish"})
            say("refused", str(number))


async def report_for_ever(outbox: Outbox, session: str, numbers: itertools.count[int]) -> None:
    """Start a session and keep it up to date; its number only grows, and the remote end keeps the newest."""
    for turn in itertools.count():
        number = next(numbers)
        state = {"status": "RUNNING", "total_trades": number, "version": number}
        if turn % 10 == 9:
            await outbox.put("sessions", state, operation="update", match={"session_id": session})
        else:
            start = {"session_id": session, "start_time": "2026-01-01T00:00:00Z"}
            await outbox.put("sessions", start | state, operation="upsert")
        say("sessions", str(number))
        say(session, str(number))


async def give_up_some(outbox: Outbox) -> None:
    """Discard the dead entries that the lives before have left, a third of them."""
    dead = await outbox.read_local(
        "select id, payload ->> 'event_type' from outbox where state = 'dead' and seq % 3 = 0"
    )
    for _, number in dead:
        say("given up", number)
    await outbox.discard([id_ for id_, _ in dead], reason="the storm")


def run(arguments: list[str]) -> None:
    """Live one life."""
    path, first, *options = arguments
    if "without-key" in options:
        delivery.build = without_key  # type: ignore[attr-defined]
    asyncio.run(main(Path(path), int(first), sending="puts-only" not in options, sessions="sessions" in options))


if __name__ == "__main__":
    run(sys.argv[1:])
