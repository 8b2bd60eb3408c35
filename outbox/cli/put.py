"""`outbox put`: rows from a shell, cron or another language; into the file, or through a running bot."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NoReturn

import typer

from outbox.admin.commands import Commands, Put
from outbox.admin.revision import exact_json, json_object
from outbox.cli import format as formatting
from outbox.cli.common import AsJson, FilePath, in_flags, print_json
from outbox.cli.send_command import NO_ANSWER, REFUSED, TIMEOUT_S, Command, Timeout, changing, done
from outbox.clock import SystemClock
from outbox.encoding import encode_row
from outbox.errors import InvalidEntry, InvalidRequest, OutboxError
from outbox.prepare import mint_ids
from outbox.puts import Destinations
from outbox.settings import load
from outbox.store.store import Store

# One commit of the running bot, which reads and encodes them on its event loop.
_BATCH_BYTES = 400_000
_CHUNK = 65_536


def put(
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="The table.")],
    row: Annotated[
        str, typer.Argument(metavar="JSON|-", help="One row, or a list of them; -: one row a line from stdin.")
    ] = "-",
    operation: Annotated[
        str | None, typer.Option("--operation", metavar="WORD", help="insert, upsert or update; else the table's.")
    ] = None,
    on_conflict: Annotated[
        str | None,
        typer.Option("--on-conflict", metavar="COLUMNS", help="The columns that decide an upsert, with commas."),
    ] = None,
    match: Annotated[str | None, typer.Option("--match", metavar="JSON", help="Which rows an update changes.")] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="TEXT", help="Rows of one key arrive in order.")] = None,
    its_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The idempotency key: the same id is stored once.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="If the id is stored already, keep that row.")] = False,
    timeout: Timeout = TIMEOUT_S,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Put rows from a shell, cron or another language. They are on disk when it returns.

    While a bot runs they go through its inbox, which it reads once a second
    (OUTBOX_POLL_S). Otherwise they go straight into the file, which is created
    if missing. Lines that arrive together on a pipe are one commit: all of
    them, or none.

    \b
    Examples:
      outbox put events '{"event_type": "BACKUP", "timestamp": "2026-01-31T06:00:00Z"}'
      ./fills --follow | outbox put fills - --keep

    \b
    Exit codes:
      0  stored
      2  a bot runs and has not answered in time; what is said to wait is on
         disk, and is stored by it or by the next one
      3  refused: what was refused is named, and nothing of it was stored

    \b
    --json prints these fields:
      path, exit_code
      put                     how many rows are stored, duplicates included
      duplicates              how many of them were there already
      ids                     their ids, at most 1,000
      requests                names of those that wait for an answer
      by                      this command, or: the running bot
      error                   only if some were refused
    """
    with changing(path, timeout, as_object=as_object) as command:
        options: dict[str, Any] = {
            "operation": operation,
            "key": key,
            "on_conflict": None if on_conflict is None else [name.strip() for name in on_conflict.split(",")],
            "match": match,
            "if_exists": "keep" if keep else None,
        }
        told = _Told()

        async def local(store: Store) -> Mapping[str, Any]:
            known = Destinations(store, clock=SystemClock(), source=load(path=path).source)
            return await Commands(store, clock=SystemClock(), destinations=known).actions["put"](asked)

        try:
            for rows in _batches(row):
                if its_id is not None and (len(rows) != 1 or told.put):
                    raise InvalidRequest("belongs to one row", field="id")
                minted = None if keep else mint_ids(SystemClock().now_ms(), os.urandom(10 * len(rows)))
                ids = minted if its_id is None else [its_id]
                asked = Put.of({"destination": destination, "rows": rows, "ids": ids, **options}).as_json()
                if not told.add(*done(command.where, "put", asked, timeout, local)):
                    break
        except OutboxError as error:
            if not told.put and not told.requests:
                raise
            told.error = in_flags(error)  # of a later line: what stood before it is stored
        _finish(command, told)


class _Told:
    """The result so far."""

    def __init__(self) -> None:
        self.put = self.duplicates = 0
        self.ids: list[str] = []
        self.requests: list[str] = []
        self.by = "this command"
        self.error: str | None = None

    def add(self, by: str, facts: Mapping[str, Any]) -> bool:
        """Note the result of one batch; False: it was refused, and no other should follow."""
        self.by = by
        if "request" in facts:
            self.requests.append(str(facts["request"]))
        elif "error" in facts:
            self.error = str(facts["error"])
            return False
        else:
            self.put += facts["put"]
            self.duplicates += facts["duplicates"]
            self.ids += facts["ids"][: 1000 - len(self.ids)]
        return True


def _finish(command: Command, told: _Told) -> NoReturn:
    code = REFUSED if told.error is not None else NO_ANSWER if told.requests else 0
    if command.as_object:
        facts = formatting.fields(told, "put", "duplicates", "ids", "requests", "by")
        error = {} if told.error is None else {"error": told.error}
        print_json({"path": command.where, "exit_code": code, **facts, **error})
    else:
        console = formatting.console()
        there = f", {told.duplicates:,} of them already stored" if told.duplicates else ""
        whose = "" if told.by == "this command" else " by the running bot"
        console.print(f"{told.put:,} put{whose}{there}.")
        if told.requests:
            console.print(
                f"The running bot has not answered within {command.timeout_s:g} s: {len(told.requests):,} requests wait"
                " on disk and will be carried out by it, or by the next one that opens the file."
            )
        if told.error is not None:
            console.print(f"What comes after them was not acknowledged: {formatting.quoted(told.error)}")
    raise typer.Exit(code)


# ---------------------------------------------------------------------------------------------- reading rows


def _batches(text: str) -> Iterator[list[str]]:
    """Yield rows to store together, as JSON. Raises InvalidEntry, which names the line; lines before it were given."""
    if text != "-":
        found = exact_json(text, "row")
        rows = found if isinstance(found, list) else [found]
        if not all(isinstance(row, dict) for row in rows):
            raise InvalidEntry("must be a JSON object, or a list of them", field="row")
        yield [encode_row(row, where="row").text for row in rows]
        return
    texts, size = list[str](), 0
    for number, (line, last) in enumerate(_lines(), 1):
        row = line.decode(errors="surrogateescape").strip().removeprefix("\ufeff")  # PowerShell begins with one
        if row:
            json_object(row, f"line {number}")
            if texts and size + len(line) > _BATCH_BYTES:
                yield texts
                texts, size = [], 0
            texts.append(row)
            size += len(line)
        if texts and last:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


def _lines() -> Iterator[tuple[bytes, bool]]:
    """Yield the lines of stdin, each with whether no other is available at the moment."""
    stdin, rest = sys.stdin.fileno(), b""
    while chunk := os.read(stdin, _CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        for number, line in enumerate(lines, 1):
            yield line, number == len(lines) and not _more(stdin)
    if rest:
        yield rest, True


def _more(stdin: int) -> bool:
    if os.name == "nt":  # select knows only sockets there
        return True
    return bool(select.select([stdin], [], [], 0)[0])
