"""`outbox edit`: a new payload for an entry that has not arrived; the old one is kept."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from outbox.admin.commands import Renaming, report
from outbox.admin.edit import candidates, renamable
from outbox.admin.revision import Unrevised, differences, fingerprint, laid_out, renamed, revised
from outbox.cli import format as formatting
from outbox.cli.common import AsJson, FilePath, read
from outbox.cli.send_command import DONE, NOT_DONE, REFUSED, TIMEOUT_S, Command, Force, Timeout, Yes, changing
from outbox.errors import InvalidEntry, InvalidRequest
from outbox.forensics import entries
from outbox.store.selection import NOT_DEAD, Handled, Outcome

_DEFAULT_EDITOR = "notepad" if sys.platform == "win32" else "vi"


def edit(
    its_id: Annotated[str | None, typer.Argument(metavar="ID", help="The id of a dead or pending entry.")] = None,
    destination: Annotated[
        str | None, typer.Option(metavar="TABLE", help="The entry, or entries, for this one.")
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option("--rename-column", metavar="OLD=NEW", help="Rename a column, no editor.")
    ] = None,
    all_matching: Annotated[
        bool, typer.Option("--all-matching", help="With --rename-column: every entry that has it, no ID.")
    ] = False,
    source: Annotated[
        str | None, typer.Option("--from", metavar="FILE", help="Take the row from this file (-: stdin), no editor.")
    ] = None,
    force: Force = False,
    yes: Yes = False,
    timeout: Timeout = TIMEOUT_S,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Correct the row of a dead or pending entry, then send it.

    Works while a bot runs; the bot sends nothing for that moment.

    The editor is $VISUAL or $EDITOR. The row must stay a JSON object; its id,
    table and operation stay. What it was is kept: outbox show ID. The text of
    an edit that was not carried out is kept too, and the command says where.

    \b
    Examples:
      outbox edit order-17
      outbox edit order-17 --from corrected.json --yes
      outbox edit --rename-column symbl=symbol --all-matching

    \b
    Exit codes:
      0  it is pending again, with the new row
      1  it is not: nothing was edited, the entry is settled, it has changed
         meanwhile, a later entry of its key was delivered, or you said no
      2  a bot runs and has not answered in time; it will do it
      3  the file is missing or unreadable, or the row cannot be stored

    --json prints the fields of `outbox requeue`.
    """
    with changing(path, timeout, as_object=as_object) as command:
        names = _names(rename or [])
        if all_matching or its_id is None:
            _check(its_id, names, source, all_matching=all_matching)
            renaming = Renaming(names=names, destination=destination, force=force)
            raise typer.Exit(_rename_all(command, renaming, yes=yes))
        its_id = read(command.where, partial(entries.full_id, start=its_id))
        found = _the_one(read(command.where, partial(candidates, its_id=its_id, destination=destination)), its_id)
        outcome = Outcome.UNKNOWN_ID if found is None else NOT_DEAD.get(found.state)
        outcome = None if outcome is Outcome.IS_PENDING else outcome
        if found is None or outcome is not None:
            facts = report([Handled(id=its_id, destination=destination, outcome=outcome or Outcome.UNKNOWN_ID)])
            raise typer.Exit(command.tell("edit", "this command", facts))
        with _text(found, source, names) as (new, kept):
            if not _confirmed(command, found, new, yes=yes):
                kept.code = DONE  # nothing is lost: the text equals the stored row
                raise typer.Exit(NOT_DONE)
            which = {"its_id": found.id, "destination": found.destination, "was": fingerprint(found.payload)}
            asked = {**which, "payload": new, "force": force}
            kept.code = command.change("edit", asked)
            raise typer.Exit(kept.code)


def _names(given: list[str]) -> dict[str, str]:
    found = {}
    for each in given:
        old, _, new = each.partition("=")
        if not old or not new:
            raise InvalidRequest(f"{formatting.quoted(each)} is not OLD=NEW", field="rename-column")
        found[old] = new
    return found


def _check(its_id: str | None, names: Mapping[str, str], source: str | None, *, all_matching: bool) -> None:
    if not all_matching:
        raise InvalidRequest("say which: an ID, or --rename-column OLD=NEW with --all-matching", field="entries")
    if its_id is not None or source is not None:
        raise InvalidRequest("takes no ID and no --from", field="all-matching")
    if not names:
        raise InvalidRequest("needs --rename-column OLD=NEW", field="all-matching")


