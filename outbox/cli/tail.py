"""`outbox tail`: what has just happened and, with -f, what happens next, a line each."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from outbox.cli import format as formatting
from outbox.cli.common import AsJson, FilePath, json_line, looking, quiet_pipe, read
from outbox.cli.entries import Columns, column_names, in_columns
from outbox.cli.filters import OfDestination, OfSession
from outbox.cli.status import answer, holder_of, subject
from outbox.clock import SystemClock
from outbox.errors import StoreBusy
from outbox.forensics.changes import Change
from outbox.forensics.entries import telling
from outbox.forensics.tail import START, Mark, News, news
from outbox.store.read_only import ReadOnlyStore
from outbox.store.selection import Selection
from outbox.threads import in_thread

_LINES = 10
_EVERY_S = 1.0
# What fits on a screen at one look; a draining backlog makes thousands of changes a second.
_MOST = 50


@dataclass(frozen=True, slots=True)
class Seen:
    """One look: what is new, and the current state. pauses: what is not being sent, in words, each with its reason."""

    news: News
    pauses: Mapping[str, str]
    writer: int | None  # the process that has the file open; 0: its pid is unknown


def tail(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, metavar="N", help="How many to start with.")] = _LINES,
    destination: OfDestination = None,
    session: OfSession = None,
    columns: Columns = None,
    every: Annotated[
        float, typer.Option("--every", min=0.05, metavar="SECONDS", help="How often to look, with -f.")
    ] = _EVERY_S,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Show the latest puts, deliveries, refusals and commands.

    With -f it goes on, live. Works while a bot runs, and across its restarts; changes nothing.
    Times are UTC. With -f also: pauses that begin and end, and who has the file
    open. More than 50 changes at one look are counted, not shown.

    \b
    Examples:
      outbox tail -n 20
      outbox tail --destination trades

    \b
    --json prints one object a line:
      at, event               put, delivered, refused, postponed, stuck,
                              requeued, discarded; with -f also paused,
                              resumed, opened, closed, left_out
      seq, destination, id    the entry, or null
      status, code, message   the server's words, or the operator's reason
      columns                 of a put: those of --columns, else a few; or null

    \b
    Exit codes:
      0  shown; Ctrl-C
      3  the file is missing, unreadable or no outbox
    """
    with looking(path, as_object=as_object) as where, quiet_pipe(), contextlib.suppress(KeyboardInterrupt):
        wanted = Selection.of({"destination": destination, "session": session})
        show, names = _Printer(as_object=as_object), column_names(columns)
        seen = _seen(where, START, wanted, max(lines, 1), names)
        show.changes(seen.news.changes[-lines:] if lines else ())
        while follow:
            time.sleep(every)
            before = seen
            with contextlib.suppress(StoreBusy):  # the next look may be luckier
                seen = _seen(where, before.news.mark, wanted, _MOST, names)
                show.changes([*seen.news.changes, *turns(before, seen, SystemClock().now_ms())])


def _seen(where: Path, mark: Mark, wanted: Selection, most: int, names: list[str]) -> Seen:
    async def work(observer: ReadOnlyStore) -> Seen:
        pauses, lanes = await observer.pauses(), await observer.lanes()
        found = await news(observer, mark, wanted, most=most)
        told = await telling(observer, [each.seq for each in found.changes if each.event == "put" and each.seq], names)
        changes = (
            each if each.event != "put" else each._replace(columns=told.get(each.seq or 0)) for each in found.changes
        )
        found = replace(found, changes=tuple(changes))
        stopped = {
            subject(pause, lanes) or "everything": " ".join(
                [pause.reason.replace("_", " "), *filter(None, [answer(pause)])]
            )
            for pause in pauses
        }
        holder = await in_thread(holder_of, where)
        return Seen(found, stopped, (holder.pid or 0) if holder.running else None)

    return read(where, work)


def turns(before: Seen, now: Seen, at_ms: int) -> Iterable[Change]:
    """Yield the changes between two looks that do not belong to an entry."""
    if now.news.left_out:
        yield Change(at_ms, "left_out", None, None, None, message=f"{now.news.left_out:,} more puts and deliveries")
    for what in sorted({*before.pauses, *now.pauses}):
        if what not in before.pauses:
            yield Change(at_ms, "paused", None, what, None, message=now.pauses[what])
        elif what not in now.pauses:
            yield Change(at_ms, "resumed", None, what, None)
    if before.writer != now.writer:
        if before.writer is not None:
            yield Change(at_ms, "closed", None, None, None, message=f"by process {before.writer or 'unknown'}")
        if now.writer is not None:
            yield Change(at_ms, "opened", None, None, None, message=f"by process {now.writer or 'unknown'}")


# ---------------------------------------------------------------------------------------------- how it reads

_COLOURS = {"refused": "red", "stuck": "red", "paused": "yellow", "postponed": "yellow", "delivered": "green"}


class _Printer:
    """Prints changes, and the date whenever it differs from the last one."""

    def __init__(self, *, as_object: bool) -> None:
        self._as_object = as_object
        self._console: Console = formatting.console()
        self._day = ""

    def changes(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if self._as_object:
                sys.stdout.write(json_line(change_json(change)))
            else:
                self._line(change)
        if self._console.quiet:
            raise BrokenPipeError
        sys.stdout.flush()

    def _line(self, change: Change) -> None:
        day, _, rest = formatting.moment(change.at_ms).partition("T")
        if day != self._day:
            self._day = day
            self._console.print(Text(f"{day} UTC", style="bold"))
        words = formatting.said(change.status, change.code, change.message) or in_columns(change.columns or {})
        line = Text.assemble(f"{rest[:8]}  ", (f"{change.event.replace('_', ' '):<9}", _COLOURS.get(change.event, "")))
        what = (
            f"{change.destination or '':<10}  {formatting.quoted(change.id)}"
            if change.id
            else change.destination or words
        )
        self._console.print(line.append(f"  {what}"), soft_wrap=True)
        if change.id is None and change.destination is None:
            return
        if words:
            text = Text(words, "dim", no_wrap=bool(change.columns), overflow="ellipsis")
            self._console.print(formatting.indented(text, 21))


def change_json(change: Change) -> dict[str, Any]:
    """Return a change as `--json` prints it; the names are promised in the command's help."""
    names = ("at_ms", "event", "seq", "destination", "id", "status", "code", "message", "columns")
    return formatting.fields(change, *names)
