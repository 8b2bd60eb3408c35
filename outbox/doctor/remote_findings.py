"""What the remote end's answers to harmless requests mean, and the SQL or command that fixes it.

A request is harmless if it cannot create or change a row: a read of no rows, an insert of none, an update of rows whose
column is both null and not null. PostgreSQL still checks table, columns, unique index and privileges first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from outbox.doctor.complaints import (
    EVERYWHERE,
    KEY_FIX,
    SERVICE,
    SQL,
    Complaint,
    Outcome,
    complaint,
    limit_time,
    remedy,
    said,
)  # fmt: skip
from outbox.doctor.findings import Finding, Severity, skipped
from outbox.entry import Destination, LaneSpec, Operation
from outbox.postgrest.project import KeyFacts, KeyKind
from outbox.postgrest.verdicts import Failure, Refusal, Reply, read_refusal

_OK, _WARNING, _FAULT = Severity.OK, Severity.WARNING, Severity.FAULT
# A key that expires within a month: renew it before the next holiday.
_SOON_S = 30 * 86_400
_LONGEST_LIST = 5


# ------------------------------------------------------------------------------------------ what is asked


@dataclass(frozen=True, slots=True)
class Target:
    """A remote table, and what is sent to it: its columns, what decides about duplicates, whether rows are updated.

    used: an entry for it was ever put; key: the column that holds an insert's id; role: the token's; sql: where the
    shipped SQL files are.
    """

    name: str
    key: str
    columns: tuple[str, ...]
    conflicts: tuple[str, ...]  # each as written in on_conflict=
    updates: bool
    used: bool
    role: str = SERVICE
    sql: Path = SQL

    def remedy(self, what: Complaint, columns: Sequence[str] = ()) -> str | None:
        """Return how to fix a complaint about this table."""
        return remedy(what, self.name, columns, role=self.role, sql=self.sql)


def targets(
    declared: Iterable[Destination],
    pending: Iterable[LaneSpec],
    latest: Mapping[str, LaneSpec],
    used: Iterable[str],
    only: Iterable[str] = (),
) -> list[Target]:
    """Return the tables to ask about, by name: those declared, and those with entries. only: nothing but these tables.

    pending: the kinds of request that pending entries need. latest: the kind that each table took last, used
    if none are pending.
    """
    known, kinds, seen = {each.name: each for each in declared}, list(pending), set(used)
    names = set(only) or {*known, *seen, *latest, *(spec.destination for spec in kinds)}
    found = []
    for name in sorted(names):
        shapes = [spec for spec in kinds if spec.destination == name]
        if not shapes and name in latest:
            shapes = [latest[name]]
        found.append(_target(known.get(name, Destination(name)), shapes, name in seen))
    return found


def _target(declared: Destination, shapes: Sequence[LaneSpec], used: bool) -> Target:
    # The bot's declaration of the key is not in the file, but its inserts are: they name the column.
    keys = [spec.on_conflict for spec in shapes if spec.operation is Operation.INSERT and spec.on_conflict]
    conflicts = {spec.on_conflict for spec in shapes if spec.on_conflict}
    declared_ones = {",".join(declared.on_conflict)} - {""}
    if not shapes:
        conflicts = {declared.key, *declared_ones}
    columns = {column for each in (*conflicts, *(spec.columns for spec in shapes)) for column in each.split(",")}
    return Target(
        declared.name,
        keys[0] if keys else declared.key,
        tuple(sorted({*columns, *declared.integers, *declared.on_conflict} - {""})),
        tuple(sorted(conflicts | declared_ones)),
        bool(declared_ones) or any(spec.operation is not Operation.INSERT for spec in shapes),
        used,
    )


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table's answers. missing: columns that it lacks, each with the one that was meant. inserts: by on_conflict.

    sighted: the newest delivered insert's id, and the answer to a read of it; None: there is none to look for.
    """

    target: Target
    read: Outcome
    missing: Mapping[str, str | None] = field(default_factory=dict)
    inserts: Mapping[str, Outcome] | None = None
    update: Outcome | None = None
    sighted: tuple[str, Outcome] | None = None


# ------------------------------------------------------------------------------------------ the project


class Obstacle(StrEnum):
    """Why the remote end cannot be reached."""

    NO_HOST = "its name cannot be found"
    REFUSED = "nobody listens there"
    TIMEOUT = "it does not answer in time"
    CERTIFICATE = "its certificate is not valid"
    TLS = "it does not speak TLS"
    OTHER = "it cannot be reached"


_OBSTACLE_FIXES = {
    Obstacle.NO_HOST: "look at SUPABASE_URL and at this machine's DNS; a project paused for long loses its name",
    Obstacle.CERTIFICATE: "look at this machine's clock, its certificates, and what stands between it and Supabase",
    Obstacle.TLS: "look at SUPABASE_URL, and at what stands between this machine and Supabase",
}


