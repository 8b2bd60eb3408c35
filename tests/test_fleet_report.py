"""What a bot reports of itself, and what an answer means for the reports to come."""

from __future__ import annotations

import json

import pytest

from outbox.fleet import After, Report, after, blocked
from outbox.postgrest.verdicts import Failure, Reply

REPORT = Report("trend@desk", "dead letters", 3, 1, 12.5, "2026-01-02T10:00:00.123+00:00", "schema", "1.2.3", 60.0)
STORED = {"preference-applied": "return=minimal, resolution=merge-duplicates, missing=default"}


def refused(status: int, code: str | None, message: str = "") -> Reply:
    body = {"code": code, "details": None, "hint": None, "message": message}
    return Reply(status, {}, json.dumps(body).encode())


@pytest.mark.parametrize("with_health", [True, False])
def test_a_report_is_one_row_of_the_tables_columns(with_health: bool) -> None:
    spec, text = REPORT.request(with_health=with_health)
    row = json.loads(text)
    assert row == ({"health": "dead letters"} if with_health else {}) | {
        "source": "trend@desk",
        "pending": 3,
        "dead": 1,
        "oldest_pending_s": 12.5,
        "last_success_at": "2026-01-02T10:00:00.123+00:00",
        "paused": "schema",
        "version": "1.2.3",
        "every_s": 60.0,
        "stopped": False,
    }
    assert spec.columns == ",".join(sorted(row))


def test_nothing_to_say_is_null() -> None:
    report = Report("b", "healthy", 0, 0, None, None, None, "1", 60.0, stopped=True)
    row = json.loads(report.request(with_health=True)[1])
    assert (row["oldest_pending_s"], row["last_success_at"], row["paused"], row["stopped"]) == (None, None, None, True)


@pytest.mark.parametrize(
    ("outcome", "then"),
    [
        pytest.param(Reply(201, STORED, b""), After.GO_ON, id="stored"),
        pytest.param(Reply(200, {}, b"<html>"), After.TRY_LATER, id="a captive portal"),
        pytest.param(refused(404, "PGRST205"), After.GIVE_UP, id="no such table"),
        pytest.param(refused(404, "42P01"), After.GIVE_UP, id="no such table, says PostgreSQL"),
        pytest.param(refused(400, "PGRST204"), After.WITHOUT_HEALTH, id="an older table lacks a column"),
        pytest.param(refused(400, "42P10"), After.GIVE_UP, id="no primary key"),
        pytest.param(refused(403, "42501", "permission denied for table outbox_health"), After.GIVE_UP, id="no grant"),
        pytest.param(refused(403, "42501", "violates row-level security"), After.GIVE_UP, id="no policy"),
        pytest.param(refused(400, "22P02"), After.GIVE_UP, id="a table of another kind"),
        pytest.param(refused(401, "PGRST301"), After.TRY_LATER, id="the key is being rotated"),
        pytest.param(refused(503, "PGRST002"), After.TRY_LATER, id="the server starts"),
        pytest.param(refused(500, "57014"), After.TRY_LATER, id="too slow this time"),
        pytest.param(refused(429, None), After.TRY_LATER, id="too many requests"),
        pytest.param(Reply(502, {}, b"<html>"), After.TRY_LATER, id="a gateway's page"),
        pytest.param(Failure.UNREACHABLE, After.TRY_LATER, id="nobody listens"),
        pytest.param(Failure.TIMEOUT, After.TRY_LATER, id="no answer"),
        pytest.param(Failure.CUT, After.TRY_LATER, id="cut"),
    ],
)
def test_only_what_time_does_not_heal_ends_the_reports(outcome: Reply | Failure, then: After) -> None:
    assert after(outcome) is then


def test_nothing_is_reported_while_nothing_at_all_is_sent() -> None:
    assert blocked(["lane", "everything"])
    assert not blocked(["lane", "destination"])
    assert not blocked([])
