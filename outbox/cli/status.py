"""`outbox status`: what the file says, how healthy that is, and how it is printed."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from outbox.cli import format as formatting
from outbox.cli.format import fields
from outbox.clock import SystemClock
from outbox.doctor.findings import typed as quote
from outbox.entry import LaneSpec
from outbox.forensics.changes import Change, last_refusal
from outbox.recovery.probe import found_beside, loss_at_opening
from outbox.snapshot import MOST_POSTPONED, Health, Snapshot, read
from outbox.store import lock as lock_file, queries, sqlite
from outbox.store.files import real_path
from outbox.store.lock import Holder
from outbox.store.read_once import read_once
from outbox.store.rows import PauseFacts, StoredPause
from outbox.store.sidecar import Flushing, Written

_WIDEST = 1000
_STATES = ("pending", "delivered", "dead", "discarded", "pruned", "removed")


class Rates(NamedTuple):
    """Entries put and delivered a second; empty_in_s: seconds until nothing is pending, None while that grows."""

    put_per_s: float
    delivered_per_s: float
    empty_in_s: float | None

    def as_json(self) -> dict[str, float | None]:
        left_s = None if self.empty_in_s is None else round(self.empty_in_s)
        return {
            "put_per_s": round(self.put_per_s, 1), "delivered_per_s": round(self.delivered_per_s, 1),
            "empty_in_s": left_s,
        }  # fmt: skip


class Status(NamedTuple):
    """Everything that `outbox status` shows: the file's snapshot, and who has it open. now_ms: Unix milliseconds."""

    path: Path
    now_ms: int
    file: Snapshot
    last_refusal: Change | None
    holder: Holder
    flushing: Flushing | None  # of the holder; None: not known
    tasks: Mapping[str, Any]  # the other background tasks of the running process, by name
    warnings: tuple[str, ...]
    unsent: str | None  # why nobody sends what is pending; None: nothing is, somebody does, or a pause says why
    stalled_after_s: float

    @property
    def health(self) -> Health:
        """Return the worst health that applies."""
        return self.file.health(now_ms=self.now_ms, stalled_after_s=self.stalled_after_s, unsent=self.unsent)


def read_status(path: Path, *, warnings: tuple[str, ...], stalled_after_s: float) -> Status:
    """Return the status of `path`, whoever has it open. Raises StoreError: it cannot be read."""

    def work(connection: sqlite3.Connection) -> Status:
        holder = holder_of(path)
        written = _written(path)  # before the snapshot, which then contains all acknowledged rows
        quarantined = found_beside(real_path(path))
        found = read(connection, path, damage=written.damage, quarantined=quarantined)
        if not holder.running:  # a checkpoint can only be held back while its writer runs
            found = found._replace(notices=found.notices._replace(checkpoint_held_ms=None))
        if holder.running is False and found.loss is None:
            ((seq,),) = connection.execute(queries.LAST_SEQ.sql).fetchall()
            found = found._replace(loss=loss_at_opening(path, written, seq))
        flushing = _flushing(written, holder)
        return Status(
            path=path,
            now_ms=SystemClock().now_ms(),
            file=found,
            last_refusal=last_refusal(connection),
            holder=holder,
            flushing=flushing,
            tasks=(holder.running and written.tasks) or {},
            unsent=found.unsent(bot_runs=holder.running, flushing=flushing, settings=warnings),
            warnings=(*found.notices.sentences(found.wal_bytes), *warnings),
            stalled_after_s=stalled_after_s,
        )

    return read_once(path, work)


def _written(path: Path) -> Written:
    try:
        return lock_file.written(path)
    except OSError:  # as below
        return Written()


def _flushing(written: Written, holder: Holder) -> Flushing | None:
    """Return the state of the holder's flusher, the last one if its process has ended; None: not known."""
    found = None if holder.running is None else written.flushing
    return found if found is None or holder.running else found._replace(running=False)


def holder_of(path: Path) -> Holder:
    """Return who has the file open, or had it last; unknown if this user may not see it."""
    try:
        return lock_file.look(path)
    except OSError:  # another user's sidecar: show the counts without its pid
        return Holder(None, None, running=None)


# ---------------------------------------------------------------------------------------------------- for machines


def as_json(status: Status) -> dict[str, Any]:
    """Return the object that `--json` prints; its names are promised, and described in the command's help."""
    file, refusal = status.file, status.last_refusal
    return {
        "path": status.path,
        "health": status.health.words,
        "exit_code": int(status.health),
        **{state: file.total(state) for state in _STATES},
        "oldest_pending_age_s": file.oldest_age_s(status.now_ms),
        "postponed": file.postponed,
        "unsent": status.unsent,
        "strict_order": file.strict_order,
        "destinations": {
            name: {state: states.get(state, 0) for state in _STATES}
            for name, states in sorted(file.destinations.items())
        },
        "pauses": [
            {"scope": pause.scope, "subject": subject(pause, file.lanes)}
            | fields(pause, "reason", "status", "code", "message", "failures", "since_ms", next_try="next_try_at_ms")
            for pause in file.pauses
        ],
        "last_refusal": None
        if refusal is None
        else fields(refusal, "at_ms", "event", "destination", "id", "status", "code", "message"),
        "writer": fields(status.holder, "pid", "since", "running"),
        "flusher": None if status.flushing is None else _flusher_json(status.flushing),
        "tasks": status.tasks,
        "sqlite": {
            "version": sqlite3.sqlite_version,
            "exposed_to_wal_reset_bug": sqlite.EXPOSED_TO_WAL_RESET_BUG,
        },
        **fields(file, "db_bytes", "wal_bytes", "quarantined", "damage", "loss", "pending_bytes"),
        **fields(file.notices, "reserve_released_ms", "checkpoint_held_ms", "files_lost_ms", "second_name_ms"),
        "warnings": status.warnings,
    }


