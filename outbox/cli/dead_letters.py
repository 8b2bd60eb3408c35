"""`outbox dead`, `requeue`, `discard`, `reload` and `adopt`: done here if no bot runs, else by the bot."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import typer
from rich.text import Text

from outbox.admin.commands import LISTED
from outbox.cli import format as formatting
from outbox.cli.advice import typed_id
from outbox.cli.common import AsJson, FilePath, check_outbox, looking, print_json, read
from outbox.cli.filters import Chosen, DryRun, selecting, sharing
from outbox.cli.send_command import SHOWN, TIMEOUT_S, Command, Force, Timeout, Yes, changing
from outbox.errors import InvalidRequest
from outbox.forensics import entries
from outbox.forensics.causes import Cause, causes
from outbox.store.selection import Selected, Selection, checked_reason
from outbox.store.store import Store

_Ids = Annotated[
    list[str] | None, typer.Argument(metavar="IDS", help="The ids of entries, or their unique beginnings.")
]
_All = Annotated[bool, typer.Option("--all", help="All dead entries.")]


def dead(path: FilePath = None, as_object: AsJson = False) -> None:
    """Show why entries are dead, and what to type.

    Those of one table, code and cause are one line, the most frequent first.
    Works while a bot runs; changes nothing.

    \b
    Example:
      outbox dead

    \b
    --json prints {path, causes: [...]}, each cause with these fields:
      destination, status, code
      message                 the server's words to the newest of them
      entries                 how many
      first, last             when they died
      example                 the newest one's id
      requeue                 the command that sends them again

    \b
    Exit codes:
      0  shown, even if there is none
      3  the file is missing, unreadable or no outbox
    """
    with looking(path, as_object=as_object) as where:
        found = read(where, causes)
        if as_object:
            print_json({"path": where, "causes": [_cause_json(each) for each in found]})
            return
        console = formatting.console()
        for each in found:
            words = formatting.said(each.status, each.code, each.message)
            first, last = formatting.utc(each.first_ms), formatting.utc(each.last_ms)
            console.print(Text(f"{each.entries:,} {each.destination}", style="bold"))
            console.print(formatting.indented(words or "no words"))
            formatting.say(f"  {first} to {last[11:] if last[:10] == first[:10] else last} UTC")
            formatting.say(f"  such as: {formatting.typed('outbox show ' + typed_id(each.example))}")
            formatting.say(f"  fixed?  {requeue_command(each)}")
        console.print("Not needed any more? discard instead of requeue." if found else "No entry is dead.")


def _cause_json(cause: Cause) -> dict[str, Any]:
    names = ("destination", "status", "code", "message", "entries", "example", "first_ms", "last_ms")
    return formatting.fields(cause, *names) | {"requeue": requeue_command(cause)}


def requeue_command(cause: Cause) -> str:
    """Return the command that sends the entries of `cause` again."""
    choice = [("destination", cause.destination), ("code", cause.told), ("said", cause.said)]
    options = " ".join(f"--{name} {shlex.quote(value)}" for name, value in choice if value)
    return formatting.typed(f"outbox requeue {options}")


@selecting
def _changed(
    chosen: Chosen,
    ids: _Ids = None,
    everything: _All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    timeout: Timeout = TIMEOUT_S,
    path: FilePath = None,
    as_object: AsJson = False,
    *,
    verb: str,
    pending: bool = False,
    **how: Any,
) -> None:
    """Change the chosen entries. pending: also waiting ones, if their ids are given. how: arguments of the change."""
    with changing(path, timeout, as_object=as_object) as command:
        if "reason" in how and not dry_run:
            how["reason"] = checked_reason(how["reason"])
        asked = _asked(chosen(ids=ids or None, everything=everything)).but(pending=pending and bool(ids))
        which = _bound(command, asked, verb, yes=yes, dry_run=dry_run)
        raise typer.Exit(command.change(verb, {**which.as_json(), **how}))


@sharing("changed", _changed)
def requeue(changed: Callable[..., None], force: Force = False) -> None:
    """Send dead entries again.

    Selects those that match every option; --since and --until refer to when they died.
    Works while a bot runs. --dry-run only says which.

    \b
    Examples:
      outbox requeue order-17 --yes
      outbox requeue --destination trades --code 23514 --yes
      outbox requeue --where symbol=EURUSD --since 2h --dry-run

    \b
    Exit codes:
      0  all of them are pending again
      1  some are not, or none matches (each one's outcome says why), or you
         said no
      2  a bot runs and has not answered in time; it will do it
      3  the file is missing or unreadable, or the request is invalid

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
      would                   only with --dry-run: how many would be changed
      error                   only if it was refused
    """
    changed(verb="requeue", force=force)


@sharing("changed", _changed)
def discard(
    changed: Callable[..., None],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept.")] = "",
) -> None:
    """Give up dead or pending entries, with a reason.

    Selects dead entries that match every option. Pending ones must be named by
    their ids. They are kept until they are pruned. What an earlier try may have
    stored at the remote end stays there.

    \b
    Example:
      outbox discard order-17 --reason "a test order" --yes

    Exit codes and --json as `outbox requeue`.
    """
    changed(verb="discard", pending=True, reason=reason)


def reload(timeout: Timeout = TIMEOUT_S, path: FilePath = None, as_object: AsJson = False) -> None:
    """Make the bot re-read its settings, and end every pause.

    A new key in .env counts from then on. If no bot runs, this ends the pauses
    in the file.

    \b
    Example:
      outbox reload

    \b
    Exit codes and --json as `outbox requeue`, but with
      pauses_ended            how many; only where no bot runs
    """
    with changing(path, timeout, as_object=as_object) as command:
        check_outbox(command.where)

        async def local(store: Store) -> dict[str, Any]:
            pauses = await store.pauses()
            await store.end_pauses([(pause.scope, pause.subject) for pause in pauses])
            return {"pauses_ended": len(pauses)}

        raise typer.Exit(command.change("reload", {}, local))


def adopt(timeout: Timeout = TIMEOUT_S, path: FilePath = None, as_object: AsJson = False) -> None:
    """Send what is pending to another project than before.

    A file belongs to the first project that has answered for one of its rows.
    When SUPABASE_URL names another one, everything is paused: it may be a
    mistake. This command confirms the change: the file then belongs to the
    project that answers next. What was delivered before is not sent again.

    \b
    Example:
      outbox adopt

    \b
    Exit codes and --json as `outbox requeue`, but with
      was                     the project that it belonged to, or null: none yet
    """
    with changing(path, timeout, as_object=as_object) as command:
        check_outbox(command.where)
        raise typer.Exit(command.change("adopt", {}))


# ---------------------------------------------------------------------------------------------- asking first


def _asked(which: Selection) -> Selection:
    if which == Selection():
        raise InvalidRequest("say which: IDS, --destination, --code or another choice, or --all", field="entries")
    return which.checked()


def _bound(command: Command, which: Selection, verb: str, *, yes: bool, dry_run: bool) -> Selection:
    """Show the selected entries, ask, and return a selection bound to just those, not to entries that die meanwhile."""
    if which.ids:
        which = which.but(ids=[read(command.where, partial(entries.full_id, start=each)) for each in which.ids])
    found = read(command.where, lambda observer: entries.meant(observer, which))
    if dry_run:
        _say_would(command, found, verb)
        raise typer.Exit
    if not yes:
        _list(found)
        if found:  # otherwise the outcomes say why
            command.confirm(f"{verb} {_counted(found)}?")
    return which.but(pending=False, died_until_ms=max((entry.settled_at_ms or 0 for entry in found), default=0))


def _say_would(command: Command, found: Sequence[Selected], verb: str) -> None:
    if command.as_object:
        listed = [{"id": each.id, "destination": each.destination, "outcome": None} for each in found[:LISTED]]
        facts = {"outcomes": {}, "done": 0, "would": len(found), "entries": listed, "left_out": len(found[LISTED:])}
        print_json({"path": command.where, "exit_code": 0, "by": None, **facts})
    else:
        _list(found)
        formatting.console().print(f"{verb} would change {_counted(found)}; nothing was changed.")


def _list(found: Sequence[Selected]) -> None:
    console = formatting.console(stderr=True)
    for entry in found[:SHOWN]:
        console.print(f"  {entry.destination}  {formatting.quoted(entry.id)}  {formatting.quoted(entry.said or '')}")
    if len(found) > SHOWN:
        console.print(f"  and {len(found) - SHOWN:,} more")


def _counted(found: Sequence[Selected]) -> str:
    states = Counter(entry.state for entry in found)
    what = " and ".join(f"{number:,} {state}" for state, number in sorted(states.items())) or "no"
    return f"{what} {'entry' if len(found) == 1 else 'entries'}"
