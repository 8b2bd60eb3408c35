"""The commands: argv to calls, results to text, JSON and exit codes."""

from __future__ import annotations

import asyncio
import os
import platform
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from typer.core import TyperGroup

from outbox import __version__
from outbox.cli import (
    dead_letters,
    edit,
    entries,
    export,
    format as formatting,
    import_legacy,
    inspection,
    outages,
    pages,
    prune_backup,
    put,
    resend,
    salvage,
    schema,
    tail,
)
from outbox.cli.common import AsJson, FilePath, complaints, file_and_warnings, print_json
from outbox.cli.doctor import doctor
from outbox.cli.status import Status, as_json, read_status, set_aside, show
from outbox.cli.watch import watch
from outbox.errors import StoreError, StoreInUse
from outbox.outbox import Outbox
from outbox.recovery.quarantine import found_beside
from outbox.settings import Settings, load
from outbox.stats import STALLED_AFTER_S, DrainReport, Health
from outbox.store.files import real_path
from outbox.store.read_only import look

# The longest pause after failures, unless set otherwise: what is older has had its try.
_STALLED_AFTER_MIN = STALLED_AFTER_S / 60
_WATCH_EVERY_S = 2.0
# A bar that moves ten times a second looks alive and costs a counter's read each time.
_REFRESH_S = 0.1


class _Commands(TyperGroup):
    """`outbox FILE` is `outbox status FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-") and _is_file(args[0]):
            args = ["status", *args]
        return super().parse_args(ctx, args)


def _is_file(word: str) -> bool:
    return os.sep in word or Path(word).suffix in (".db", ".sqlite", ".sqlite3") or Path(word).is_file()


app: typer.Typer = typer.Typer(
    cls=_Commands,
    help="Look at an outbox file, and send what waits in it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(given: bool) -> None:
    if given:
        typer.echo(f"outbox {__version__}, SQLite {sqlite3.sqlite_version}, Python {platform.python_version()}")
        raise typer.Exit


_Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version and exit.")
]


@app.callback()
def main(version: _Version = False) -> None:
    """Look at an outbox file, and send what waits in it."""


def status(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="As --path.", readable=False)] = None,
    path: FilePath = None,
    as_object: AsJson = False,
    stalled_after: Annotated[
        float,
        typer.Option("--stalled-after", metavar="MINUTES", min=0, help="Pending for longer than this is stalled."),
    ] = _STALLED_AFTER_MIN,
    again: Annotated[bool, typer.Option("--watch", "-w", help="Repeat, with rates, until Ctrl-C.")] = False,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.1, help="How often, with --watch.")
    ] = _WATCH_EVERY_S,
) -> None:
    """Show what is pending, dead or paused, and who writes. Works while a bot runs; changes nothing.

    \b
    Examples:
      outbox status bot.db
      outbox status --stalled-after 10
      outbox status --json

    \b
    Exit codes, the worst that holds; 5 outranks 2, and 2 outranks 4 and 1:
      0  healthy
      1  dead letters: the server refused entries for good; they are kept
      2  stalled: something is paused, or pending for more than --stalled-after,
         or nobody sends what is pending: no flusher has ever run, no URL is set
      3  the file is missing, unreadable or no outbox
      4  hindered: the disk is full, a reader keeps the WAL from shrinking, or
         files were removed under the bot
      5  damaged: a damaged file was set aside, or entries are lost

    \b
    --json prints these fields:
      path, health, exit_code
      pending, delivered, dead, discarded, pruned, removed    entries
      oldest_pending_age_s    seconds, or null
      postponed               pending entries that wait for a row of their own
                              or are stuck; 1,000 is that many or more
      unsent                  why nobody sends what is pending, a sentence, or null
      strict_order            whether a dead entry holds back its key
      destinations            {name: {pending, delivered, dead, ...}}
      pauses                  [{scope, subject, reason, status, code, message,
                              failures, since, next_try}]
      last_refusal            {at, event, destination, id, status, code,
                              message}: the server's latest refusal of an
                              entry, or null
      writer                  {pid, since, running}; not running: the last one;
                              null: not known, the lock file is another user's
      flusher                 {started, running, since, last_look, last_delivery,
                              last_error, last_error_at}: of the writer, which
                              sends; last_look is at most a minute old unless
                              it rests after errors; last_error: the bot's own,
                              not the server's words; null: not known
      tasks                   {name: {running, failures, last_error}}: the writer's
                              other background tasks; {}: none runs, or not known
      sqlite                  {version, exposed_to_wal_reset_bug}, this command's
      db_bytes, wal_bytes, pending_bytes    the last one: of pending payloads
      reserve_released        since when the disk is full and puts are refused,
                              or null
      checkpoint_held         since when a reader keeps the WAL from shrinking,
                              or null
      files_lost              since when files are known to be removed or replaced
                              under the bot, or null
      second_name             since when the file has a hard link, or null
      quarantined             [path]: damaged files that were set aside
      damage, loss            sentences, or null
      warnings                [sentence]: what hinders the file, and what keeps
                              entries from arriving
      error                   only with exit code 3, beside path, health, exit_code

    \b
    With --watch one such object for each look, and
      at                      UTC
      put_per_s, delivered_per_s    over the last ten looks, or null
      empty_in_s              until nothing is pending, or null
    """
    path = path if file is None else file
    with complaints(path, as_object=as_object):
        where, warnings = file_and_warnings(path)

        def read() -> Status:
            return asyncio.run(read_status(where, warnings=warnings, stalled_after_s=stalled_after * 60))

        if again:
            raise typer.Exit(watch(read, every, as_object=as_object))
        found = read()
        if as_object:
            print_json(as_json(found))
        else:
            show(found, formatting.console())
        raise typer.Exit(found.health)


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
        left = bool(report.pending or damaged)
        if as_object:
            more = {"quarantined": [str(each) for each in damaged], "warnings": list(settings.warnings)}
            facts = asdict(report) | more
            print_json({"path": str(settings.path), "exit_code": int(_left(left)), **facts})
        else:
            _show_report(report, settings, formatting.console())
            for each in damaged:
                formatting.console().print(f"Damaged: {set_aside(each, settings.path)}", soft_wrap=True)
        raise typer.Exit(_left(left))


def _left(left: bool) -> Health:
    return Health.STALLED if left else Health.HEALTHY


# ---------------------------------------------------------------------------------------------------- draining


async def _drain(settings: Settings, timeout: float) -> DrainReport:
    """Drain with a progress bar on a terminal. Raises StoreInUse, and what else keeps the file from being opened."""
    path = settings.path.absolute()
    await look(path, lambda observer: observer.counts())  # it is an outbox, or says what it is: none is made of it
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
    """How fast the bar moves."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


