"""Floor 7 · cli. `outbox requeue`, `discard` and `reload`: done here if no bot runs, else asked of the bot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from outbox.cli import text
from outbox.cli.common import AsJson, FilePath, complaints, file_and_warnings, print_json
from outbox.clock import SystemClock
from outbox.errors import StoreInUse
from outbox.operations import Operations, report, selection
from outbox.store import inbox, ledger
from outbox.store import lock as lock_file
from outbox.store.connection import real_path
from outbox.store.observer import look
from outbox.store.operators import Filter, Selected, checked_reason
from outbox.store.store import Store

_DONE, _NOT_DONE, _NO_ANSWER, _UNREADABLE = 0, 1, 2, 3
_TIMEOUT_S = 10.0
# How often to look for the answer; the bot looks for the request every OUTBOX_POLL_S, 1 s.
_LOOK_S = 0.05
_SHOWN = 5

_Ids = Annotated[list[str] | None, typer.Argument(metavar="[IDS]...", help="The ids of dead entries.")]
_Destination = Annotated[str | None, typer.Option(metavar="TABLE", help="Those for this table.")]
_Code = Annotated[str | None, typer.Option(metavar="CODE", help="Those refused with this code, or HTTP status.")]
_All = Annotated[bool, typer.Option("--all", help="All dead entries.")]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")]
_Timeout = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, help="How long to wait for a running bot to answer.")
]

Local = Callable[[Store], Awaitable[dict[str, Any]]]


def requeue(
    ids: _Ids = None,
    destination: _Destination = None,
    code: _Code = None,
    everything: _All = False,
    force: Annotated[bool, typer.Option("--force", help="Also what would revert a later, delivered entry.")] = False,
    yes: _Yes = False,
    timeout: _Timeout = _TIMEOUT_S,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Send dead entries again: those that match all that is given. Works while a bot runs.

    \b
    Examples:
      outbox requeue order-17 --yes
      outbox requeue --destination trades --code 23514 --yes

    \b
    Exit codes:
      0  all of them are pending again
      1  some are not, or none matches (each one's outcome says why), or you
         said no
      2  a bot runs and has not answered in time; it will do it
      3  the file is missing or unreadable, or the request makes no sense

    \b
    --json prints these fields:
      path, exit_code
      outcomes                {outcome: how many}
      done                    how many were changed
      entries                 [{id, destination, outcome}], at most 5,000
      left_out                how many more there are
      by                      this command, or: the running bot
      request                 its name, if it waits for an answer
      error                   only if it was refused
    """
    with complaints(path, as_object=as_object):
        where = _file(path)
        which = _bound(where, selection(ids or None, destination, code, everything=everything), "requeue", yes=yes)

        async def local(store: Store) -> dict[str, Any]:
            return report(await Operations(store, clock=SystemClock()).requeue(which, force=force))

        arguments = {**which.as_json(), "force": force}
        raise typer.Exit(_change(where, "requeue", arguments, local, timeout, as_object=as_object))


