"""`outbox drain`: send what is pending, with a bar on a terminal."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from outbox.cli import format as formatting
from outbox.cli.common import AsJson, FilePath, complaints, print_json
from outbox.cli.status import set_aside
from outbox.errors import StoreError, StoreInUse
from outbox.outbox import Outbox
from outbox.recovery.probe import found_beside
from outbox.settings import Settings, load
from outbox.snapshot import Health
from outbox.stats import DrainReport
from outbox.store.files import real_path
from outbox.store.read_only import look

# Ten updates a second look alive and cost one read of a counter each.
_REFRESH_S = 0.1


def drain(
    path: FilePath = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long to try.")] = 30.0,
    as_object: AsJson = False,
) -> None:
    """Send what is pending to Supabase, now.

    It ends when nothing is left, the time is up, or what is left waits for
    somebody to act: a wrong key, a missing table, another project. A running
    bot sends by itself and keeps the file to itself: stop it first.

    \b
    Example:
      outbox drain --timeout 60

    \b
    Exit codes:
      0  nothing is pending any more; dead letters, if any, are reported
      2  something is left: the time was up, somebody has to act first, or
         what was pending is in a damaged file that was set aside
      3  the file is missing, unreadable, or open for writing elsewhere

    \b
    --json prints these fields:
      path, exit_code
      delivered               entries sent in this drain
      pending, dead           entries now
      seconds                 how long it took
      timed_out               whether the time was up
      held_by                 why it ended before that: what somebody has to
                              fix first, a sentence, or null
      quarantined             [path]: damaged files that were set aside
      warnings                [sentence]: what keeps entries from arriving
      error                   only with exit code 3, beside path, health, exit_code
    """
    with complaints(path, as_object=as_object):
        settings = load(path=path)
        report = asyncio.run(_drain(settings, timeout))
        damaged = found_beside(real_path(settings.path))
        code = Health.STALLED if report.pending or damaged else Health.HEALTHY
        if as_object:
            facts = asdict(report) | {"quarantined": damaged, "warnings": settings.warnings}
            print_json({"path": settings.path, "exit_code": int(code), **facts})
        else:
            _show_report(report, settings)
            for each in damaged:
                formatting.say(f"Damaged: {set_aside(each, settings.path)}")
        raise typer.Exit(code)


# ---------------------------------------------------------------------------------------------------- draining


async def _drain(settings: Settings, timeout: float) -> DrainReport:
    """Drain with a progress bar on a terminal. Raises StoreInUse, and whatever else prevents opening the file."""
    path = settings.path.absolute()
    await look(path, lambda observer: observer.counts())  # raises unless it is an outbox: no other file must become one
    try:
        async with Outbox.open(settings) as outbox:
            work = asyncio.create_task(outbox.drain(timeout))
            console = formatting.console(stderr=True)
            if console.is_terminal:
                await _watch(outbox, work, console)
            return await work
    except StoreInUse as error:
        hint = StoreError(
            f"{error}. A bot that runs its flusher sends by itself; stop it to drain from here", path=path
        )
        raise hint from error


class RowsPerSecond(ProgressColumn):
    """The speed of the bar."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


# Done and total, the speed, and the time left.
BAR: tuple[ProgressColumn, ...] = (
    TextColumn("draining"), BarColumn(), MofNCompleteColumn(), RowsPerSecond(), TimeRemainingColumn(),
)  # fmt: skip


async def _watch(outbox: Outbox, work: asyncio.Task[DrainReport], console: Console) -> None:
    """Show how far `work` has come until it is done."""
    start = await outbox.stats()
    with Progress(*BAR, console=console, transient=True) as progress:
        bar = progress.add_task("", total=start.pending)
        while not work.done():
            await asyncio.wait({work}, timeout=_REFRESH_S)
            stats = await outbox.stats()
            progress.update(bar, completed=max(0, start.pending - stats.pending))


def _show_report(report: DrainReport, settings: Settings) -> None:
    console, took = formatting.console(), f"{report.seconds:.1f} s"
    console.print(f"{report.delivered:,} delivered in {took}; {report.pending:,} pending, {report.dead:,} dead.")
    if report.timed_out:
        words = "The time was up; what is pending stays pending. What is in the way: outbox status"
        formatting.say(formatting.typed(words))
    if report.held_by and report.held_by not in settings.warnings:
        formatting.say(f"Held back: {formatting.quoted(report.held_by)}")
        formatting.say(formatting.typed("What is pending stays pending. How to fix it: outbox doctor"))
    if report.dead:
        formatting.say(formatting.typed("Why entries are dead, and what to type: outbox dead"))
    for warning in settings.warnings:
        console.print(f"Warning: {warning}")
