"""The edges of what decides a verdict: the first and the last status of a range, the smallest batch, and its words."""

from __future__ import annotations

import pytest

from outbox.entry import Operation
from outbox.postgrest.replies import belongs
from outbox.postgrest.verdicts import (
    Delivered,
    Failure,
    Pause,
    Reason,
    Reply,
    Retry,
    Scope,
    Silence,
    Split,
    Verdict,
    judge,
    read_refusal,
)
from tests.postgrest.test_verdicts import postgrest

INSERT, UPDATE = Operation.INSERT, Operation.UPDATE
CONFIGURED, OVERLOADED, UNKNOWN = Reason.MISCONFIGURED, Reason.OVERLOADED, Reason.UNKNOWN


def judged(status: int) -> tuple[Scope, Reason, bool, bool]:
    verdict = judge(INSERT, 1, Reply(status, {}, b"<html>"))
    assert isinstance(verdict, Pause)
    return verdict.scope, verdict.reason, verdict.slow, verdict.shrink


@pytest.mark.parametrize(
    ("status", "scope", "reason", "slow", "shrink"),
    [
        pytest.param(199, Scope.DESTINATION, UNKNOWN, False, True, id="199: before the successes"),
        pytest.param(200, Scope.EVERYTHING, Reason.NOT_POSTGREST, False, False, id="200: the first, without its marks"),
        pytest.param(299, Scope.EVERYTHING, Reason.NOT_POSTGREST, False, False, id="299: the last"),
        pytest.param(300, Scope.EVERYTHING, CONFIGURED, True, False, id="300: the first that leads elsewhere"),
        pytest.param(399, Scope.EVERYTHING, CONFIGURED, True, False, id="399: the last"),
        pytest.param(400, Scope.DESTINATION, UNKNOWN, False, True, id="400: no more"),
        pytest.param(407, Scope.EVERYTHING, CONFIGURED, True, False, id="407: a proxy that wants a password"),
        pytest.param(408, Scope.EVERYTHING, Reason.TIMEOUT, False, True, id="408"),
        pytest.param(519, Scope.DESTINATION, UNKNOWN, False, True, id="519: before Cloudflare's"),
        pytest.param(520, Scope.EVERYTHING, OVERLOADED, False, False, id="520: the first of them"),
        pytest.param(524, Scope.EVERYTHING, OVERLOADED, False, True, id="524: its 504, among them"),
        pytest.param(527, Scope.EVERYTHING, OVERLOADED, False, False, id="527: the last"),
        pytest.param(528, Scope.DESTINATION, UNKNOWN, False, True, id="528: no more"),
        pytest.param(529, Scope.DESTINATION, UNKNOWN, False, True, id="529: nor this one"),
        pytest.param(530, Scope.EVERYTHING, OVERLOADED, False, False, id="530: one more"),
        pytest.param(531, Scope.DESTINATION, UNKNOWN, False, True, id="531: the end"),
        pytest.param(544, Scope.DESTINATION, Reason.TIMEOUT, False, True, id="544: Supabase's limit of time"),
    ],
)
def test_a_status_without_a_code_has_its_pause(
    status: int, scope: Scope, reason: Reason, slow: bool, shrink: bool
) -> None:
    assert judged(status) == (scope, reason, slow, shrink)


def split(verdict: Verdict) -> bool:
    assert isinstance(verdict, Split)
    return verdict.shrink


def test_the_smallest_batch_is_split_too_and_only_its_size_makes_the_next_ones_smaller() -> None:
    assert not split(judge(INSERT, 2, postgrest(400, "23514")))
    assert split(judge(INSERT, 2, Reply(413, {}, b"<html>")))


@pytest.mark.parametrize(
    ("content_range", "delivered"),
    [pytest.param("*/0", False, id="none"), pytest.param("0-0/1", True, id="one"), pytest.param("0-1/2", True, id="2")],
)
def test_one_changed_row_is_an_update_that_has_arrived(content_range: str, delivered: bool) -> None:
    verdict = judge(UPDATE, 1, Reply(204, {"content-range": content_range}, b""))
    assert isinstance(verdict, Delivered if delivered else Retry)


def message(verdict: Verdict) -> str:
    assert isinstance(verdict, Pause)
    return verdict.refusal.message


def test_a_silence_says_what_the_network_said_else_its_kind() -> None:
    assert message(judge(INSERT, 1, Failure(Silence.CUT, "connection reset"))) == "connection reset"
    assert message(judge(INSERT, 1, Failure(Silence.CUT))) == "cut"


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        pytest.param({}, "the answer does not come from PostgREST", id="no mark at all"),
        pytest.param({"content-range": "*/*"}, "a proxy on the way removes the header Prefer", id="one of two"),
        pytest.param({"content-range": "bytes 0-99/100"}, "the answer does not come from", id="a file server's"),
    ],
)
def test_a_success_without_a_mark_says_whose_it_may_be(headers: dict[str, str], words: str) -> None:
    assert message(judge(INSERT, 1, Reply(201, headers, b""))).startswith(words)


def test_words_that_are_not_postgrests_own_say_so_and_its_own_are_left_alone() -> None:
    own = judge(INSERT, 1, postgrest(403, "42501", "permission denied for table t"))
    assert message(own) == "permission denied for table t"
    gateway = judge(INSERT, 1, Reply(403, {}, b'{"code":"42501","message":"permission denied"}'))
    assert message(gateway).startswith("permission denied (not PostgREST's own words")
    assert message(judge(INSERT, 1, Reply(502, {}, b"<html>"))) == "HTTP 502 without a PostgREST error"


def test_only_an_operator_ends_these() -> None:
    assert {reason.value for reason in Reason if reason.needs_operator} == {
        "unauthorized", "forbidden", "suspended", "misconfigured", "schema", "refused", "other_project",
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- what a reply says


def test_failures_of_one_kind_are_equal_whatever_was_said() -> None:
    reset = Failure(Silence.CUT, "connection reset")
    assert reset == Failure.CUT != Failure.TIMEOUT
    assert (reset.said, Failure.CUT.said) == ("cut: connection reset", "cut")


def test_a_page_names_the_proxy_that_it_came_through() -> None:
    page = Reply(502, {}, b"<html>", via="http://proxy:3128")
    assert read_refusal(page).message == "HTTP 502 without a PostgREST error, through http://proxy:3128"


def test_a_request_id_keeps_200_characters() -> None:
    assert read_refusal(Reply(500, {"x-request-id": "i" * 500}, b"")).request_id == "i" * 200


@pytest.mark.parametrize(
    ("code", "status", "is_its"),
    [
        pytest.param("42883", 404, True, id="no such function"),
        pytest.param("42883", 406, True, id="the same, where only its arguments differ"),
        pytest.param("42883", 407, False, id="control"),
        pytest.param("54000", 413, True, id="a limit, until PostgREST 11"),
        pytest.param("54000", 500, True, id="the same, since"),
        pytest.param("54000", 414, False, id="control: the next one"),
        pytest.param("PGRST102", 300, True, id="the first status of an error"),
        pytest.param("PGRST102", 299, False, id="control: a success"),
    ],
)
def test_a_code_stands_under_its_own_statuses(code: str, status: int, is_its: bool) -> None:
    assert belongs(code, status) is is_its
