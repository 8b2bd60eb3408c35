"""`outbox ls` and `outbox show`: entries, their story, and what to do next."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from outbox.admin.revision import laid_out
from outbox.cli import format as formatting
from outbox.cli.advice import advice
from outbox.cli.common import AsJson, FilePath, json_text, looking, print_json, read
from outbox.cli.filters import LIMIT, Chosen, Limit, OfState, selecting, sharing
from outbox.clock import SystemClock
from outbox.encoding import decode
from outbox.entry import State
from outbox.forensics import entries
from outbox.forensics.entries import Behind, Line, Row, Story
from outbox.store.read_only import look
from outbox.store.selection import Selection

Columns = Annotated[str | None, typer.Option("--columns", metavar="A,B", help="The columns of the row to show.")]
# Entries of one read: some 20 ms, so that no read holds the bot's WAL, and the search can stop once it has enough.
_STEP = 20_000
_SESSIONS = 5
_NOT_FOUND = 1


@selecting
def _listed(
    chosen: Chosen,
    path: FilePath = None,
    state: OfState = None,
    limit: Limit = LIMIT,
    columns: Columns = None,
    as_object: AsJson = False,
    *,
    text: str | None = None,
) -> None:
    """List the entries that are chosen and say `text`."""
    with looking(path, as_object=as_object) as where:
        search, names = Search(where, chosen(state=state, text=text), limit), column_names(columns)
        if as_object:
            asyncio.run(search.run(lambda: None))
            rows = [{**row_json(row), "columns": said} for row, said in _with_columns(where, search.rows, names)]
            print_json({"path": where, "entries": rows})
            return
        with contextlib.suppress(KeyboardInterrupt), _progress(search) as told:
            asyncio.run(search.run(told))
        _show_list(_with_columns(where, search.rows, names), limit, formatting.console())
        if not search.rows and search.ended and search.which.session is not None:
            _show_sessions(where, formatting.console())
        if not search.ended:
            formatting.console().print(f"Stopped: only the newest {search.looked:,} were looked at.")


@sharing("listed", _listed)
def ls(listed: Callable[..., None]) -> None:
    """List entries, the newest first. Works while a bot runs; changes nothing.

    With --state delivered or discarded, newest means settled last.

    Searches from the newest back until it has found enough. If few match, that
    is the whole file; Ctrl-C lists what it has found so far. --since and
    --until refer to the put.

    \b
    Examples:
      outbox ls --state dead
      outbox ls --destination trades --code 23514 --limit 5 --json
      outbox ls --session s-1 --since 2h --columns symbol,pnl
      outbox ls --since 2026-01-31T03:00 --until 2026-01-31T04:00

    \b
    --json prints {path, entries: [...]}, each entry with these fields:
      seq, id, destination, operation, state, key, source
      created_at, settled_at, next_attempt_at    UTC, or null
      waits                   turn: behind its key; retry: until next_attempt_at
      attempts                refusals of this very row
      error                   {status, code, message, details, hint}: the last
                              refusal in the server's own words, or null
      columns                 {name: value}: those of --columns, else a few

    \b
    Exit codes:
      0  listed, even if none matches
      3  the file is missing, unreadable or no outbox, or a time is invalid
    """
    listed()


@sharing("listed", _listed)
def find(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the row says somewhere: a ticket, a symbol.")],
    listed: Callable[..., None],
) -> None:
    """Find entries by what their rows say.

    The newest first; changes nothing. TEXT may be part of any value of the
    row, or of its id, in upper or lower case. Searches from the newest back;
    Ctrl-C lists what it has found so far.

    \b
    Examples:
      outbox find 4711
      outbox find eurusd --since 1d --destination trades

    --json and exit codes as `outbox ls`.
    """
    listed(text=text)


def column_names(columns: str | None) -> list[str]:
    """Return the columns named by --columns."""
    return [name.strip() for name in (columns or "").split(",") if name.strip()]


def _with_columns(where: Path, rows: list[Row], names: list[str]) -> list[tuple[Row, dict[str, Any]]]:
    seqs = [row.seq for row in rows]
    said = read(where, lambda observer: entries.telling(observer, seqs, names)) if rows else {}
    return [(row, said.get(row.seq, {})) for row in rows]


def in_columns(told: Mapping[str, Any]) -> str:
    """Return a row's values on one line: `symbol=EURUSD pnl=1.5`."""
    parts = (f"{name}={value if isinstance(value, str) else json_text(value)}" for name, value in told.items())
    return formatting.quoted(" ".join(parts))


