"""`outbox export`: entries as NDJSON or CSV, for a spreadsheet, a script or another database."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer

from outbox.cli import format as formatting
from outbox.cli.common import AsJson, FilePath, complaints, file_and_warnings, print_json, quiet_pipe
from outbox.cli.entries import row_json
from outbox.cli.filters import Chosen, DryRun, OfState, selecting
from outbox.errors import InvalidRequest, StoreError
from outbox.forensics import entries
from outbox.forensics.entries import Full
from outbox.store import parts
from outbox.store.read_only import look
from outbox.store.selection import Selection

# A page is one look at the file: no look lasts longer than it takes to read so many rows, however slow the reader is.
_PAGE_ROWS = 2000
_COLUMNS = (
    "seq", "id", "destination", "operation", "state", "key", "source", "created_at", "settled_at", "next_attempt_at",
    "waits", "attempts", "error_status", "error_code", "error_message", "error_details", "error_hint", "on_conflict",
    "match", "payload",
)  # fmt: skip


class Format(StrEnum):
    """How an entry is written."""

    NDJSON = "ndjson"
    CSV = "csv"


@selecting
def export(
    chosen: Chosen,
    state: OfState = None,
    form: Annotated[Format, typer.Option("--format", help="One JSON object a line, or CSV.")] = Format.NDJSON,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", readable=False, metavar="FILE", help="A new file, 0600, instead of stdout."),
    ] = None,
    after: Annotated[
        int, typer.Option("--after", metavar="SEQ", min=0, help="Only entries with a higher seq: to go on.")
    ] = 0,
    dry_run: DryRun = False,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Write entries, oldest first, to stdout or a file. Works while a bot runs; changes nothing.

    The filters are those of `outbox ls`. What is put while it runs is left out:
    the next export goes on with --after. A file gets its name once it is whole;
    until then it is a .part, which the next export to its folder removes if
    this one is killed.

    \b
    Examples:
      outbox export --state dead --format csv
      outbox export --destination trades --since 2h

    \b
    Each line of NDJSON has the fields of `outbox ls --json` and
      payload, match          as they are sent
      on_conflict             an upsert's deciding columns
    CSV has the same as columns, payload and match as JSON.

    \b
    --json, with --output or --dry-run, prints these fields at the end:
      path, exit_code, output
      entries                 how many were written
      newest                  the seq to go on with: --after

    \b
    Exit codes:
      0  written, be it nothing
      3  the file is missing, unreadable or no outbox, or --output exists
    """
    with complaints(path, as_object=as_object):
        if as_object and output is None and not dry_run:
            raise InvalidRequest("belongs to --output: stdout has the entries", field="json")
        where, _ = file_and_warnings(path)
        which = chosen(state=state)
        newest = asyncio.run(look(where, entries.newest_seq))
        written = 0  # stays so if whoever reads stdout has seen enough
        if dry_run:
            written = asyncio.run(_written(where, which, after, newest, lambda _: None))
        else:
            with _out(output) as out:
                written = asyncio.run(_written(where, which, after, newest, _writer(form, out)))
        facts = {"entries": written, "newest": max(after, newest)}
        if as_object:
            print_json({"path": str(where), "exit_code": 0, "output": None if output is None else str(output), **facts})
        elif dry_run:
            formatting.console().print(f"{written:,} entries would be written.")
        elif output is not None:
            told = f"{written:,} entries: {output}; what comes later: --after {facts['newest']}"
            formatting.console().print(told, soft_wrap=True)


async def _written(where: Path, which: Selection, after: int, newest: int, write: Callable[[Full], object]) -> int:
    written = 0
    async for page in _pages(where, which, after, newest):
        for full in page:
            write(full)
        written += len(page)
    return written


async def _pages(where: Path, which: Selection, after: int, newest: int) -> AsyncIterator[list[Full]]:
    behind: int | None = after
    while behind is not None:
        start = behind
        found, behind = await look(
            where,
            lambda observer, start=start: entries.page(  # type: ignore[misc]
                observer, which, after_seq=start, until_seq=newest, rows=_PAGE_ROWS
            ),
        )
        yield found


def _writer(form: Format, out: TextIO) -> Callable[[Full], object]:
    match form:
        case Format.NDJSON:
            return lambda full: out.write(f"{_line(full)}\n")
        case Format.CSV:
            table = csv.writer(out, lineterminator="\n")
            table.writerow(_COLUMNS)
            return lambda full: table.writerow(_cells(full))


def _line(full: Full) -> str:
    """Return an entry as one line of NDJSON. What is sent stands there as it is: a Decimal keeps its digits."""
    facts = json.dumps({**row_json(full.row), "on_conflict": full.on_conflict})
    # Line ends stand only between the parts of a JSON text, never inside one.
    return f'{facts[:-1]}, "match": {_on_one_line(full.match or "null")}, "payload": {_on_one_line(full.payload)}}}'


def _on_one_line(text: str) -> str:
    # No other line end: a string may hold U+2028 as it is.
    return text.replace("\n", " ").replace("\r", " ")


def _cells(full: Full) -> list[object]:
    facts = row_json(full.row)
    said = facts.pop("error") or {}
    facts |= {f"error_{name}": value for name, value in said.items()}
    facts |= {"on_conflict": full.on_conflict, "match": full.match, "payload": full.payload}
    return [facts.get(name) for name in _COLUMNS]


@contextlib.contextmanager
def _out(output: Path | None) -> Iterator[TextIO]:
    """Yield where to write."""
    if output is None:
        with quiet_pipe():
            formatting.tolerate(sys.stdout, formatting.IN_JSON)
            yield sys.stdout
        return
    try:
        with parts.written(output.absolute()) as part:
            with part.path.open("w", encoding="utf-8", newline="") as out:
                yield out
            part.publish()
    except OSError as error:
        raise StoreError(f"{output} cannot be written: {error.strerror}; there is no export", path=output) from error
