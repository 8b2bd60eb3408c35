"""The SQL that doctor prints works for the names that it is about."""

from __future__ import annotations

import pytest

from outbox.doctor.complaints import Complaint, remedy


@pytest.mark.parametrize(
    ("what", "table", "columns", "sql"),
    [
        pytest.param(Complaint.GRANT, "fills", (), "on public.fills to", id="a plain name"),
        pytest.param(Complaint.GRANT, "Fills", (), 'on public."Fills" to', id="a capital"),
        pytest.param(Complaint.GRANT, "order", (), 'on public."order" to', id="a reserved word"),
        pytest.param(Complaint.INDEX, "fills", ("fillId", "leg"), 'public.fills ("fillId", leg)', id="columns"),
        pytest.param(Complaint.COLUMN, "fills", ("Lots",), 'add column "Lots" <type>', id="a column to add"),
        pytest.param(
            Complaint.ROW_SECURITY, "Fills", (), 'policy "Fills_service" on public."Fills" for', id="a policy"
        ),
        pytest.param(Complaint.TABLE, "fills", (), "create table public.fills (...); grant", id="a table"),
        pytest.param(
            Complaint.TABLE, "Trades", (), "did you mean trades? Fix the name in the bot, or: create", id="ours"
        ),
    ],
)
def test_names_are_quoted_where_postgresql_needs_it(
    what: Complaint, table: str, columns: tuple[str, ...], sql: str
) -> None:
    assert sql in str(remedy(what, table, columns))


@pytest.mark.parametrize(
    ("what", "table", "role", "fix"),
    [
        pytest.param(
            Complaint.GRANT, "fills", "my_bot",
            "grant select, insert, update on public.fills to my_bot; "
            "drop policy if exists fills_my_bot on public.fills; "
            "create policy fills_my_bot on public.fills for all to my_bot using (true) with check (true)",
            id="grant and policy together: the grant alone would make dead letters of a pause",
        ),
        pytest.param(
            Complaint.ROW_SECURITY, "fills", "My-Bot",
            'drop policy if exists "fills_My-Bot" on public.fills; '
            'create policy "fills_My-Bot" on public.fills for all to "My-Bot" using (true) with check (true)',
            id="a policy alone",
        ),
        pytest.param(
            Complaint.GRANT, "trades", "outbox_bot",
            'psql "$SUPABASE_DB_URL" -f supabase_sql/optional/least_privilege.sql', id="the shipped role",
        ),
        pytest.param(
            Complaint.ROW_SECURITY, "trades", "service_role",
            'psql "$SUPABASE_DB_URL" -f supabase_sql/0002_access.sql', id="a shipped table, whose policy may be there",
        ),
        pytest.param(
            Complaint.GRANT, "fills", "service_role", "grant select, insert, update on public.fills to service_role",
            id="a secret key: its role passes row-level security",
        ),
    ],
)  # fmt: skip
def test_who_is_let_in_is_the_role_of_the_token(what: Complaint, table: str, role: str, fix: str) -> None:
    assert remedy(what, table, role=role) == fix