def _rename_all(command: Command, asked: Renaming, *, yes: bool) -> int:
    """Show how many entries have such a column, ask, and rename."""
    if not yes:
        number = read(command.where, lambda observer: renamable(observer, asked.names, asked.destination))
        if number:
            words = ", ".join(f"{old} to {new}" for old, new in asked.names.items())
            command.confirm(f"rename {words} in {formatting.counted(number, 'entry', 'entries')} and send them?")
    return command.change("rename", asked.as_json())


def _the_one(found: list[Unrevised], its_id: str) -> Unrevised | None:
    if len(found) > 1:
        tables = ", ".join(each.destination for each in found)
        raise InvalidRequest(f"{formatting.quoted(its_id)} is an id in {tables}; say which", field="destination")
    return found[0] if found else None


def _confirmed(command: Command, entry: Unrevised, new: str, *, yes: bool) -> bool:
    """Show what differs and ask; False: nothing differs."""
    changes = differences(entry.payload, revised(entry, new).payload)
    if not changes:
        command.say_unchanged("The row is as it was: nothing was changed.")
        return False
    if not yes:
        console = formatting.console(stderr=True)
        console.print(f"  {entry.destination}  {formatting.quoted(entry.id)}")
        for name, before, after in changes:
            was, now = (formatting.quoted("absent" if value is None else value) for value in (before, after))
            console.print(f"  {name}: {was} -> {now}")
        command.confirm(f"edit and send 1 {entry.state} entry?")
    return True


# ---------------------------------------------------------------------------------------------- the text


@dataclass(slots=True)
class _Kept:
    """The editor's file: removed once the exit code is DONE or if it was never changed, else its name is printed."""

    code: int | None = None


@contextlib.contextmanager
def _text(entry: Unrevised, source: str | None, names: Mapping[str, str]) -> Iterator[tuple[str, _Kept]]:
    """Yield the new row: renamed, from `source`, or from an editor, called again while the row cannot be stored."""
    kept = _Kept()
    if names:
        yield renamed(entry.payload, names) or entry.payload, kept
        return
    if source is not None:
        new = _read(source)
        revised(entry, new)  # raises before anything is asked
        yield new, kept
        return
    editor = _editor()
    descriptor, name = tempfile.mkstemp(prefix="outbox-", suffix=".json")  # 0600
    file = Path(name)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(laid_out(entry.payload))
    before = file.read_bytes()
    try:
        yield _edited(entry, editor, file), kept
    finally:
        if kept.code == DONE or _is(file, before):
            file.unlink(missing_ok=True)
        else:
            formatting.console(stderr=True).print(f"Your text is kept in {file}", soft_wrap=True)


def _is(file: Path, content: bytes) -> bool:
    try:
        return file.read_bytes() == content
    except OSError:  # the editor has removed it, or locked it
        return False


def _edited(entry: Unrevised, editor: list[str], file: Path) -> str:
    while True:
        try:
            code = subprocess.run([*editor, str(file)], check=False).returncode  # noqa: S603 - the operator's own
        except OSError as error:
            raise InvalidRequest(f"{editor[0]} cannot be started: {error.strerror}", field="EDITOR") from error
        if code != 0:
            raise InvalidRequest(f"{editor[0]} ended with code {code}", field="EDITOR")
        new = _read(str(file))
        try:
            revised(entry, new)
        except InvalidEntry as error:
            if not sys.stdin.isatty():
                raise
            formatting.complain(formatting.quoted(str(error)))
            if not typer.confirm("Edit it again?", default=True, err=True):
                raise typer.Exit(REFUSED) from None
        else:
            return new


def _read(source: str) -> str:
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{source} cannot be read: {error}", field="from") from error


def _editor() -> list[str]:
    """Return the editor's command line. Raises InvalidRequest: it is invalid, or the default editor has no terminal."""
    chosen = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not chosen and not sys.stdin.isatty():
        raise InvalidRequest("there is no terminal for an editor; --from FILE takes the row", field="EDITOR")
    words = (chosen or "").split(" ")
    for length in range(len(words), 1, -1):  # C:\\Program Files\\Editor\\editor.exe --wait
        if Path(" ".join(words[:length]).strip('"')).is_file():
            return [" ".join(words[:length]).strip('"'), *words[length:]]
    try:
        return shlex.split(chosen or _DEFAULT_EDITOR, posix=os.name != "nt") or [_DEFAULT_EDITOR]
    except ValueError as error:  # an unclosed quotation
        raise InvalidRequest(f"{chosen} is not a command: {error}", field="EDITOR") from error