def _flusher_json(flushing: Flushing) -> dict[str, Any]:
    looks = {"last_look": "looked_ms", "last_delivery": "delivered_ms"}
    errors = {"last_error": "error", "last_error_at": "error_ms"}
    return {"started": flushing.since_ms is not None} | fields(flushing, "running", "since_ms", **looks, **errors)


def lane_of(pause: PauseFacts, lanes: Mapping[int, LaneSpec]) -> LaneSpec | None:
    """Return the one lane that `pause` stops; None: it stops more, or a lane that nobody knows any more."""
    return lanes.get(int(pause.subject)) if pause.scope == "lane" and pause.subject.isdigit() else None


def subject(pause: PauseFacts, lanes: Mapping[int, LaneSpec]) -> str:
    """Return what `pause` stops, in words."""
    spec = lane_of(pause, lanes)
    return pause.subject if spec is None else spec.words()


def answer(pause: StoredPause) -> str:
    """Return what the server answered, on one line; empty: nothing, or nothing but the pause's reason again."""
    words = formatting.said(pause.status, pause.code, pause.message)
    return "" if words in (pause.reason, pause.reason.replace("_", " ")) else words


# ---------------------------------------------------------------------------------------------------- for people


def show(status: Status, console: Console) -> None:
    """Print `status` for a person; commands to type are never wrapped, however long the path."""
    console.print(_headline(status), soft_wrap=True)
    console.print(_figures(status, None))
    for words in _damages(status):
        console.print(words, soft_wrap=True)
    for words in _warnings(status):
        console.print(words)


def rendered(status: Status, rates: Rates | None) -> RenderableType:
    """Return `status` formatted for a person; rates: shown while watching."""
    return Group(_headline(status), _figures(status, rates), *_damages(status), *_warnings(status))


def _figures(status: Status, rates: Rates | None) -> RenderableType:
    parts: list[RenderableType] = [_facts(status, rates)]
    if status.file.destinations:
        parts.append(_Counts(status))
    return Group(*parts)


def _damages(status: Status) -> list[Text]:
    words = [set_aside(each, status.path) for each in status.file.quarantined]
    if status.file.damage:
        words.append(f"{formatting.quoted(status.file.damage)}; the next opening looks at the whole file")
    if status.file.loss:
        words.append(formatting.typed(f"{status.file.loss}\n  once you know: outbox acknowledge"))
    return [Text.assemble(("Damaged: ", "bold red"), each) for each in words]


def _warnings(status: Status) -> list[Text]:
    told = [warning for warning in status.warnings if warning != status.unsent]
    told += [_task(*each) for each in status.tasks.items() if each[1]["failures"] or not each[1]["running"]]
    return [Text.assemble(("Warning: ", "yellow"), warning) for warning in told]


def set_aside(quarantined: Path, path: Path) -> str:
    """Return what to say about a file that was set aside: what to type, for the outbox at `path`."""
    if quarantined.name.endswith("-wal"):
        return f"set aside: {quarantined}, which belongs to no file; look at it, then move it away"
    command = formatting.typed(f"outbox salvage {quote(quarantined)}", path)
    return f"set aside: {quarantined}\n  bring its entries over: {command}"


_COLOURS = {
    Health.HEALTHY: "green",
    Health.DEAD_LETTERS: "red",
    Health.STALLED: "yellow",
    Health.HINDERED: "yellow",
    Health.DAMAGED: "red",
}


def _headline(status: Status) -> Text:
    return Text.assemble((status.health.words, f"bold {_COLOURS[status.health]}"), f"  {status.path}")


