"""The bot of the fault programs: does what its standard input says, a JSON line each, and answers each when it is done.

usage: bot.py OUTBOX_FILE [without-key | status-only]
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from outbox import Outbox, Settings
from outbox.entry import Operation
from outbox.flusher import delivery
from outbox.postgrest.verdicts import Delivered, Failure, Pause, Reason, Refusal, Reject, Reply, Scope, Split, Verdict
from tests.proof.crash.writer import without_key


def judge_by_status(
    operation: Operation, rows: int, outcome: Reply | Failure, *, own: str | None = None, sent_bytes: int = 0
) -> Verdict:
    """Judge as many outboxes do: 2xx is delivered, 4xx is refused, the rest is tried again."""
    status = 0 if isinstance(outcome, Failure) else outcome.status
    refusal = Refusal(status, None, "")
    if 200 <= status < 300:
        return Delivered()
    if 400 <= status < 500:
        return Reject(refusal) if rows == 1 else Split(refusal, shrink=False)
    return Pause(Scope.EVERYTHING, Reason.UNREACHABLE, refusal)


async def main(path: Path) -> None:
    async with Outbox.open(Settings(path=path)) as outbox, outbox.flushing():
        # A thread, since Windows cannot wait for standard input in the event loop.
        while line := await asyncio.to_thread(sys.stdin.readline):
            sys.stdout.write(json.dumps(await obey(outbox, **json.loads(line))) + "\n")
            sys.stdout.flush()


async def obey(outbox: Outbox, do: str, **words: object) -> object:
    if do == "drain":
        timeout_s = words["timeout_s"]
        assert isinstance(timeout_s, int)
        report = await outbox.drain(timeout=timeout_s)
        return {"pending": report.pending, "dead": report.dead}
    if do == "be patient":  # the faults are over, and how long a busy server takes is none
        context = outbox._flusher._context
        context.limits = context.limits.model_copy(update={"request_deadline_s": 200.0})
        context.window._deadline_s = 200.0
        return "ok"
    if do == "stats":
        return (await outbox.stats()).destinations
    if do == "insert":
        numbers = words["numbers"]
        assert isinstance(numbers, list)
        rows = [
            {"session_id": "f", "trade_id": str(n), "symbol": "E", "timestamp": "2026-01-01T00:00:00Z"} for n in numbers
        ]
        await asyncio.gather(*(outbox.put("trades", row) for row in rows))
        return "ok"
    if do == "upsert":
        row = {"session_id": words["key"], "start_time": "2026-01-01T00:00:00Z"}
        row |= {"end_reason": words["value"], "version": words["version"]}
        await outbox.put("sessions", row, operation="upsert")
        return "ok"
    assert do == "update"
    change = {"end_reason": words["value"], "version": words["version"]}
    await outbox.put("sessions", change, operation="update", match={"session_id": words["key"]})
    return "ok"


if __name__ == "__main__":
    if "without-key" in sys.argv[2:]:
        delivery.build = without_key  # type: ignore[attr-defined]
    if "status-only" in sys.argv[2:]:
        delivery.judge = judge_by_status  # type: ignore[attr-defined]
    asyncio.run(main(Path(sys.argv[1])))