# How many of how many, how fast, and how long still.
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


def _show_report(report: DrainReport, settings: Settings, console: Console) -> None:
    took = f"{report.seconds:.1f} s"
    console.print(f"{report.delivered:,} delivered in {took}; {report.pending:,} pending, {report.dead:,} dead.")
    if report.timed_out:
        words = "The time was up; what is pending stays pending. What is in the way: outbox status"
        console.print(formatting.typed(words), soft_wrap=True)
    if report.held_by and report.held_by not in settings.warnings:
        console.print(f"Held back: {formatting.quoted(report.held_by)}", soft_wrap=True)
        console.print(formatting.typed("What is pending stays pending. How to fix it: outbox doctor"), soft_wrap=True)
    for warning in settings.warnings:
        console.print(f"Warning: {warning}")


# In the order in which somebody with a problem needs them.
for _command in (
    status, tail.tail, entries.ls, entries.find, entries.show, outages.outages, outages.lives, dead_letters.dead,
    dead_letters.requeue, edit.edit, dead_letters.discard, dead_letters.reload, drain, put.put, resend.resend,
    dead_letters.adopt, doctor, prune_backup.prune, prune_backup.backup, export.export, inspection.inspect,
    salvage.salvage, salvage.acknowledge,
):  # fmt: skip
    app.command()(_command)
app.command("help")(pages.show_help)
app.command("import-legacy")(import_legacy.import_old)
app.add_typer(schema.app, name="schema")
