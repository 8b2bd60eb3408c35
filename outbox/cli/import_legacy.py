"""`outbox import-legacy`: imports what the old persistence module left, and prints the result."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from outbox.cli import format as formatting
from outbox.cli.common import AsJson, FilePath, complaints, print_json
from outbox.errors import StoreError, StoreInUse
from outbox.legacy import LegacyReport, OldFile, checked_folder, import_legacy, old_files
from outbox.outbox import Outbox
from outbox.settings import Settings, load
from outbox.threads import in_thread

_ALL, _SOME = 0, 1
_SHOWN = 5


def import_old(
    folder: Annotated[Path, typer.Argument(readable=False, metavar="DIR", help="The old module's base_dir.")],
    path: FilePath = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose session it is; else OUTBOX_SOURCE, else the file's.")
    ] = None,
    as_object: AsJson = False,
) -> None:
    """Import what the old persistence module left in DIR. Running it again changes nothing.

    pending_uploads.json becomes entries, .session_state.json the session that
    the bot recovers when it starts, cache/*_bars.json cached bars. Each file is
    then renamed to *.imported, and never deleted. What cannot be read of a
    file that was cut short is reported with its place, and kept in *.unread.

    \b
    Example:
      outbox import-legacy /srv/old-bot

    \b
    Exit codes:
      0  all was taken, or there was nothing
      1  something could not be read; it is kept, everything else was taken
      3  nothing was done: a bot has the file open, or DIR is no folder

    \b
    --json prints these fields:
      path, exit_code
      taken, left             in all the files: what is new here, and places
                              that could not be read
      files                   [{file, taken, known, left, renamed, rest}]
        known                 what was stored already
        left                  [{byte, line, bytes, why}]; byte from 0
        renamed, rest         its name now, and the file of what was left, or null
      error                   only with exit code 3, beside path, health, exit_code
    """
    with complaints(path, as_object=as_object):
        settings = load(path=path, source=source)
        report = asyncio.run(_import(settings, checked_folder(folder)))  # before any file is created
        code = _SOME if report.left else _ALL
        if as_object:
            print_json(as_json(settings.path, code, report))
        else:
            show(folder, settings.path, report)
        raise typer.Exit(code)


async def _import(settings: Settings, folder: Path) -> LegacyReport:
    path = settings.path.absolute()
    if not await in_thread(old_files, folder):
        return LegacyReport()  # without old files nothing is opened or created
    try:
        async with Outbox.open(settings) as outbox:
            with formatting.progress("moving in") as told:
                return await import_legacy(outbox, folder, progress=told)
    except StoreInUse as error:
        says = f"{error}. Stop that bot, or let it call outbox.legacy.import_legacy(outbox, folder) when it starts"
        raise StoreError(says, path=path) from error


def as_json(path: Path, code: int, report: LegacyReport) -> dict[str, Any]:
    """Return the object that `--json` prints; its names are promised, and described in the command's help."""
    return {
        "path": path,
        "exit_code": code,
        "taken": report.taken,
        "left": report.left,
        "files": [
            {
                "file": file.path,
                **formatting.fields(file, "taken", "known"),
                "left": [formatting.fields(left, "byte", "line", "bytes", "why") for left in file.left],
                **formatting.fields(file, "renamed", "rest"),
            }
            for file in report.files
        ],
    }


def show(folder: Path, path: Path, report: LegacyReport) -> None:
    """Print for a person what became of each file."""
    if not report.files:
        formatting.say(f"{folder} holds none of the old module's files; nothing was changed.")
    for file in report.files:
        _show_file(file)
    if report.taken:
        formatting.say(f"{report.taken:,} moved into {path}; nothing was deleted.")


def _show_file(file: OldFile) -> None:
    console = formatting.console()
    known = f", {file.known:,} were there already" if file.known else ""
    now = f"; it is now {file.renamed.name}" if file.renamed else ""
    formatting.say(f"{file.path.name}: {file.taken:,} taken{known}{now}")
    for left in file.left[:_SHOWN]:
        console.print(f"  line {left.line:,}, byte {left.byte:,}, {left.bytes:,} bytes: {formatting.quoted(left.why)}")
    if len(file.left) > _SHOWN:
        console.print(f"  and {len(file.left) - _SHOWN:,} more places: --json lists them all")
    if file.rest:
        formatting.say(f"  kept in {file.rest}")
