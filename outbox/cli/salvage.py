"""`outbox salvage` and `outbox acknowledge`: what to do after a file was damaged, or lost entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from outbox.cli import format as formatting
from outbox.cli.common import AsJson, FilePath, print_json
from outbox.cli.send_command import Command, changing, done, exit_code
from outbox.errors import StoreError
from outbox.recovery.salvage import salvage_and_rename
from outbox.store.files import real_path, wal_path
from outbox.store.read_only import is_file

_NOT_ALL = 1
_Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long to wait for a running bot.")]


def salvage(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The damaged file, such as bot.db.corrupt-...")],
    timeout: _Timeout = 60.0,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Recover entries from a damaged file.

    They keep their ids. Works while a bot runs. What no query
    finds any more is looked for page by page, in FILE and its -wal.

    Nothing is sent twice. FILE is only read, and renamed from .corrupt-... to .salvaged-... at the end.

    \b
    Example:
      outbox salvage bot.db.corrupt-20260102T100000Z --path bot.db

    \b
    Exit codes:
      0  everything that was pending or dead in it is here
      1  some could not be read, or are here as dead letters, or a session
         that was running in it has been replaced by another one
      2  a bot runs and has not answered in time; it will do it
      3  nothing can be read in it, or a file is missing

    \b
    --json prints these fields:
      path, exit_code
      pending, dead           entries brought over
      held                    brought over as dead letters: changed by the
                              damage, overtaken by a later one of their key,
                              put for another project, or an upsert or update
                              that may have been delivered
      carved                  how many of these three only their page knew of
      there                   the outbox had them already
      unreadable              [[first, last]]: numbers of entries in damage
      lost_ids                [id]: of entries of which only the id is left
      sessions                running sessions brought over: the bot goes on
      sessions_left           [session_id]: their source has another one here
      sessions_unreadable     true: there may have been more
      project_unreadable      true: the next answer decides where they belong
      kept_as                 where the damaged file is now
    """
    with changing(path, timeout, as_object=as_object) as command:
        where, source = command.where, real_path(file)
        if source.name.endswith("-wal"):
            source = source.with_name(source.name.removesuffix("-wal"))
        if not is_file(source) and not is_file(wal_path(source)):
            raise StoreError(f"{source} does not exist; nothing was changed", path=source)
        if source == where:
            raise StoreError(f"{source} is the outbox itself; give another one with --path", path=source)
        _must_be_an_outbox(where)
        _, facts = done(
            where, "salvage", {"file": str(source)}, timeout, lambda store: salvage_and_rename(store, source)
        )
        _finish(command, facts, _salvage_code(facts), _salvage_words)


def acknowledge(timeout: _Timeout = 10.0, path: FilePath = None, as_object: AsJson = False) -> None:
    """Confirm that you know which entries were lost.

    `outbox status` is healthy again. Nothing else changes.

    \b
    Example:
      outbox acknowledge

    Exit codes as `outbox reload`. --json prints path, exit_code, acknowledged.
    """
    with changing(path, timeout, as_object=as_object) as command:
        _must_be_an_outbox(command.where)
        _, facts = done(command.where, "acknowledge", {}, timeout)
        words = "Acknowledged." if facts.get("acknowledged") else "There was nothing to acknowledge."
        _finish(command, facts, exit_code(facts), lambda _: [words])


def _must_be_an_outbox(where: Path) -> None:
    """Raise StoreError if there is none: a misspelt path must not create a new outbox whose rows nobody looks for."""
    if not is_file(where):
        raise StoreError(f"{where} does not exist; nothing was changed: start the bot once, which makes it", path=where)


def _finish(
    command: Command, facts: Mapping[str, Any], code: int, words: Callable[[Mapping[str, Any]], list[str]]
) -> NoReturn:
    if command.as_object:
        print_json({"path": command.where, "exit_code": code, **facts})
    elif "request" in facts:
        formatting.console().print(
            f"The running bot has not answered yet; the request {facts['request']} is still there."
        )
    elif "error" in facts:
        formatting.console().print(f"The running bot refused: {formatting.quoted(str(facts['error']))}")
    else:
        for line in words(facts):
            formatting.say(line)
    raise typer.Exit(code)


def _salvage_code(facts: Mapping[str, Any]) -> int:
    code = exit_code(facts)
    missed = ("unreadable", "held", "sessions_left", "sessions_unreadable", "project_unreadable")
    return _NOT_ALL if not code and any(facts.get(name) for name in missed) else code  # an older bot counts no sessions


def _salvage_words(facts: Mapping[str, Any]) -> list[str]:
    brought = f"{facts['pending']:,} pending and {facts['dead']:,} dead entries brought over"
    lines = [f"{brought}; {facts['there']:,} were here."]
    if facts.get("carved"):
        lines.append(f"{facts['carved']:,} of them were found page by page: no query finds them any more.")
    if facts["held"]:
        lines.append(formatting.typed(f"{facts['held']:,} are here as dead letters: outbox ls --state dead says why."))
    for first, last in facts["unreadable"]:
        lines.append(f"Entries numbered {first:,} to {last:,}, as far as there were any, could not be read.")
    lines += [f"  lost: {formatting.quoted(each)}" for each in facts["lost_ids"]]
    if facts.get("sessions"):
        lines.append(f"{facts['sessions']:,} running sessions brought over: the bot's next start_session goes on.")
    if facts.get("project_unreadable"):
        lines.append("Which project they belong to could not be read: make sure that SUPABASE_URL names it.")
    if facts.get("sessions_unreadable"):
        lines.append("Sessions that were running could not be read.")
    for each in facts.get("sessions_left", ()):
        lines.append(
            f"Session {formatting.quoted(each)} was running, and its source has another one here: it stays RUNNING."
        )
    return [*lines, f"The damaged file is kept as {facts['kept_as']}"]