_NETWORK_FIX = "fix or unset the variable where the bot is started, or list the host in NO_PROXY"


def reach(url: str, first: Outcome, obstacle: tuple[Obstacle, str] | None) -> Finding:
    """Judge whether the project answers at all. obstacle: what a plain connection meets, if `first` is a failure."""
    what = complaint(first)
    if first == Failure.MISCONFIGURED or (isinstance(first, Failure) and "proxy" in first.words):
        return Finding("remote", _FAULT, f"nothing reaches {url}: {first.words}", _NETWORK_FIX)
    if isinstance(first, Failure):
        kind, words = obstacle or (Obstacle.OTHER, "")
        says = f"{url} cannot be reached: {kind.value}{f' ({words})' if words else ''}"
        return Finding("remote", _FAULT, says, _OBSTACLE_FIXES.get(kind, remedy(Complaint.DOWN)))
    if what is Complaint.NOT_POSTGREST:
        return Finding("remote", _FAULT, f"{url} answers, but not as Supabase's REST endpoint does", remedy(what))
    if what in EVERYWHERE and what is not Complaint.KEY:
        return Finding("remote", _FAULT, f"{url} answers: {said(first)}", remedy(what))
    return Finding("remote", _OK, f"{url} answers")


def tls(url: str, *, in_the_clear: bool, connected: bool) -> Finding:
    """Judge whether the key is sent unencrypted."""
    if url.startswith("https:"):
        if not connected:
            return Finding("tls", _OK, "https, but nothing has answered")
        return Finding("tls", _OK, "https, and the certificate is valid")
    if not in_the_clear:
        return Finding("tls", _OK, "none, and none is needed: the address is this machine's own")
    fix = "use https:// in SUPABASE_URL and remove OUTBOX_ALLOW_INSECURE"
    return Finding("tls", _WARNING, "none: the key and every row travel in the clear", fix)


def key(facts: KeyFacts, host: str, *, now_s: float, refused: Refusal | None) -> Finding:
    """Judge the key by its text and by the server's reaction to it. refused: None: it was not refused."""
    own_role = facts.role if facts.kind is KeyKind.UNKNOWN else None  # of OUTBOX_ACCESS_TOKEN, say outbox_bot
    kind = f"a token of the role {own_role}" if own_role else f"a {facts.kind} key"
    if facts.kind in (KeyKind.PUBLISHABLE, KeyKind.LEGACY_ANON):
        return Finding("key", _FAULT, f"it is {kind}, which may not write", KEY_FIX)
    if facts.expires_at_s is not None and facts.expires_at_s <= now_s:
        return Finding("key", _FAULT, f"it is {kind}, and expired on {_day(facts.expires_at_s)}", KEY_FIX)
    if facts.project and host.endswith(".supabase.co") and host != f"{facts.project}.supabase.co":
        return Finding("key", _FAULT, f"it is {kind} of another project, {facts.project}", KEY_FIX)
    if refused is not None:
        words = f"{refused.status} {refused.code or ''} {refused.message}".replace("  ", " ")
        return Finding("key", _FAULT, f"it is {kind}, and the server refuses it: {words}", KEY_FIX)
    if facts.kind is KeyKind.UNKNOWN and own_role is None:
        return Finding("key", _WARNING, "it is of an unknown kind, neither secret nor service_role", KEY_FIX)
    if facts.expires_at_s is not None and facts.expires_at_s - now_s < _SOON_S:
        return Finding("key", _WARNING, f"it is {kind}, and expires on {_day(facts.expires_at_s)}", KEY_FIX)
    return Finding("key", _OK, f"it is {kind}")


def time_limit(role: str, found: str | None) -> Finding:
    """Judge whether the server stops waiting for a locked table. found: the statement_timeout of `role`; None: none."""
    if found is not None:
        return Finding("statement_timeout", _OK, f"a statement of {role} may take {found}")
    says = f"{role} has none: each request to a table that is locked holds a connection of the server until it is not"
    return Finding("statement_timeout", _WARNING, says, limit_time(role))


def key_place(places: Sequence[str]) -> Finding:
    """Say which key is in use, the first of `places`, and why not the others."""
    used, *others = places or ("an argument",)
    if not others:
        return Finding("key source", _OK, f"the key in use is {used}")
    rule = "the environment comes before .env, and SUPABASE_SECRET_KEY before _SERVICE_ROLE_KEY before SUPABASE_KEY"
    says = f"the key in use is {used}; another one, {', '.join(others)}, is not used: {rule}"
    return Finding("key source", _WARNING, says, "remove the one that you do not mean, then: outbox reload")


def _day(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).date().isoformat()


# ------------------------------------------------------------------------------------------ its tables


