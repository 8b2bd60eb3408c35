"""`outbox export`: entries as NDJSON or CSV, for a spreadsheet, a script or another database."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from outbox.cli import format as formatting
from outbox.cli.common import AsJson, FilePath, looking, print_json, quiet_pipe, read
from outbox.cli.filters import Chosen, DryRun, OfState, selecting
from outbox.cli.streams import IN_JSON, tolerate
from outbox.errors import InvalidRequest, StoreError
from outbox.forensics import entries, export as export_of
from outbox.store import parts
from outbox.store.read_only import look
from outbox.store.selection import Selection

# A page is one read of the file: it lasts no longer than so many rows take, however slow the consumer is.
_PAGE_ROWS = 5000


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
      0  written, even if none matches
      3  the file is missing, unreadable or no outbox, or --output exists
    """
    with looking(path, as_object=as_object) as where:
        if as_object and output is None and not dry_run:
            raise InvalidRequest("belongs to --output: stdout has the entries", field="json")
        which = chosen(state=state)
        newest = read(where, entries.newest_seq)
        written = 0  # stays 0 if the reader of stdout stops early
        if dry_run:
            written = asyncio.run(_written(where, which, after, newest, export_of.COUNTED, lambda _: None))
        else:
            with _out(output) as out:
                written = asyncio.run(_written(where, which, after, newest, *_writer(form, out)))
        facts = {"entries": written, "newest": max(after, newest)}
        if as_object:
            print_json({"path": where, "exit_code": 0, "output": output, **facts})
        elif dry_run:
            formatting.say(f"{written:,} entries would be written.")
        elif output is not None:
            formatting.say(f"{written:,} entries: {output}; what comes later: --after {facts['newest']}")


async def _written(
    where: Path, which: Selection, after: int, newest: int, selected: str, write: Callable[[list[Any]], object]
) -> int:
    written = 0
    behind: int | None = after
    while behind is not None:
        page = partial(export_of.page, wanted=which, selected=selected, rows=_PAGE_ROWS)
        found, behind = await look(where, partial(page, after_seq=behind, until_seq=newest))
        write(found)
        written += len(found)
    return written


def _writer(form: Format, out: TextIO) -> tuple[str, Callable[[list[Any]], object]]:
    """Return what to select for a format, and a function that writes a page of it."""
    match form:
        case Format.NDJSON:
            return export_of.LINE, lambda page: out.writelines(f"{_on_one_line(line)}\n" for (line,) in page)
        case Format.CSV:
            table = csv.writer(out, lineterminator="\n")
            table.writerow(export_of.COLUMNS)
            return export_of.CELLS, table.writerows


def _on_one_line(text: str) -> str:
    # A JSON text has line ends only between its parts, never inside a string. No other kind: a string may hold U+2028.
    return text.replace("\n", " ").replace("\r", " ")


@contextlib.contextmanager
def _out(output: Path | None) -> Iterator[TextIO]:
    """Yield the stream to write to."""
    if output is None:
        with quiet_pipe():
            tolerate(sys.stdout, IN_JSON)
            yield sys.stdout
        return
    try:
        with parts.written(output.absolute()) as part:
            with part.path.open("w", encoding="utf-8", newline="") as out:
                yield out
            part.publish()
    except OSError as error:
        raise StoreError(f"{output} cannot be written: {error.strerror}; there is no export", path=output) from error
