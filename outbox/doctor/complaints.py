"""What an answer of the remote end complains of, and how to fix it: SQL, or a sentence; no I/O, no clock."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path

from outbox.doctor.findings import typed
from outbox.entry import Operation
from outbox.postgrest.verdicts import Failure, Pause, Reason, Reply, Split, judge, read_refusal

Outcome = Reply | Failure


class Complaint(Enum):
    """What an answer complains of."""

    NOTHING = auto()
    TABLE = auto()
    COLUMN = auto()
    INDEX = auto()
    GRANT = auto()
    ROW_SECURITY = auto()
    POLICY = auto()
    KEY = auto()
    SUSPENDED = auto()
    WRONG_URL = auto()
    NOT_POSTGREST = auto()
    DOWN = auto()
    OTHER = auto()


# These apply to every table: after the first one no further table is asked.
EVERYWHERE = frozenset(
    {Complaint.KEY, Complaint.SUSPENDED, Complaint.WRONG_URL, Complaint.NOT_POSTGREST, Complaint.DOWN}
)
_BY_CODE = {
    "42P10": Complaint.INDEX,
    "42703": Complaint.COLUMN,
    "PGRST204": Complaint.COLUMN,
    "42P17": Complaint.POLICY,  # a policy that reads its own table
    "42501": Complaint.GRANT,
    "42P01": Complaint.TABLE,
    "PGRST205": Complaint.TABLE,
}
_BY_REASON: dict[str, Complaint] = {
    Reason.UNAUTHORIZED: Complaint.KEY,
    Reason.SUSPENDED: Complaint.SUSPENDED,
    Reason.UNREACHABLE: Complaint.DOWN,
    Reason.TIMEOUT: Complaint.DOWN,
    Reason.OVERLOADED: Complaint.DOWN,
    Reason.RATE_LIMITED: Complaint.DOWN,
    Reason.NOT_POSTGREST: Complaint.NOT_POSTGREST,
    Reason.MISCONFIGURED: Complaint.WRONG_URL,
}


def complaint(outcome: Outcome) -> Complaint:
    """Return what `outcome` complains of. Judged as the flusher would judge it (`verdicts`)."""
    if isinstance(outcome, Reply) and 200 <= outcome.status < 300:
        # A proxy's or captive portal's page says 200 too: only PostgREST's own marks count.
        marks = {"content-range", "preference-applied"}
        return Complaint.NOTHING if marks & outcome.headers.keys() else Complaint.NOT_POSTGREST
    verdict = judge(Operation.UPSERT, 2, outcome)
    if isinstance(verdict, Split):
        return Complaint.ROW_SECURITY if "row-level security" in verdict.refusal.message else Complaint.OTHER
    assert isinstance(verdict, Pause)
    return complaint_of(verdict.reason, verdict.refusal.code)


def complaint_of(reason: str, code: str | None) -> Complaint:
    """Return what a pause complains of."""
    if reason in (Reason.SCHEMA, Reason.FORBIDDEN) and code in _BY_CODE:
        return _BY_CODE[code]
    return _BY_REASON.get(reason, Complaint.OTHER)


def said(outcome: Outcome) -> str:
    """Return the other end's words on one line, never a header or a key."""
    if isinstance(outcome, Failure):
        return outcome.said
    refusal = read_refusal(outcome)
    return " ".join(str(part) for part in (refusal.status, refusal.code, refusal.message) if part is not None)


# ------------------------------------------------------------------------------------------ the fixes

