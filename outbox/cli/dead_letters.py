"""`outbox requeue`, `discard`, `reload` and `adopt`: done here if no bot runs, else asked of the bot."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from outbox.admin.commands import Commands, report
from outbox.cli import format as formatting
from outbox.cli.common import AsJson, FilePath, complaints
from outbox.cli.send_command import SHOWN, TIMEOUT_S, Timeout, Yes, change, confirm, file_of
from outbox.clock import SystemClock
from outbox.errors import InvalidRequest
from outbox.forensics import entries
from outbox.store.read_only import look
from outbox.store.selection import Filter, Selected, checked_reason
from outbox.store.store import Store

_Ids = Annotated[list[str] | None, typer.Argument(metavar="[IDS]...", help="The ids of dead entries.")]
_Unsettled = Annotated[list[str] | None, typer.Argument(metavar="[IDS]...", help="Ids of dead or pending entries.")]
_Destination = Annotated[str | None, typer.Option(metavar="TABLE", help="Those for this table.")]
_Code = Annotated[str | None, typer.Option(metavar="CODE", help="Those refused with this code, or HTTP status.")]
_All = Annotated[bool, typer.Option("--all", help="All dead entries.")]


def requeue(
    ids: _Ids = None,
    destination: _Destination = None,
    code: _Code = None,
    everything: _All = False,
    force: Annotated[bool, typer.Option("--force", help="Also what would revert a later, delivered entry.")] = False,
    yes: Yes = False,
    timeout: Timeout = TIMEOUT_S,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Send dead entries again.

    Those that match all that is given. Works while a bot runs.

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
      by                      this command, or: the running bot; null: nobody,
                              you said no
      request                 its name, if it waits for an answer
      error                   only if it was refused
    """
    with complaints(path, as_object=as_object):
        where = file_of(path)
        asked = _asked(ids, destination, code, everything=everything)
        which = _bound(where, asked, "requeue", yes=yes, as_object=as_object)

        async def local(store: Store) -> dict[str, Any]:
            return report(await Commands(store, clock=SystemClock()).requeue(which, force=force))

        arguments = {**which.as_json(), "force": force}
        raise typer.Exit(change(where, "requeue", arguments, local, timeout, as_object=as_object))


def discard(
    ids: _Unsettled = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept.")] = "",
    destination: _Destination = None,
    code: _Code = None,
    everything: _All = False,
    yes: Yes = False,
    timeout: Timeout = TIMEOUT_S,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Give dead or pending entries up, with a reason.

    The dead ones that match all that is given; those named by their ids may be
    pending, too. They are kept until they are
    pruned. What an earlier try may have stored at the remote end stays there.

    \b
    Example:
      outbox discard order-17 --reason "a test order" --yes

    Exit codes and --json as `outbox requeue`.
    """
    with complaints(path, as_object=as_object):
        where, words = file_of(path), checked_reason(reason)
        asked = _asked(ids, destination, code, everything=everything)
        which = _bound(where, replace(asked, pending=bool(ids)), "discard", yes=yes, as_object=as_object)

        async def local(store: Store) -> dict[str, Any]:
            return report(await Commands(store, clock=SystemClock()).discard(which, reason=words))

        arguments = {**which.as_json(), "reason": words}
        raise typer.Exit(change(where, "discard", arguments, local, timeout, as_object=as_object))


def reload(
    timeout: Timeout = TIMEOUT_S,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Let a bot read its settings again, and end every pause.

    It reads its .env again, too: a new key counts from then on. If none runs,
    the pauses in the file end.

    \b
    Example:
      outbox reload

    \b
    Exit codes and --json as `outbox requeue`, but with
      pauses_ended            how many; only where no bot runs
    """
    with complaints(path, as_object=as_object):
        where = file_of(path)
        asyncio.run(look(where, lambda observer: observer.pauses()))  # it is an outbox, or says what it is

        async def local(store: Store) -> dict[str, Any]:
            pauses = await store.pauses()
            await store.end_pauses([(pause.scope, pause.subject) for pause in pauses])
            return {"pauses_ended": len(pauses)}

        raise typer.Exit(change(where, "reload", {}, local, timeout, as_object=as_object))


def adopt(
    timeout: Timeout = TIMEOUT_S,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Let what is pending go to another project than before.

    A file belongs to the first project that has answered for one of its rows.
    When SUPABASE_URL names another one, everything is paused: it may be a
    mistake. This command says that it is none: the file belongs to the project
    that answers next. What was delivered before is not sent again.

    \b
    Example:
      outbox adopt

    \b
    Exit codes and --json as `outbox requeue`, but with
      was                     the project that it belonged to, or null: none yet
    """
    with complaints(path, as_object=as_object):
        where = file_of(path)
        asyncio.run(look(where, lambda observer: observer.pauses()))  # it is an outbox, or says what it is

        async def local(store: Store) -> dict[str, Any]:
            return await Commands(store, clock=SystemClock()).adopt()

        raise typer.Exit(change(where, "adopt", {}, local, timeout, as_object=as_object))


# ---------------------------------------------------------------------------------------------- asking first


def _asked(ids: list[str] | None, destination: str | None, code: str | None, *, everything: bool) -> Filter:
    if not (ids or destination is not None or code is not None or everything):
        raise InvalidRequest("say which: IDS, --destination, --code or --all", field="entries")
    return Filter.chosen(ids or None, destination, code, everything=everything)


def _bound(where: Path, which: Filter, verb: str, *, yes: bool, as_object: bool) -> Filter:
    """Show what is meant, ask, and return the filter bound to just that: not to what dies before it is done."""
    found = asyncio.run(look(where, lambda observer: entries.meant(observer, which)))
    if not yes:
        _confirm(where, found, verb, as_object=as_object)
    return replace(which, pending=False, died_until_ms=max((entry.settled_at_ms or 0 for entry in found), default=0))


def _confirm(where: Path, found: Sequence[Selected], verb: str, *, as_object: bool) -> None:
    console = formatting.console(stderr=True)
    for entry in found[:SHOWN]:
        console.print(f"  {entry.destination}  {formatting.quoted(entry.id)}  {formatting.quoted(entry.said or '')}")
    if len(found) > SHOWN:
        console.print(f"  and {len(found) - SHOWN:,} more")
    if not found:
        return  # the outcomes say why
    states = Counter(entry.state for entry in found)
    what = " and ".join(f"{number:,} {state}" for state, number in sorted(states.items()))
    confirm(where, f"{verb} {what} {'entry' if len(found) == 1 else 'entries'}?", as_object=as_object)
