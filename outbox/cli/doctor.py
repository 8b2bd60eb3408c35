"""`outbox doctor`: checks the machine, the file and the remote end, and says how to fix each finding."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from outbox import remote_schema
from outbox.cli import format as formatting
from outbox.cli.common import AsJson, FilePath, complaints, print_json
from outbox.cli.status import answer, lane_of, subject
from outbox.clock import SystemClock
from outbox.columns import identifier
from outbox.doctor import findings, remote_findings
from outbox.doctor.complaints import EVERYWHERE, Complaint, Outcome, complaint, complaint_of, remedy
from outbox.doctor.findings import Finding, Severity
from outbox.doctor.local import Content, Local, examine_file
from outbox.doctor.remote import Questions, obstacle
from outbox.doctor.remote_findings import Target, targets, time_limit
from outbox.errors import ConfigError, InvalidEntry, SchemaError
from outbox.postgrest.client import PostgrestTransport
from outbox.postgrest.project import read_key
from outbox.postgrest.verdicts import Failure, Reply, read_refusal
from outbox.puts import DECLARED
from outbox.settings import Settings, load
from outbox.sql_files import folder as sql_folder
from outbox.threads import in_thread

# An answer that takes longer is itself a finding; the bot waits up to OUTBOX_REQUEST_DEADLINE_S.
_TIMEOUT_S = 10.0


def doctor(
    path: FilePath = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask nothing of the remote end.")] = False,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Compare indexes with their tables too; takes longer.")
    ] = False,
    table: Annotated[
        list[str] | None, typer.Option("--table", metavar="TABLE", help="Ask about this table only; may be repeated.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long to wait for each answer.")
    ] = _TIMEOUT_S,
    as_object: AsJson = False,
) -> None:
    """Check the machine, the file and the remote end.

    Each finding says how to fix it. Works while a bot runs.

    It leaves nothing at the remote end: it reads, inserts and updates no rows
    there. It never prints the key. It reads the whole file once, so a large
    one takes a while, and tries one commit in a folder of its own beside it.

    \b
    Examples:
      outbox doctor
      outbox doctor --offline --thorough
      outbox doctor --table trades --table orders --json

    \b
    Exit codes, the worst that applies:
      0  everything is in order
      1  warnings: rows arrive, or would; something should be fixed
      2  faults: rows do not arrive, or are not safe
      3  the file is missing, damaged, unreadable or no outbox

    \b
    --json prints these fields:
      path, health, exit_code    health: ok, warning, fault or unreadable
      findings                [{check, severity, says, fix}]; severity: as
                              health, or skipped: nobody could look; fix: a
                              command, a sentence, or null
    """
    settings, error = _settings(path)
    where = path if settings is None else settings.path
    only = _tables(table or [])
    findings = asyncio.run(
        _findings(where, settings, error, only, thorough=thorough, offline=offline, timeout_s=timeout)
    )
    worst = max(finding.severity for finding in findings)
    with complaints(path, as_object=as_object):
        if as_object:
            print_json(as_json(where, findings))
        else:
            show(where, findings, formatting.console())
    raise typer.Exit(worst)


def _settings(path: Path | None) -> tuple[Settings | None, str | None]:
    """Return the settings, or why they cannot be used: that must not hide what the file says."""
    try:
        return load(path=path), None
    except ConfigError as error:
        return None, str(error)


def _tables(names: Sequence[str]) -> list[str]:
    try:
        return [identifier(name, field="--table") for name in names]
    except InvalidEntry as error:
        raise typer.BadParameter(str(error)) from None


# ---------------------------------------------------------------------------------------------- looking


def _sql_folder() -> Path:
    return Path(str(sql_folder("supabase_sql")))


async def _findings(
    path: Path | None,
    settings: Settings | None,
    error: str | None,
    only: Sequence[str],
    *,
    thorough: bool,
    offline: bool,
    timeout_s: float,
) -> list[Finding]:
    clock, said_of_settings = SystemClock(), findings.settings(error, () if settings is None else settings.warnings)
    if path is None:  # OUTBOX_PATH is a setting, too, and the settings cannot be used
        return said_of_settings
    local = await examine_file(path, clock, thorough=thorough)
    asked, ahead_s = list[Finding](), None
    if settings is not None and not offline and settings.rest_url is not None and settings.supabase_key is not None:
        named = [replace(target, role=_role(settings), sql=_sql_folder()) for target in _targets(local, only)]
        asked, ahead_s = await _ask(settings, named, local.content, timeout_s)
    found = findings.clock(
        now_ms=clock.now_ms(),
        newest_put_ms=local.content.newest_put_ms if local.content else None,
        ahead_s=ahead_s,
        platform=sys.platform,
    )
    return [
        *local.findings,
        *said_of_settings,
        found,
        *_pauses(local.content, asked, _role(settings)),
        *asked,
        *([] if offline else await _time_limit(_role(settings))),
    ]


async def _time_limit(role: str) -> list[Finding]:
    """Look for a statement_timeout if the database itself can be asked: PostgREST does not tell."""
    if not (dsn := os.environ.get("SUPABASE_DB_URL")):
        return []
    try:
        return [time_limit(role, await in_thread(remote_schema.statement_timeout, dsn, role))]
    except SchemaError as error:
        return [findings.skipped("statement_timeout", str(error))]


def _targets(local: Local, only: Sequence[str]) -> list[Target]:
    found = local.content
    if found is None:
        return targets(DECLARED, (), {}, (), only)
    return targets(DECLARED, found.shapes, found.latest, found.used, only)


async def _ask(
    settings: Settings, asked: Sequence[Target], content: Content | None, timeout_s: float
) -> tuple[list[Finding], float | None]:
    """Return the findings from the remote end's answers, and how far this machine's clock is ahead."""
    assert settings.rest_url is not None and settings.supabase_key is not None
    token = None if settings.access_token is None else settings.access_token.get_secret_value()
    transport = PostgrestTransport(
        settings.rest_url,
        settings.supabase_key.get_secret_value(),
        token=token,
        allow_insecure=settings.allow_insecure,
    )
    try:
        questions = Questions(transport, SystemClock(), deadline_s=timeout_s)
        first, ahead_s = await questions.first(asked[0])
        findings = await _project(settings, first, timeout_s)
        for target in () if complaint(first) in EVERYWHERE else asked:
            delivered = content.delivered.get(target.name) if content else None
            findings += remote_findings.table(await questions.table(target, delivered))
    finally:
        await transport.aclose()
    return findings, ahead_s


async def _project(settings: Settings, first: Outcome, timeout_s: float) -> list[Finding]:
    # With a token the key only opens the gateway: the token decides who may write.
    url, secret = settings.supabase_url, settings.access_token or settings.supabase_key
    assert url is not None and secret is not None
    host = urlsplit(url).hostname or ""
    failed = isinstance(first, Failure)
    met = await obstacle(url, deadline_s=timeout_s) if failed else None
    refused = read_refusal(first) if isinstance(first, Reply) and complaint(first) is Complaint.KEY else None
    return [
        remote_findings.reach(url, first, met),
        remote_findings.tls(url, in_the_clear=settings.in_the_clear, connected=not failed),
        remote_findings.key_place(settings.key_places),
        remote_findings.key(
            read_key(secret.get_secret_value()), host, now_s=SystemClock().now_ms() / 1000, refused=refused
        ),
    ]


def _role(settings: Settings | None) -> str:
    """Return the role that the bot writes as: the token's, or service_role, which every secret key stands for."""
    secret = None if settings is None else settings.access_token or settings.supabase_key
    role = None if secret is None else read_key(secret.get_secret_value()).role
    return "service_role" if role in (None, "anon", "authenticated") else role