def _facts(status: Status, rates: Rates | None) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    age_s = status.file.oldest_age_s(status.now_ms)
    oldest = "" if age_s is None else f", the oldest for {formatting.age(age_s)}"
    grid.add_row("Pending", f"{status.file.total('pending'):,}{oldest}")
    if status.file.postponed:
        many = f"{status.file.postponed:,}{' or more' if status.file.postponed >= MOST_POSTPONED else ''}"
        grid.add_row("", formatting.typed(f"{many} wait for a row of their own or are stuck: outbox show ID says why"))
    if rates is not None:
        grid.add_row("Rate", _rate(rates))
    for pause in status.file.pauses:
        grid.add_row(Text("Paused", style="bold yellow"), _pause(pause, status))
    if status.file.total("dead"):
        order = "is held back (strict_order)" if status.file.strict_order else "goes on"
        words = f"{status.file.total('dead'):,}: outbox ls --state dead; what follows under their keys {order}"
        grid.add_row("Dead", formatting.typed(words))
    if status.last_refusal is not None:
        grid.add_row("Refused", _refused(status.last_refusal, status.now_ms))
    grid.add_row("Writer", _writer(status.holder))
    if status.flushing is not None and status.holder.running:
        grid.add_row("Flusher", _flusher(status.flushing, status))
    if status.unsent is not None:
        grid.add_row(Text("Unsent", style="bold yellow"), formatting.typed(status.unsent))
    if status.file.total("pending") and not status.holder.running:
        grid.add_row("", formatting.typed("start a bot to send it, or: outbox drain"))
    danger = ", exposed to the WAL-reset bug: do not write from a shell" if sqlite.EXPOSED_TO_WAL_RESET_BUG else ""
    grid.add_row("SQLite", f"{sqlite3.sqlite_version}{danger}")
    grid.add_row("Size", f"{formatting.size(status.file.db_bytes)}, WAL {formatting.size(status.file.wal_bytes)}")
    return grid


def _rate(rates: Rates) -> str:
    left = "" if rates.empty_in_s is None else f"; none pending in {formatting.age(rates.empty_in_s)}"
    return f"{rates.delivered_per_s:,.1f} delivered a second, {rates.put_per_s:,.1f} put{left}"


def _refused(refusal: Change, now_ms: int) -> str:
    words = formatting.said(refusal.status, refusal.code, refusal.message)
    whose = f"{refusal.destination}: " if refusal.destination else ""
    return f"{whose}{words}, {formatting.ago(refusal.at_ms, now_ms)}"


def _writer(holder: Holder) -> str:
    since = f" since {holder.since}" if holder.since else ""
    if holder.running:
        return f"process {holder.pid or 'unknown'}{since}"
    if holder.running is None:
        return "not known: another user's lock file; the bot's own user may see"
    last = f"; the last was process {holder.pid}{since}" if holder.pid else ""
    return f"none{last}"


def _task(name: str, task: Mapping[str, Any]) -> str:
    state = "goes on" if task["running"] else "has ended"
    error = f", the last: {formatting.quoted(task['last_error'])}" if task.get("last_error") else ""
    return f"background task {name} {state} after {formatting.counted(task['failures'], 'error')}{error}"


def _flusher(flushing: Flushing, status: Status) -> str:
    ago, now_ms = formatting.ago, status.now_ms
    if flushing.running:
        words = "runs" if flushing.looked_ms is None else f"runs, last look {ago(flushing.looked_ms, now_ms)}"
    elif flushing.since_ms is None:
        words = "never started: this process sends nothing"
    else:
        words = f"stopped {ago(flushing.since_ms, now_ms)}: this process sends nothing"
    if flushing.delivered_ms is not None:
        words += f", last delivery {ago(flushing.delivered_ms, now_ms)}"
    if flushing.error is None or flushing.error_ms is None:
        return words
    return f"{words}\nlast error {ago(flushing.error_ms, now_ms)}: {formatting.quoted(flushing.error)}"


class _Counts(NamedTuple):
    """The entries of each destination: a table, or a line of the nonzero counts if the table does not fit."""

    status: Status

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text()
        table = self._table()
        if Measurement.get(console, options.update(max_width=_WIDEST), table).maximum <= options.max_width:
            yield table
            return
        for name, counts in sorted(self.status.file.destinations.items()):
            yield Text(name, style="red" if counts.get("dead") else "")
            yield formatting.indented(", ".join(f"{counts[state]:,} {state}" for state in _STATES if counts.get(state)))

    def _table(self) -> Table:
        file = self.status.file
        # Entries that somebody deleted before they were settled: shown if there are any, since they are a loss.
        states = [state for state in _STATES if state != "removed" or file.total(state)]
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("destination", overflow="fold", max_width=24)
        for state in states:
            table.add_column(state, justify="right")
        for name, counts in sorted(file.destinations.items()):
            style = "red" if counts.get("dead") else ""
            table.add_row(name, *(f"{counts.get(state, 0):,}" for state in states), style=style)
        if len(file.destinations) > 1:
            table.add_row("all", *(f"{file.total(state):,}" for state in states), style="bold")
        return table


def _pause(pause: StoredPause, status: Status) -> str:
    what = subject(pause, status.file.lanes) or "everything"
    due_s = (pause.next_try_at_ms - status.now_ms) / 1000
    lasts = formatting.age((status.now_ms - pause.since_ms) / 1000)
    soon = f"in {formatting.age(due_s)}" if due_s > 0 else "any moment now"
    due = soon if status.holder.running else "once a flusher runs"
    why = pause.reason.replace("_", " ")
    first = f"{formatting.quoted(what)}: {why}, for {lasts} ({formatting.counted(pause.failures, 'failure')})"
    return formatting.typed(
        f"{first}\n{answer(pause) or 'no answer'}\nnext try {due}; outbox doctor says how to fix it"
    )
