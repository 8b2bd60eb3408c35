"""What to type against a complaint: SQL for the project, or a sentence; no I/O, no clock, no dice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from outbox.doctor.complaints import Complaint
from outbox.doctor.findings import typed

SERVICE, SMALL_ROLE = "service_role", "outbox_bot"


KEY_FIX = (
    "set SUPABASE_SECRET_KEY to the project's secret key (dashboard: project settings, API keys), then: outbox reload"
)


SQL = Path("supabase_sql")


# Of PostgreSQL's reserved words those that a table or column of a bot may well be called
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


# Who lets each of these roles into the shipped tables, by policies that are there already or not.
_ACCESS = {SERVICE: "0002_access.sql", SMALL_ROLE: "optional/least_privilege.sql"}
_SHIPPED = frozenset({"events", "sessions", "trades"})


_ANYWHERE = {
    Complaint.KEY: KEY_FIX,
    Complaint.SUSPENDED: "restore the project in Supabase's dashboard, or settle its quota; rows are kept meanwhile",
    Complaint.WRONG_URL: "set SUPABASE_URL to https://<project>.supabase.co, then: outbox reload",
    Complaint.NOT_POSTGREST: "set SUPABASE_URL to https://<project>.supabase.co, then: outbox reload",
    Complaint.DOWN: "nothing to do in the file: rows are kept, and sent once it answers",
}


def mend(
    what: Complaint, table: str = "", columns: Sequence[str] = (), *, role: str = SERVICE, sql: Path = SQL
) -> str | None:
    """Return what mends a complaint: a command, or SQL for the project's SQL editor. columns: those it is about.

    role: who is to be let in. sql: where the shipped SQL files are.
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
            own = f"mend the name in the bot, or: alter table public.{name} {adds}"
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
    """Return what lets the server give up on a statement of `role` before the outbox does."""
    return f"alter role {_sql_name(role)} set statement_timeout = '8s'; notify pgrst, 'reload config'"


def _grant(table: str, role: str) -> str:
    grant = f"grant select, insert, update on public.{_sql_name(table)} to {_sql_name(role)}"
    # Supabase's service_role passes row-level security. To another the grant alone would make dead letters of a pause.
    return grant if role == SERVICE else f"{grant}; {_policy(table, role)}"


def _policy(table: str, role: str) -> str:
    policy, everything = _sql_name(f"{table}_{role.removesuffix('_role')}"), "using (true) with check (true)"
    place = f"{policy} on public.{_sql_name(table)}"
    return f"drop policy if exists {place}; create policy {place} for all to {_sql_name(role)} {everything}"


def _or_the_shipped(table: str, own: str) -> str:
    """PostgREST tells `Trades` from `trades`."""
    meant = table.lower()
    return f"did you mean {meant}? Mend the name in the bot, or: {own}" if meant in _SHIPPED else own


def _sql_name(name: str) -> str:
    """Return a name as SQL takes it: PostgreSQL makes small letters of a bare one, and some are words of its own."""
    return name if _BARE.fullmatch(name) and name not in _RESERVED else '"' + name.replace('"', '""') + '"'