def _pauses(content: Content | None, asked: Sequence[Finding], role: str) -> list[Finding]:
    if content is None:
        return []
    found = []
    for each in content.pauses:
        spec = lane_of(each, content.lanes)
        name = spec.destination if spec else each.subject if each.scope == "destination" else ""
        what = complaint_of(each.reason, each.code)
        columns = _deciding(content, name) if what is Complaint.INDEX else ()
        checks = [found for found in asked if ":" not in found.check or found.check.startswith(f"{name}:")]
        found.append(
            findings.pause(
                subject(each, content.lanes),
                each.reason,
                answer(each),
                fix=remedy(what, name, columns, role=role, sql=_sql_folder()),
                fixed=bool(checks) and all(found.severity < Severity.FAULT for found in checks),
            )
        )
    return found or [Finding("pauses", Severity.OK, "none")]


def _deciding(content: Content, name: str) -> Sequence[str]:
    """Return the columns that decide what a duplicate is, if there is only one answer."""
    conflicts = {spec.on_conflict for spec in content.shapes if spec.destination == name and spec.on_conflict}
    return conflicts.pop().split(",") if len(conflicts) == 1 else ()


# ---------------------------------------------------------------------------------------------- telling


def as_json(path: Path | None, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the object that `--json` prints; its names are promised, and described in the command's help."""
    worst = max(finding.severity for finding in findings)
    return {
        "path": path,
        "health": worst.words,
        "exit_code": int(worst),
        "findings": [
            {
                "check": finding.check,
                "severity": finding.word,
                "says": formatting.quoted(finding.says),
                "fix": None if finding.fix is None else formatting.typed(finding.fix),
            }
            for finding in findings
        ],
    }


_WORD = len(Severity.UNREADABLE.words)
_COLOURS = {
    Severity.OK: "green",
    Severity.WARNING: "yellow",
    Severity.FAULT: "red",
    Severity.UNREADABLE: "red",
}


def show(path: Path | None, findings: Sequence[Finding], console: Console) -> None:
    """Print the findings for a person, one after the other, each with its fix."""
    worst = max(finding.severity for finding in findings)
    console.print(Text.assemble((worst.words, f"bold {_COLOURS[worst]}"), f"  {path or ''}"), soft_wrap=True)
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=_WORD)
        grid.add_column(width=width)
        grid.add_column(overflow="fold")
        severity = Text(finding.word, style="dim" if finding.skipped else _COLOURS[finding.severity])
        grid.add_row(severity, finding.check, formatting.quoted(finding.says))
        console.print(grid)
        if finding.fix:
            # Never wrapped: it is there to be copied.
            fix = formatting.plain(formatting.typed(finding.fix))
            console.print(Text.assemble(" " * (_WORD + 2), ("-> ", "bold"), fix), soft_wrap=True)