def show(
    its_id: Annotated[str, typer.Argument(metavar="ID", help="The entry's id, or its unique beginning.")],
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Show one entry, its history, and what to do next. Changes nothing.

    Its payload, its state, the server's own words, and its history.

    \b
    Example:
      outbox show order-17

    \b
    --json prints {path, entries: [...]}: one for each destination that has the
    id, each with the fields of `outbox ls` and these:
      payload, match          as they are sent
      on_conflict             an upsert's deciding columns
      history                 [{at, event, status, code, message, batch_rows,
                              request_id}], oldest first, at most 20
      overtaken               a later entry of its key was delivered
      behind                  id of the entry of its key in front of it, or null
      pauses                  [{what, reason, status, code, message}]: that hold it
      next                    what to do, a sentence each

    \b
    Exit codes:
      0  shown
      1  no entry has this id
      3  the file is missing, unreadable or no outbox
    """
    with looking(path, as_object=as_object) as where:
        its_id = read(where, partial(entries.full_id, start=its_id))
        stories = read(where, lambda observer: entries.stories(observer, its_id))
        if as_object:
            print_json({"path": where, "entries": [story_json(story) for story in stories]})
        else:
            for story in stories:
                _show_story(story, formatting.console())
            if not stories:
                formatting.complain(f"no entry has the id {formatting.quoted(its_id)}; it may have been pruned")
        if not stories:
            raise typer.Exit(_NOT_FOUND)


# ---------------------------------------------------------------------------------------------- for machines


def row_json(row: Row) -> dict[str, Any]:
    """Return an entry as `--json` prints it; the names are promised in the command's help."""
    error = {name: getattr(row, f"error_{name}") for name in ("status", "code", "message", "details", "hint")}
    facts = formatting.fields(
        row, "seq", "id", "destination", "operation", "state", "key", "source", "created_at_ms", "settled_at_ms",
        "next_attempt_at_ms", "waits", "attempts",
    )  # fmt: skip
    return facts | {"error": error if any(each is not None for each in error.values()) else None}


def _plain(text: str) -> Any:
    """Return what `text` holds, or the text itself: Python reads less of JSON than SQLite, which took a shell's row."""
    try:
        return decode(text)
    except (ValueError, RecursionError):
        return text


def story_json(story: Story) -> dict[str, Any]:
    """Return an entry with its story as `--json` prints it."""
    return {
        **row_json(story.row),
        "payload": _plain(story.payload),
        "match": None if story.match is None else _plain(story.match),
        "on_conflict": story.on_conflict,
        "history": [formatting.fields(line, *_LINE) for line in story.history],
        "overtaken": story.overtaken,
        "behind": story.behind,
        "pauses": [
            {"what": what} | formatting.fields(each, "reason", "status", "code", "message")
            for what, each in story.pauses
        ],
        "next": advice(story),
    }


_LINE = ("at_ms", "event", "status", "code", "message", "batch_rows", "request_id")


# ---------------------------------------------------------------------------------------------- for people


class Search:
    """A search through entries, step by step from the newest back. looked: how many it has read so far."""

    def __init__(self, where: Path, which: Selection, limit: int) -> None:
        self._where = where
        self.which = which
        self._limit = limit
        self.rows: list[Row] = []
        self.looked: int = 0
        self.ended: bool = False

    async def run(self, told: Callable[[], None]) -> None:
        """Search until enough is found, or to the end; `told` is called after each step but the last."""
        behind: Behind | None = None
        while not self.ended:
            left = self._limit - len(self.rows)
            step = partial(entries.listed, wanted=self.which, limit=left, rows=_STEP, behind=behind)
            found, behind = await look(self._where, step)
            self.rows += found
            self.looked += _STEP
            self.ended = behind is None or len(self.rows) == self._limit
            if not self.ended:
                told()


@contextlib.contextmanager
def _progress(search: Search) -> Iterator[Callable[[], None]]:
    """Yield a function that shows the progress of `search` on a terminal; a search of one step shows nothing."""
    status = formatting.console(stderr=True).status("")

    def told() -> None:
        status.update(f"{search.looked:,} looked at, {len(search.rows):,} found; Ctrl-C lists these")
        if status.console.is_terminal:
            status.start()

    try:
        yield told
    finally:
        status.stop()


def _show_sessions(where: Path, console: Console) -> None:
    names = [formatting.quoted(name) for name in read(where, entries.sessions)]
    if names:
        more = f" and {len(names) - _SESSIONS:,} more" if len(names) > _SESSIONS else ""
        console.print(f"The last session of each bot that keeps its state here: {', '.join(names[:_SESSIONS])}{more}")


def _show_list(found: list[tuple[Row, dict[str, Any]]], limit: int, console: Console) -> None:
    now_ms, rows = SystemClock().now_ms(), [row for row, _ in found]
    ages = [formatting.ago(row.created_at_ms, now_ms) for row in rows]
    width = max((len(row.id) for row in rows), default=0)
    needed = max((len(f"{row.destination}  {age}") for row, age in zip(rows, ages, strict=True)), default=0)
    if width + 2 + 9 + 2 + needed > console.width:  # one long id must not push all other columns over the edge
        width = 0
    for (row, told), age in zip(found, ages, strict=True):
        line = f"{formatting.quoted(row.id):<{width}}  {row.state:<9}  {row.destination}  {age}"
        console.print(line, no_wrap=len(line) <= console.width, soft_wrap=not console.is_terminal)
        for words in (in_columns(told), formatting.said(row.error_status, row.error_code, row.error_message)):
            if words:
                console.print(Text(f"  {words}", style="dim"), overflow="ellipsis", no_wrap=True)
    if not rows:
        console.print("No entry matches.")
    if any(row.state == State.DEAD for row in rows):
        advice = "what to do about one:            outbox show ID\nwhat they died of, and how many: outbox dead"
        formatting.say(formatting.typed(advice))
    if len(rows) == limit:
        console.print(f"The newest {limit:,}; --limit shows more.")


def _show_story(story: Story, console: Console) -> None:
    row = story.row
    console.print(
        Text.assemble((row.state, "bold"), f"  {row.destination}  ", formatting.quoted(row.id)), soft_wrap=False
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    for name, value in _facts(story):
        grid.add_row(name, value)
    console.print(grid)
    console.print("payload")
    for line in laid_out(story.payload).splitlines():
        console.print(f"  {formatting.plain(line)}")
    if story.history:
        console.print("history")
    for each in story.history:
        console.print(formatting.indented(f"{formatting.utc(each.at_ms)}  {_told(each)}"))
    console.print(Text("what next", style="bold"))
    for sentence in advice(story):
        words = formatting.quoted(sentence)
        if "outbox " in words:
            formatting.say(f"  {words}")
        else:
            console.print(formatting.indented(words))


def _facts(story: Story) -> list[tuple[str, str]]:
    row = story.row
    facts = [
        ("operation", row.operation + (f" on {story.on_conflict}" if story.on_conflict else "")),
        ("key", formatting.quoted(row.key) if row.key else ""),
        ("match", formatting.quoted(story.match) if story.match else ""),
        ("put", formatting.moment(row.created_at_ms) + (f" by {formatting.quoted(row.source)}" if row.source else "")),
        (row.state, "" if row.settled_at_ms is None else formatting.moment(row.settled_at_ms)),
        ("next try", "" if row.next_attempt_at_ms is None else formatting.moment(row.next_attempt_at_ms)),
        ("refused", formatting.counted(row.attempts, "time") if row.attempts else ""),
        ("it said", formatting.said(row.error_status, row.error_code, row.error_message)),
        ("details", formatting.quoted(row.error_details or "")),
        ("hint", formatting.quoted(row.error_hint or "")),
    ]
    return [(name, value) for name, value in facts if value]


def _told(line: Line) -> str:
    batch = f" (in a batch of {line.batch_rows:,})" if line.batch_rows and line.batch_rows > 1 else ""
    named = f" [request {formatting.quoted(line.request_id)}]" if line.request_id else ""
    words = formatting.said(line.status, line.code, line.message)
    return f"{line.event}{f': {words}' if words else ''}{batch}{named}"