SERVICE, SMALL_ROLE = "service_role", "outbox_bot"
KEY_FIX = (
    "set SUPABASE_SECRET_KEY to the project's secret key (dashboard: project settings, API keys), then: outbox reload"
)
SQL = Path("supabase_sql")
# Those of PostgreSQL's reserved words that a bot might use as a table or column name
# (postgresql.org/docs/current/sql-keywords-appendix.html).
_RESERVED = frozenset(
    {
        "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "both", "case", "cast", "check", "column",
        "constraint", "create", "default", "desc", "distinct", "do", "else", "end", "except", "fetch", "for", "from",
        "grant", "group", "having", "in", "initially", "into", "lateral", "leading", "limit", "not", "null", "offset",
        "on", "only", "or", "order", "placing", "primary", "references", "returning", "select", "some", "symmetric",
        "table", "then", "to", "trailing", "true", "false", "union", "unique", "user", "using", "variadic", "when",
        "where", "window", "with",
    }
)  # fmt: skip
_BARE = re.compile(r"[a-z_][a-z0-9_]*")
# The script that gives each of these roles access to the shipped tables, whether or not the policies exist already.
_ACCESS = {SERVICE: "0002_access.sql", SMALL_ROLE: "optional/least_privilege.sql"}
_SHIPPED = frozenset({"events", "sessions", "trades"})
_ANYWHERE = {
    Complaint.KEY: KEY_FIX,
    Complaint.SUSPENDED: "restore the project in Supabase's dashboard, or settle its quota; rows are kept meanwhile",
    Complaint.WRONG_URL: "set SUPABASE_URL to https://<project>.supabase.co, then: outbox reload",
    Complaint.NOT_POSTGREST: "set SUPABASE_URL to https://<project>.supabase.co, then: outbox reload",
    Complaint.DOWN: "nothing to do in the file: rows are kept, and sent once it answers",
}


def remedy(
    what: Complaint, table: str = "", columns: Sequence[str] = (), *, role: str = SERVICE, sql: Path = SQL
) -> str | None:
    """Return how to fix a complaint: a command, or SQL for the project's SQL editor. columns: those it is about.

    role: who needs access. sql: where the shipped SQL files are.
    """
    if role in _ACCESS and table in _SHIPPED and what in (Complaint.GRANT, Complaint.ROW_SECURITY):
        return f'psql "$SUPABASE_DB_URL" -f {typed(sql / _ACCESS[role])}'
    name = _sql_name(table)
    named = [_sql_name(column) for column in columns]
    match what:
        case Complaint.TABLE:
            own = f"create table public.{name} (...); {_grant(table, role)}"
            return _all_files(sql) if table in _SHIPPED else _or_the_shipped(table, own)
        case Complaint.COLUMN:
            adds = ", ".join(f"add column {column} <type>" for column in named) or "add column <name> <type>"
            own = f"fix the name in the bot, or: alter table public.{name} {adds}"
            ours = f'psql "$SUPABASE_DB_URL" -f {typed(sql / "0001_tables.sql")}'
            return f"{ours} brings back a shipped column; one of your own: {own}" if table in _SHIPPED else own
        case Complaint.INDEX:
            return f"create unique index on public.{name} ({', '.join(named) or '<columns>'})"
        case Complaint.GRANT:
            return _grant(table, role)
        case Complaint.ROW_SECURITY:
            return _policy(table, role)
        case Complaint.POLICY:
            return f"rewrite the policy of public.{name} that reads its own table; pg_policies lists them"
        case _:
            return _ANYWHERE.get(what)


def _all_files(sql: Path) -> str:
    return f'for file in {typed(sql)}/*.sql; do psql "$SUPABASE_DB_URL" -v ON_ERROR_STOP=1 -f "$file"; done'


def limit_time(role: str) -> str:
    """Return the SQL that makes the server abandon a statement of `role` before the outbox does."""
    return f"alter role {_sql_name(role)} set statement_timeout = '8s'; notify pgrst, 'reload config'"


def _grant(table: str, role: str) -> str:
    grant = f"grant select, insert, update on public.{_sql_name(table)} to {_sql_name(role)}"
    # Supabase's service_role bypasses row-level security. For others the grant alone turns a pause into dead letters.
    return grant if role == SERVICE else f"{grant}; {_policy(table, role)}"


def _policy(table: str, role: str) -> str:
    policy, everything = _sql_name(f"{table}_{role.removesuffix('_role')}"), "using (true) with check (true)"
    place = f"{policy} on public.{_sql_name(table)}"
    return f"drop policy if exists {place}; create policy {place} for all to {_sql_name(role)} {everything}"


def _or_the_shipped(table: str, own: str) -> str:
    """PostgREST tells `Trades` from `trades`."""
    meant = table.lower()
    return f"did you mean {meant}? Fix the name in the bot, or: {own}" if meant in _SHIPPED else own


def _sql_name(name: str) -> str:
    """Return a name quoted for SQL if needed: PostgreSQL lower-cases a bare one, and some are reserved words."""
    return name if _BARE.fullmatch(name) and name not in _RESERVED else '"' + name.replace('"', '""') + '"'
