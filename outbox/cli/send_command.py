"""A change to the file: confirmed, then done here if no bot runs, else by the bot."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from outbox.admin import inbox
from outbox.admin.commands import Commands
from outbox.cli import format as formatting
from outbox.cli.common import complaints, file_and_warnings, print_json
from outbox.clock import SystemClock
from outbox.errors import StoreInUse
from outbox.recovery.open import open_store
from outbox.store import lock as lock_file
from outbox.store.files import real_path
from outbox.store.selection import Outcome
from outbox.store.store import Store

DONE, NOT_DONE, NO_ANSWER, REFUSED = 0, 1, 2, 3
TIMEOUT_S = 10.0
# How often to look for the answer; the bot looks for the request every OUTBOX_POLL_S, 1 s.
_LOOK_S = 0.05
SHOWN = 5
_CHANGED = {Outcome.REQUEUED, Outcome.DISCARDED}
_SENDING = "To send what is pending, start the bot, or: outbox drain"

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long to wait for a running bot to answer.")]
Force = Annotated[bool, typer.Option("--force", help="Even if it reverts a later, delivered entry.")]

Local = Callable[[Store], Awaitable[Mapping[str, Any]]]
NOTHING: Mapping[str, Any] = {"outcomes": {}, "done": 0, "entries": [], "left_out": 0}


def file_of(path: Path | None) -> Path:
    """Return the file to change, with symbolic links resolved. Raises ConfigError, StoreError."""
    return real_path(file_and_warnings(path)[0])


@dataclass(frozen=True, slots=True)
class Command:
    """A change to the file `where`, as it was typed: how long a running bot may take, and how the result is printed."""

    where: Path
    timeout_s: float
    as_object: bool

    def confirm(self, question: str, nothing: Mapping[str, Any] = NOTHING) -> None:
        """Ask; on a no, print that nothing was changed, and exit with code 1."""
        try:
            agreed = typer.confirm(question, err=True)
        except typer.Abort:  # Ctrl-C, or no terminal to answer at
            agreed = False
            typer.echo(err=True)
        if not agreed:
            self.say_unchanged("Nothing was changed; --yes answers for a script.", nothing)
            raise typer.Exit(NOT_DONE)

    def say_unchanged(self, words: str, nothing: Mapping[str, Any] = NOTHING) -> None:
        """Print that nothing was changed: `words`, or an object with `nothing`."""
        if self.as_object:
            print_json({"path": self.where, "exit_code": NOT_DONE, "by": None, **nothing})
        else:
            formatting.console(stderr=True).print(words)

    def change(self, action: str, arguments: Mapping[str, Any], local: Local | None = None) -> int:
        """Make the change, or have it made; print the result and return the exit code. local: as `done`."""
        return self.tell(action, *done(self.where, action, arguments, self.timeout_s, local))

    def tell(self, action: str, by: str, facts: Mapping[str, Any]) -> int:
        """Print the result of a change and return the exit code."""
        code = exit_code(facts)
        if self.as_object:
            print_json({"path": self.where, "exit_code": code, "by": by, **facts})
        else:
            for line in outcome_lines(action, by, facts, self.timeout_s):
                formatting.console().print(formatting.typed(line), soft_wrap="outbox " in line)
        return code


@contextlib.contextmanager
def changing(path: Path | None, timeout_s: float, *, as_object: bool) -> Iterator[Command]:
    """Give the command that changes the file, by --path or the settings; report an error as `complaints` does."""
    with complaints(path, as_object=as_object):
        yield Command(file_of(path), timeout_s, as_object)


def done(
    where: Path, action: str, arguments: Mapping[str, Any], timeout_s: float, local: Local | None = None
) -> tuple[str, dict[str, Any]]:
    """Make the change, or have it made. Return who made it, and the result. local: the local action, if it differs."""
    do = local or (lambda store: Commands(store, clock=SystemClock()).actions[action](arguments))
    until_s = time.monotonic() + timeout_s
    while True:
        try:
            return "this command", dict(asyncio.run(_alone(where, do)))
        except StoreInUse:
            request = inbox.post(where, action, arguments)
        answer = _answer(where, request, until_s)
        if answer is not None:
            return "the running bot", {"ok": False, **answer}
        if time.monotonic() >= until_s or not _taken_back(where, request):
            return "the running bot", {"request": request.name}
        # The bot has ended meanwhile, and the request was withdrawn: start over.


async def _alone(where: Path, do: Local) -> Mapping[str, Any]:
    store = await open_store(where, clock=SystemClock())
    try:
        return await do(store)
    finally:
        await store.close()


def _answer(where: Path, request: inbox.Request, until_s: float) -> Mapping[str, Any] | None:
    """Wait for the bot's answer; None: the time is up, or no bot runs any more."""
    while True:
        answer = inbox.answer_to(where, request)
        if answer is not None or time.monotonic() >= until_s:
            return answer
        if not _bot_runs(where):
            return inbox.answer_to(where, request)
        time.sleep(_LOOK_S)