def table(facts: TableFacts) -> list[Finding]:
    """Judge one table's answers: table, columns, grants, unique index, rows; what is unknown is left out."""
    target, what = facts.target, complaint(facts.read)
    if what is Complaint.TABLE:
        # The bot may not use it: a missing table is a fault only once something is put for it.
        severity, unused = (_FAULT, "") if target.used else (_WARNING, "; nothing was put for it")
        says = f"it is not there, or not exposed ({said(facts.read)}){unused}"
        return [Finding(f"{target.name}: table", severity, says, target.remedy(what))]
    if what not in (Complaint.NOTHING, Complaint.COLUMN):
        return [_refused(target, "grants" if what is Complaint.GRANT else "table", facts.read)]
    return [
        Finding(f"{target.name}: table", _OK, "it is there"),
        _columns(facts),
        _grants(facts),
        *(_index(target, columns, outcome) for columns, outcome in sorted((facts.inserts or {}).items())),
        *_rows(facts),
    ]


def _refused(target: Target, aspect: str, outcome: Outcome) -> Finding:
    what = complaint(outcome)
    if what in (Complaint.ROW_SECURITY, Complaint.POLICY):
        aspect = "rows"
    return Finding(f"{target.name}: {aspect}", _FAULT, f"it says {said(outcome)}", target.remedy(what))


def meant(outcome: Outcome) -> str | None:
    """Return the column that PostgreSQL suggests instead of a missing one; None: it suggests none."""
    hint = read_refusal(outcome).hint if isinstance(outcome, Reply) else None
    found = re.fullmatch(r'Perhaps you meant to reference the column "(?:\w+\.)?(\w+)"\.', hint or "")
    return found[1] if found else None


def _columns(facts: TableFacts) -> Finding:
    check, missing = f"{facts.target.name}: columns", list(facts.missing)
    if not missing:
        return Finding(check, _OK, f"it has all {len(facts.target.columns)} that are sent")
    names = ", ".join(missing[:_LONGEST_LIST]) + (f" and {len(missing) - _LONGEST_LIST} more" if missing[5:] else "")
    says = f"{names} {'is' if len(missing) == 1 else 'are'} missing"
    fix = facts.target.remedy(Complaint.COLUMN, missing)
    if known := {old: new for old, new in facts.missing.items() if new is not None}:
        says += f": did you mean {', '.join(known.values())}?"
        renames = " ".join(f"--rename-column {old}={new}" for old, new in known.items())
        table = f" --destination {facts.target.name}"
        fix = f"fix the bot, then what waits: outbox edit {renames} --all-matching{table}; else {fix}"
    return Finding(check, _FAULT, says, fix)


def _grants(facts: TableFacts) -> Finding:
    target, asked = facts.target, [*(facts.inserts or {}).values(), *([facts.update] if facts.update else [])]
    for outcome in asked:
        if complaint(outcome) is Complaint.GRANT:
            return _refused(target, "grants", outcome)
    inserted = "" if all(map(_in_vain, (facts.inserts or {}).values())) else " and inserted into"
    updated = ", and updated" if facts.update is not None and complaint(facts.update) is Complaint.NOTHING else ""
    return Finding(f"{target.name}: grants", _OK, f"it may be read{inserted}{updated}")


_NOT_ASKED = "for an insert of no rows the server did not ask its database"


def _in_vain(outcome: Outcome) -> bool:
    """Whether an insert of no rows was answered without asking PostgreSQL: PostgREST says 201, Supabase Lite 200."""
    return isinstance(outcome, Reply) and outcome.status == 200


def _index(target: Target, columns: str, outcome: Outcome) -> Finding:
    check, names = f"{target.name}: unique index", columns.split(",")
    match complaint(outcome):
        case Complaint.INDEX:
            says = f"none on ({', '.join(names)}), which decides what is a duplicate"
            return Finding(check, _FAULT, says, target.remedy(Complaint.INDEX, names))
        case Complaint.NOTHING if _in_vain(outcome):
            return skipped(check, f"({', '.join(names)}): {_NOT_ASKED}")
        case Complaint.NOTHING:
            return Finding(check, _OK, f"there is one on ({', '.join(names)})")
        case Complaint.GRANT:
            return skipped(check, "the grants come first")
        case _:
            return _refused(target, "unique index", outcome)


def _rows(facts: TableFacts) -> list[Finding]:
    """Judge whether the newest delivered row is visible: row-level security hides rows silently."""
    check = f"{facts.target.name}: rows"
    if facts.sighted is None:
        return []
    its_id, outcome = facts.sighted
    if complaint(outcome) is not Complaint.NOTHING:
        return [_refused(facts.target, "rows", outcome)]
    if isinstance(outcome, Reply) and outcome.body.strip() not in (b"[]", b""):
        return [Finding(check, _OK, "the newest delivered one can be seen")]
    says = f"the newest delivered one ({its_id}) cannot be seen: it was deleted, or row-level security hides it"
    return [Finding(check, _WARNING, says, facts.target.remedy(Complaint.ROW_SECURITY))]
