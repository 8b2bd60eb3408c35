"""The victim: puts trades from eight tasks and flushes them, until it is killed.

usage: writer.py OUTBOX_FILE FIRST_NUMBER [without-key]
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from outbox import Outbox, Settings
from outbox.entry import Operation, Shape
from outbox.flusher import delivery
from outbox.transport import Request, Sendable, build


def without_key(shape: Shape, entries: Sequence[Sendable]) -> Request:
    """Build the request of an outbox that has no idempotency key: the server makes up the ids."""
    request = build(shape, entries)
    if shape.operation is not Operation.INSERT:
        return request
    rows = json.loads(request.body)
    for row in rows:
        del row["id"]
    return Request(request.method, shape.destination, request.headers, json.dumps(rows).encode())


async def main(path: Path, first: int) -> None:
    numbers = itertools.count(first)
    async with Outbox.open(Settings(path=path)) as outbox, outbox.flushing(), asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(trade_for_ever(outbox, numbers))


async def trade_for_ever(outbox: Outbox, numbers: itertools.count[int]) -> None:
    for number in numbers:
        row = {"session_id": "crash", "trade_id": str(number), "symbol": "EURUSD", "timestamp": "2026-01-01T00:00:00Z"}
        await outbox.put("trades", row)
        sys.stdout.write(json.dumps(["trades", str(number)]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if "without-key" in sys.argv[3:]:
        delivery.build = without_key  # type: ignore[attr-defined]
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