def _bot_runs(where: Path) -> bool:
    try:
        return lock_file.look(where).running is not False
    except OSError:  # another user's sidecar: wait for the answer
        return True


def _taken_back(where: Path, request: inbox.Request) -> bool:
    try:
        return inbox.withdraw(where, request)
    except OSError:  # it stays, and the next writer carries it out
        return False


def exit_code(facts: Mapping[str, Any]) -> int:
    """Return the exit code for the result of a change."""
    if "request" in facts:
        return NO_ANSWER
    if "error" in facts:
        return REFUSED
    if "entries" not in facts:  # a reload, an adoption, a pruning, a salvage
        return DONE
    return DONE if facts["done"] and set(facts["outcomes"]) <= _CHANGED else NOT_DONE


# ---------------------------------------------------------------------------------------------- for people


def outcome_lines(action: str, by: str, facts: Mapping[str, Any], timeout_s: float) -> list[str]:
    """Return the result of a change, for a person."""
    if "request" in facts:
        waits = f"The running bot has not answered within {timeout_s:g} s. The request is still there"
        return [f"{waits} ({facts['request']}) and will be carried out by it, or by the next one that opens the file."]
    if "error" in facts:
        return [f"The running bot refused: {formatting.quoted(str(facts['error']))}"]
    if action == "reload":
        ended = facts.get("pauses_ended")
        if ended is None:
            return ["The running bot has read its settings again and ended every pause."]
        return [f"No bot runs; {formatting.counted(ended, 'pause')} ended in the file.", _SENDING]
    if action == "adopt":
        was = facts["was"]
        before = "It belongs to no project yet." if was is None else f"It belonged to the project {was}."
        return [before, "It will belong to the one that answers next."]
    if action == "resend":
        verb = "would be sent again" if facts["dry_run"] else "will be sent again"
        left = {"superseded by later ones of their keys": facts["superseded"], "updates": facts["updates"]}
        skipped = [f"{number:,} left out: {why}." for why, number in left.items() if number]
        sending = [_SENDING] if facts["resent"] and not facts["dry_run"] and not _whose(by) else []
        return [f"{facts['resent']:,} {verb}{_whose(by)}.", *skipped, *sending]
    if action == "prune":
        return [f"{facts['pruned']:,} pruned{_whose(by)}; they stay counted."]
    return _outcomes(by, facts)


def _whose(by: str) -> str:
    return " by the running bot" if by != "this command" else ""


def _outcomes(by: str, facts: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{number:,} {outcome}{_whose(by)}" if outcome in _CHANGED else f"{number:,} not changed: {outcome}"
        for outcome, number in facts["outcomes"].items()
    ]
    other = [each for each in facts["entries"] if each["outcome"] not in _CHANGED]
    lines += [f"  {formatting.quoted(each['id'])}: {each['outcome']}" for each in other[:SHOWN]]
    if len(other) > SHOWN:
        lines.append("  --json lists them all")
    if Outcome.REQUEUED in facts["outcomes"] and not _whose(by):
        lines.append(_SENDING)
    return lines or ["No entry matches; nothing was changed."]
