"""`outbox inspect`: the file in a browser."""

from __future__ import annotations

import io
import secrets
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from outbox.cli import format as formatting
from outbox.cli.common import FilePath, check_outbox, complaints, file_and_warnings
from outbox.cli.dead_letters import requeue_command
from outbox.cli.send_command import TIMEOUT_S, done, outcome_lines
from outbox.cli.status import read_status, show
from outbox.errors import ConfigError, InvalidRequest, StoreError
from outbox.forensics import causes as forensics
from outbox.forensics.causes import causes
from outbox.forensics.entries import full_id
from outbox.snapshot import STALLED_AFTER_S, Health
from outbox.store.files import real_path
from outbox.store.read_only import look
from outbox.store.selection import Selection, checked_reason
from outbox.threads import in_thread

if TYPE_CHECKING:
    from outbox.web.operations import Cause, Operations


def inspect(
    path: FilePath = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 is any that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser there.")] = True,
    allow_actions: Annotated[
        bool, typer.Option("--allow-actions", help="Let who has the printed address requeue and discard.")
    ] = False,
) -> None:
    """Look at the file in a browser.

    What outbox status says, outages, the backlog over time, ready questions.
    Works while a bot runs.

    Runs Datasette, read-only, on 127.0.0.1: no other machine can reach it. It
    shows payloads. With --allow-actions, whoever opens the printed address can
    requeue and discard dead entries there, as the commands do; its key is new
    in each run. Needs the extra `inspect`, and no network. Ctrl-C stops it.

    \b
    Example:
      outbox inspect --path bot.db --no-browser

    \b
    Exit codes:
      0  stopped
      3  the file is missing, unreadable or no outbox; the port is taken; the
         extra is not installed
    """
    with complaints(path, as_object=False):
        given, warnings = file_and_warnings(path)
        where = real_path(given)
        check_outbox(where)
        _serve(where, port, operations_of(where, warnings, allow_actions=allow_actions), browser=browser)


def _serve(where: Path, port: int, operations: Operations, *, browser: bool) -> None:
    try:
        from outbox.web.server import serve
    except ModuleNotFoundError as error:
        hint = "python3 -m pip install 'datasette<0.66'"
        raise ConfigError(f"outbox inspect needs the extra `inspect` ({error}): {hint}", field="inspect") from error

    def ready(address: str) -> None:
        whose = "; who has this address may requeue and discard" if operations.key else ""
        formatting.say(f"{where} is at {address} for this machine alone{whose}. Ctrl-C stops it.")
        if browser:
            webbrowser.open(address)

    serve(where, port, operations, ready)


def operations_of(where: Path, warnings: tuple[str, ...], *, allow_actions: bool) -> Operations:
    """Return what the page shows and may do: the same as the commands."""
    from outbox.web.operations import Operations, Standing

    async def standing() -> Standing:
        try:
            found = await in_thread(read_status, where, warnings=warnings, stalled_after_s=STALLED_AFTER_S)
        except StoreError as error:
            return Standing(False, str(error))
        out = io.StringIO()
        show(found, Console(file=out, width=92, markup=False, highlight=False, emoji=False))
        return Standing(found.health is Health.HEALTHY, out.getvalue())

    async def dead() -> list[Cause]:
        return [_cause(each) for each in await look(where, causes)]

    async def act(form: Mapping[str, str]) -> list[str]:
        action, arguments = await _asked(where, form)
        by, facts = await in_thread(done, where, action, arguments, TIMEOUT_S)
        return outcome_lines(action, by, facts, TIMEOUT_S)

    return Operations(standing, dead, act, secrets.token_urlsafe(32) if allow_actions else None)


def _cause(found: forensics.Cause) -> Cause:
    from outbox.web.operations import Cause

    chosen = {"destination": found.destination, "code": found.told, "said": found.said}
    chosen["died_until_ms"] = str(found.last_ms)  # leaves out what dies after the page was made
    return Cause(
        found.entries, found.destination, formatting.said(found.status, found.code, found.message),
        f"{formatting.utc(found.first_ms)} to {formatting.utc(found.last_ms)} UTC",
        found.example, {name: value for name, value in chosen.items() if value}, requeue_command(found),
    )  # fmt: skip


async def _asked(where: Path, form: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the action that a form requests, with its arguments. Raises InvalidRequest, StoreError."""
    action = form.get("action", "")
    if action not in ("requeue", "discard"):
        raise InvalidRequest("must be requeue or discard", field="action")
    died = form.get("died_until_ms")
    choices = {name: form.get(name) for name in ("destination", "code", "said")}
    ids = [await look(where, lambda observer: full_id(observer, form["ids"]))] if "ids" in form else None
    until_ms = int(died) if died and died.isdecimal() else None
    which = Selection.of({**choices, "ids": ids, "died_until_ms": until_ms}).checked()
    if action == "requeue":
        return action, {**which.as_json(), "force": False}
    return action, {**which.as_json(), "reason": checked_reason(form.get("reason"))}