def discard(
    ids: _Ids = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept.")] = "",
    destination: _Destination = None,
    code: _Code = None,
    everything: _All = False,
    yes: _Yes = False,
    timeout: _Timeout = _TIMEOUT_S,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Give dead entries up: those that match all that is given. They are kept until they are pruned.

    \b
    Example:
      outbox discard order-17 --reason "a test order" --yes

    Exit codes and --json as `outbox requeue`.
    """
    with complaints(path, as_object=as_object):
        where, words = _file(path), checked_reason(reason)
        which = _bound(where, selection(ids or None, destination, code, everything=everything), "discard", yes=yes)

        async def local(store: Store) -> dict[str, Any]:
            return report(await Operations(store, clock=SystemClock()).discard(which, reason=words))

        arguments = {**which.as_json(), "reason": words}
        raise typer.Exit(_change(where, "discard", arguments, local, timeout, as_object=as_object))


def reload(
    timeout: _Timeout = _TIMEOUT_S,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Let a running bot read its settings and .env again and end every pause; else end the pauses in the file.

    \b
    Example:
      outbox reload

    \b
    Exit codes and --json as `outbox requeue`, but with
      pauses_ended            how many; only where no bot runs
    """
    with complaints(path, as_object=as_object):
        where = _file(path)
        asyncio.run(look(where, lambda observer: observer.pauses()))  # it is an outbox, or says what it is

        async def local(store: Store) -> dict[str, Any]:
            pauses = await store.pauses()
            await store.end_pauses([(pause.scope, pause.subject) for pause in pauses])
            return {"pauses_ended": len(pauses)}

        raise typer.Exit(_change(where, "reload", {}, local, timeout, as_object=as_object))


# ---------------------------------------------------------------------------------------------- asking first


def _file(path: Path | None) -> Path:
    return real_path(file_and_warnings(path)[0])


def _bound(where: Path, which: Filter, verb: str, *, yes: bool) -> Filter:
    """Show what is meant, ask, and return the filter bound to just that: not to what dies before it is done."""
    found = asyncio.run(look(where, lambda observer: ledger.meant(observer, which)))
    if not yes:
        _confirm(found, verb)
    return replace(which, died_until_ms=max((entry.settled_at_ms or 0 for entry in found), default=0))


def _confirm(found: Sequence[Selected], verb: str) -> None:
    console = text.console(stderr=True)
    for entry in found[:_SHOWN]:
        console.print(f"  {entry.destination}  {text.quoted(entry.id)}  {text.quoted(entry.said or '')}")
    if len(found) > _SHOWN:
        console.print(f"  and {len(found) - _SHOWN:,} more")
    if not found:
        return  # the outcomes say why
    try:
        typer.confirm(f"{verb} {_entries(len(found))}?", abort=True, err=True)
    except typer.Abort:
        console.print("Nothing was changed; --yes answers for a script.")
        raise typer.Exit(_NOT_DONE) from None


def _entries(number: int) -> str:
    return f"{number:,} dead {'entry' if number == 1 else 'entries'}"


# ---------------------------------------------------------------------------------------------- doing it


def _change(
    where: Path, action: str, arguments: Mapping[str, Any], local: Local, timeout_s: float, *, as_object: bool
) -> int:
    """Do it, or have it done; print what came of it and return the exit code."""
    by, facts = _done(where, action, arguments, local, timeout_s)
    code = _exit_code(facts)
    if as_object:
        print_json({"path": str(where), "exit_code": code, "by": by, **facts})
    else:
        _show(action, by, facts, timeout_s)
    return code


def _done(
    where: Path, action: str, arguments: Mapping[str, Any], local: Local, timeout_s: float
) -> tuple[str, dict[str, Any]]:
    until_s = time.monotonic() + timeout_s
    while True:
        try:
            return "this command", asyncio.run(_alone(where, local))
        except StoreInUse:
            request = inbox.post(where, action, arguments)
        answer = _answer(where, request, until_s)
        if answer is not None:
            return "the running bot", {"ok": False, **answer}
        if time.monotonic() >= until_s or not inbox.withdraw(where, request):
            return "the running bot", {"request": request.name}
        # The bot has ended meanwhile, and the request was taken back: once more from the start.


async def _alone(where: Path, local: Local) -> dict[str, Any]:
    store = await Store.open(where, clock=SystemClock())
    try:
        return await local(store)
    finally:
        await store.close()


def _answer(where: Path, request: inbox.Request, until_s: float) -> Mapping[str, Any] | None:
    """Wait for the bot's answer; None: the time is up, or no bot runs any more."""
    while True:
        answer = inbox.answer_to(where, request)
        if answer is not None or time.monotonic() >= until_s:
            return answer
        if not lock_file.look(where).running:
            return inbox.answer_to(where, request)
        time.sleep(_LOOK_S)


def _exit_code(facts: Mapping[str, Any]) -> int:
    if "request" in facts:
        return _NO_ANSWER
    if "error" in facts:
        return _UNREADABLE
    if "entries" not in facts:  # a reload
        return _DONE
    return _DONE if facts["done"] and set(facts["outcomes"]) <= {"requeued", "discarded"} else _NOT_DONE


def _show(action: str, by: str, facts: Mapping[str, Any], timeout_s: float) -> None:
    console = text.console()
    if "request" in facts:
        console.print(
            f"The running bot has not answered within {timeout_s:g} s. The request is still there"
            f" ({facts['request']}) and will be carried out by it, or by the next one that opens the file."
        )
    elif "error" in facts:
        console.print(f"The running bot refused: {text.quoted(str(facts['error']))}")
    elif action == "reload":
        ended = facts.get("pauses_ended")
        done = "The running bot has read its settings again and ended every pause."
        console.print(done if ended is None else f"No bot runs; {ended:,} pauses ended in the file.")
    else:
        _show_outcomes(by, facts)


def _show_outcomes(by: str, facts: Mapping[str, Any]) -> None:
    console = text.console()
    if not facts["outcomes"]:
        console.print("No dead entry matches; nothing was changed.")
    for outcome, number in facts["outcomes"].items():
        console.print(f"{number:,} {outcome}{' by the running bot' if by != 'this command' else ''}")
    other = [each for each in facts["entries"] if each["outcome"] not in ("requeued", "discarded")]
    for each in other[:_SHOWN]:
        console.print(f"  {text.quoted(each['id'])}: {each['outcome']}")
    if len(other) > _SHOWN:
        console.print("  --json lists them all")
