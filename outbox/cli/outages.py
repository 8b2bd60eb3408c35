"""`outbox outages` and `outbox lives`: when the remote end was away, and when the bot started and ended."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from outbox.cli import format as formatting
from outbox.cli.common import AsJson, FilePath, looking, print_json, read
from outbox.cli.filters import LIMIT, Limit, Since, Until, moment_ms
from outbox.cli.status import holder_of, subject
from outbox.clock import SystemClock
from outbox.forensics.outages import Life, Outage, lives as find_lives, outages as find_outages
from outbox.store.read_only import ReadOnlyStore


def outages(
    since: Since = None, until: Until = None, limit: Limit = LIMIT, path: FilePath = None, as_object: AsJson = False
) -> None:
    """Show when nothing was sent, for how long, and why.

    The newest first. Those that last, and the newest 1,000 that are over.
    --since and --until select those that lasted into that time. Changes
    nothing.

    \b
    Example:
      outbox outages --since 1d

    \b
    --json prints {path, outages: [...]}, each with these fields:
      what                    everything, a table, or a kind of request
      reason, status, code, message    the last failure
      since, until            UTC; until: null while it lasts
      lasted_s, failures
      refused                 entries that were refused for good meanwhile
      backlog                 entries that were pending at its end, or null

    \b
    Exit codes:
      0  shown, even if there is none
      3  the file is missing, unreadable or no outbox, or a time is invalid
    """
    with looking(path, as_object=as_object) as where:
        now_ms = SystemClock().now_ms()
        bounds = _bounds(since, until, now_ms)

        async def work(observer: ReadOnlyStore) -> list[tuple[str, Outage]]:
            lanes = await observer.lanes()
            found = await find_outages(observer, *bounds, limit)
            return [(subject(each, lanes) or "everything", each) for each in found]

        found = read(where, work)
        if as_object:
            print_json({"path": where, "outages": [_outage_json(what, each, now_ms) for what, each in found]})
            return
        console = formatting.console()
        for what, each in found:
            lasted = formatting.age(_lasted_s(each, now_ms))
            ended = f"for {lasted}" if each.ended_ms is not None else f"for {lasted}, and still"
            console.print(Text(f"{formatting.utc(each.since_ms)} UTC {ended}: {what}", style="bold"))
            words = formatting.said(each.status, each.code, each.message)
            console.print(formatting.indented(f"{each.reason.replace('_', ' ')}{f': {words}' if words else ''}"))
            counts = [formatting.counted(each.failures, "failure"), f"{each.refused:,} refused meanwhile"]
            counts += [] if each.backlog is None else [f"{each.backlog:,} pending at its end"]
            console.print(formatting.indented("; ".join(counts)))
        if not found:
            console.print("No outage is recorded.")


def lives(
    since: Since = None, until: Until = None, limit: Limit = LIMIT, path: FilePath = None, as_object: AsJson = False
) -> None:
    """Show who had the file open for writing, and when.

    The newest first. When the bot started, ended or was killed, and since when it sent.
    Commands that change something are listed too, as the program outbox.
    --since and --until refer to the opening. Changes nothing.

    \b
    Example:
      outbox lives --since 1d

    \b
    --json prints {path, lives: [...]}, each with these fields:
      program, pid
      opened, sends_since, closed    UTC, or null
      ended                   open, closed, or killed: or the machine stopped

    \b
    Exit codes:
      0  shown, even if there is none
      3  the file is missing, unreadable or no outbox, or a time is invalid
    """
    with looking(path, as_object=as_object) as where:
        bounds = _bounds(since, until, SystemClock().now_ms())
        found = read(where, lambda observer: find_lives(observer, *bounds, limit))
        runs = bool(holder_of(where).running)
        if as_object:
            print_json({"path": where, "lives": [_life_json(each, runs=runs) for each in found]})
            return
        console = formatting.console()
        for each in found:
            ended = _ended(each, runs=runs)
            until_words = f"{ended} {formatting.utc(each.closed_ms)}" if each.closed_ms else _ENDS[ended]
            sends = f"; sent from {formatting.utc(each.sends_ms)}" if each.sends_ms else "; sent nothing"
            who = f"{formatting.quoted(each.program or '?')}, process {each.pid or '?'}"
            console.print(Text(f"{formatting.utc(each.opened_ms)} UTC: {who}", style="bold"))
            console.print(formatting.indented(f"{until_words}{sends}"))
        if not found:
            console.print("No opening is recorded yet.")


_ENDS = {"open": "has it open", "killed": "killed, or the machine stopped"}


def _bounds(since: str | None, until: str | None, now_ms: int) -> tuple[int | None, int | None]:
    return moment_ms(since, now_ms=now_ms, field="since"), moment_ms(until, now_ms=now_ms, field="until")


def _lasted_s(outage: Outage, now_ms: int) -> float:
    return max(0, (outage.ended_ms or now_ms) - outage.since_ms) / 1000


def _outage_json(what: str, outage: Outage, now_ms: int) -> dict[str, Any]:
    return {
        "what": what,
        **formatting.fields(outage, "reason", "status", "code", "message", "since_ms", until="ended_ms"),
        "lasted_s": _lasted_s(outage, now_ms),
        **formatting.fields(outage, "failures", "refused", "backlog"),
    }


def _ended(life: Life, *, runs: bool) -> str:
    if life.closed_ms is not None:
        return "closed"
    return "open" if life.last and runs else "killed"


def _life_json(life: Life, *, runs: bool) -> dict[str, Any]:
    moments = {"opened": "opened_ms", "sends_since": "sends_ms", "closed": "closed_ms"}
    return formatting.fields(life, "program", "pid", **moments) | {"ended": _ended(life, runs=runs)}
