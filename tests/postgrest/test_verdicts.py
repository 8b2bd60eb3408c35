"""Every answer of the remote end gets the right verdict: `rest_errors.csv`, row by row, and what holds for any answer.

Columns of the table. examples: `status/code` of answers that the row stands for. sender: postgrest (JSON with the
code), gateway (a page), or why there is no answer. alone, several: the verdict for a batch of one row and of five;
one for all examples, or one each, divided by " / ".
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from outbox.entry import LaneSpec, Operation, Outgoing
from outbox.postgrest.client import build
from outbox.postgrest.replies import belongs
from outbox.postgrest.verdicts import (
    CODES,
    SMALL_BYTES,
    STATUSES,
    Delivered,
    Failure,
    Pause,
    Reason,
    Reject,
    Reply,
    Retry,
    Scope,
    Silence,
    Split,
    Verdict,
    _Rest,
    judge,
    read_refusal,
)
from tests.proof.counts import reached

_RULES = [rule for rule in (*CODES.values(), *STATUSES.values()) if isinstance(rule, _Rest)]

INSERT, UPSERT, UPDATE = Operation.INSERT, Operation.UPSERT, Operation.UPDATE
APPLIED = {"preference-applied": "return=minimal, resolution=ignore-duplicates, missing=default"}
RESOLUTION = {INSERT: "resolution=ignore-duplicates", UPSERT: "resolution=merge-duplicates"}
OWN = "(id)=(01890000-0000-7000-8000-000000000001)"

TABLE = list(csv.DictReader((Path(__file__).parent / "rest_errors.csv").read_text(encoding="utf-8").splitlines()))


def postgrest(status: int, code: str, message: str = "", *, details: object = None, hint: str | None = None) -> Reply:
    body = {"code": code, "details": details, "hint": hint, "message": message}
    return Reply(status, {"content-type": "application/json; charset=utf-8"}, json.dumps(body).encode())


def page(status: int, body: bytes = b"<!DOCTYPE html><title>Cloudflare</title>", kind: str = "text/html") -> Reply:
    return Reply(status, {"content-type": kind}, body)


def written(verdict: Verdict) -> str:
    """Return a verdict as the table writes it."""
    match verdict:
        case Pause():
            flags = [name for name in ("slow", "shrink") if getattr(verdict, name)]
            return " ".join([f"pause:{verdict.scope.value}", *flags])
        case Split():
            return "split shrink" if verdict.shrink else "split"
        case _:
            return type(verdict).__name__.lower()


def example(row: dict[str, str], text: str) -> Reply | Failure:
    """Return the answer that `text` (status/code) of `row` stands for."""
    if row["sender"] in list(Silence):
        return Failure(Silence(row["sender"]))
    status, _, code = text.partition("/")
    if row["class"] == "ok":
        resolution = RESOLUTION.get(Operation(row["operation"]))
        headers = {"preference-applied": resolution} if resolution else {"content-range": "0-0/1"}
        return Reply(int(status), headers, b"")
    return postgrest(int(status), code, row["message"] or row["meaning"]) if code else page(int(status))


def cases() -> Iterator[object]:
    for number, row in enumerate(TABLE, 2):
        examples = row["examples"].split() or ["none/"]
        alone, several = (
            row[name].split(" / ") if "/" in row[name] else [row[name]] * len(examples) for name in ("alone", "several")
        )
        for text, one, many in zip(examples, alone, several, strict=True):
            yield pytest.param(row, text, one, many, id=f"line {number}: {text.rstrip('/')} {row['meaning'][:40]}")


@pytest.mark.parametrize(("row", "text", "alone", "several"), list(cases()))
def test_an_answer_of_the_table_gets_its_verdict(row: dict[str, str], text: str, alone: str, several: str) -> None:
    outcome, operation = example(row, text), Operation(row["operation"])
    assert written(judge(operation, 1, outcome, own=OWN)) == alone
    assert written(judge(operation, 5, outcome)) == several


def test_the_table_holds_all_116_answers() -> None:
    assert len(TABLE) == 116
    reached("answers", len(TABLE))


def test_a_verdict_of_the_table_fits_the_class_of_its_answer() -> None:
    """The table's own columns agree: what an outage or a setting causes never ends an entry."""
    fitting = {
        "ok": {"delivered"},
        "row": {"reject", "retry"},
        "already_there": {"reject"},  # without the details that name the key; see the test of duplicates
        "transient": {"pause"},
        "config": {"pause"},
        "batch": {"pause", "reject"},
        "by status": {"pause"},
    }
    for row in TABLE:
        kinds = {verdict.partition(":")[0].split()[0] for verdict in row["alone"].split(" / ")}
        assert kinds <= fitting[row["class"]], row
    refused = {
        row["code"] or row["http_status"] for row in TABLE if row["class"] == "batch" and row["alone"] == "reject"
    }
    assert refused == {"21000"}


def test_control_a_verdict_by_status_alone_gets_forty_answers_wrong() -> None:
    def naive(rows: int, outcome: Reply | Failure) -> str:
        if isinstance(outcome, Failure):
            return "pause"
        match outcome.status:
            case status if 200 <= status < 300:
                return "delivered"
            case 409:
                return "delivered"  # "a duplicate"
            case 401 | 402 | 403 | 404 | 405 | 408 | 429:
                return "pause"
            case status if 400 <= status < 500:
                return "reject" if rows == 1 else "split"
            case _:
                return "pause"

    wrong = {
        text
        for row in TABLE
        for text in row["examples"].split()
        if naive(1, example(row, text))
        != written(judge(Operation(row["operation"]), 1, example(row, text))).split(":")[0].split()[0]
    }
    # Rows lost: a portal's page taken for success, a missing parent for a duplicate, a missing column for a bad row.
    assert {"202/", "409/23503", "400/PGRST204", "400/42703", "400/42P10"} <= wrong
    # Rows sent for ever: permanent, although a 500.
    assert {"500/54000", "500/21000", "500/P0002"} <= wrong
    assert len(wrong) >= 40


@pytest.mark.parametrize("row", [row for row in TABLE if row["class"] != "ok"], ids=lambda row: row["meaning"][:40])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"code":"23514","message":"new row viol', id="cut"),
        pytest.param(b"<html>502 Bad Gateway</html>", id="HTML"),
        pytest.param(b'["23514"]', id="a list"),
        pytest.param(b'"23514"', id="a text"),
        pytest.param(b"23514", id="a number"),
        pytest.param(b"[" * 100_000, id="nested without end"),
        pytest.param(b"\xff\xfe\x00garbage\x80", id="no text at all"),
        pytest.param(b'{"code":null,"message":null,"details":{"code":"23514"}}', id="JSON without a code"),
    ],
)
def test_an_answer_whose_body_cannot_be_read_ends_no_entry(row: dict[str, str], body: bytes) -> None:
    for text in row["examples"].split():
        status = int(text.partition("/")[0])
        if status == 413:  # one row of that size is refused whatever the page says
            continue
        verdict = judge(INSERT, 1, page(status, body))
        assert isinstance(verdict, Pause), verdict


@pytest.mark.parametrize("kind", ["text/html", "text/plain", "application/octet-stream", ""])
def test_a_wrong_content_type_does_not_hide_the_servers_code(kind: str) -> None:
    reply = Reply(400, {"content-type": kind}, b'{"code":"23514","message":"m","details":"d","hint":"h"}')
    verdict = judge(INSERT, 1, reply)
    assert isinstance(verdict, Reject)
    refusal = verdict.refusal
    assert (refusal.status, refusal.code, refusal.message, refusal.details, refusal.hint) == (
        400,
        "23514",
        "m",
        "d",
        "h",
    )


# ---------------------------------------------------------------------------------------------- success


@pytest.mark.parametrize("operation", [INSERT, UPSERT])
@pytest.mark.parametrize("status", [200, 201, 204])
@pytest.mark.parametrize(
    ("headers", "body", "delivered"),
    [
        pytest.param({"preference-applied": "return=minimal, {resolution}"}, b"", True, id="as PostgREST answers"),
        pytest.param({"preference-applied": "{resolution}"}, b"", True, id="only the resolution"),
        pytest.param({}, b"", False, id="no mark"),
        pytest.param({"preference-applied": "return=minimal"}, b"", False, id="another preference"),
        pytest.param({"content-type": "text/html"}, b"<html>Please log in</html>", False, id="captive portal"),
        pytest.param({"content-range": "0-0/1"}, b"", False, id="the mark of an update"),
    ],
)
def test_a_post_counts_as_success_only_with_the_mark_of_postgrest(
    operation: Operation, status: int, headers: dict[str, str], body: bytes, delivered: bool
) -> None:
    told = {name: value.replace("{resolution}", RESOLUTION[operation]) for name, value in headers.items()}
    verdict = judge(operation, 3, Reply(status, told, body))
    if delivered:
        assert verdict == Delivered()
    else:
        assert isinstance(verdict, Pause)
        assert (verdict.scope, verdict.reason) == (Scope.EVERYTHING, Reason.NOT_POSTGREST)


@pytest.mark.parametrize("status", [202, 203, 205, 206, 207, 208, 226, 299])
@pytest.mark.parametrize("operation", [INSERT, UPSERT, UPDATE])
def test_a_gateway_that_only_takes_a_request_in_has_stored_nothing(operation: Operation, status: int) -> None:
    verdict = judge(operation, 1, Reply(status, {**APPLIED, "content-range": "0-0/1"}, b""))
    assert isinstance(verdict, Pause)
    assert (verdict.scope, verdict.reason) == (Scope.EVERYTHING, Reason.NOT_POSTGREST)


@pytest.mark.parametrize(
    ("operation", "applied", "contrary"),
    [
        pytest.param(UPSERT, "resolution=ignore-duplicates", "resolution=ignore-duplicates", id="not merged"),
        pytest.param(INSERT, "resolution=merge-duplicates", "resolution=merge-duplicates", id="merged over another"),
        pytest.param(UPSERT, f"{RESOLUTION[UPSERT]},{RESOLUTION[INSERT]}", RESOLUTION[INSERT], id="both"),
        pytest.param(UPSERT, "Resolution=Ignore-Duplicates", "resolution=ignore-duplicates", id="in capitals"),
        pytest.param(INSERT, "resolution=ignore-duplicates, missing=null", "missing=null", id="NULL for a default"),
        pytest.param(UPSERT, "resolution=merge-duplicates , tx=rollback", "tx=rollback", id="rolled back"),
        pytest.param(UPDATE, "return=minimal, count=exact, tx=rollback", "tx=rollback", id="an update, rolled back"),
        pytest.param(UPDATE, "resolution=merge-duplicates", "resolution=merge-duplicates", id="an answer to another"),
        # Controls: what is stored is what was sent.
        pytest.param(UPSERT, "return=representation, resolution=merge-duplicates", "", id="control: a longer answer"),
        pytest.param(INSERT, "resolution=ignore-duplicates, handling=strict, timezone=UTC", "", id="control: unasked"),
        pytest.param(INSERT, "resolution=ignore-duplicates, tx=commit, count=planned", "", id="control: committed"),
        pytest.param(UPDATE, "missing=default, count=exact, tx=commit", "", id="control: an update"),
    ],
)
def test_an_answer_that_contradicts_what_was_asked_is_no_delivery(
    operation: Operation, applied: str, contrary: str
) -> None:
    verdict = judge(operation, 1, Reply(201, {"preference-applied": applied, "content-range": "0-0/1"}, b""))
    assert (verdict == Delivered()) is (contrary == "")
    if contrary:
        assert isinstance(verdict, Pause)
        assert (verdict.scope, verdict.reason) == (Scope.EVERYTHING, Reason.NOT_POSTGREST)
        assert verdict.refusal.message.startswith(f"the answer says {contrary}, which nobody asked for")


@pytest.mark.parametrize("operation", [INSERT, UPSERT])
def test_what_a_request_prefers_is_delivered_by_an_answer_that_applies_it(operation: Operation) -> None:
    entry = Outgoing(seq=1, id="a", key=None, match=None, payload='{"n":1}', digest="", attempts=0)
    spec = LaneSpec("t", operation, "id", "id", ordered=True)
    prefer = dict(build(spec, [entry]).headers)["prefer"]
    assert judge(operation, 1, Reply(201, {"preference-applied": prefer.replace(",", ", ")}, b"")) == Delivered()


@pytest.mark.parametrize(
    ("content_range", "expected"),
    [
        pytest.param("0-0/1", "delivered", id="one row"),
        pytest.param("0-41/42", "delivered", id="many rows"),
        pytest.param("*/1", "delivered", id="counted, not returned"),
        pytest.param("*/0", "retry", id="no row matched"),
        pytest.param("*/*", "pause:everything", id="not counted"),
        pytest.param("", "pause:everything", id="empty"),
        pytest.param(None, "pause:everything", id="missing"),
        pytest.param("bytes 0-99/100", "pause:everything", id="a file server's"),
        pytest.param("0-0/x", "pause:everything", id="no number"),
        pytest.param("0-0/-1", "pause:everything", id="negative"),
        pytest.param("0-0/１", "pause:everything", id="a digit of another script"),
        pytest.param("0-0/" + "9" * 5000, "pause:everything", id="more digits than a number has"),
    ],
)
def test_an_update_is_judged_by_the_rows_it_changed(content_range: str | None, expected: str) -> None:
    headers = {} if content_range is None else {"content-range": content_range}
    assert written(judge(UPDATE, 1, Reply(204, headers, b""))) == expected


def test_the_mark_of_a_post_says_nothing_about_an_update() -> None:
    assert written(judge(UPDATE, 1, Reply(204, APPLIED, b""))) == "pause:everything"


# ---------------------------------------------------------------------------------------------- duplicates


@pytest.mark.parametrize(
    ("operation", "rows", "details", "expected"),
    [
        pytest.param(INSERT, 1, f"Key {OWN} already exists.", "delivered", id="our own id"),
        pytest.param(INSERT, 1, f"Key {OWN.upper()} already exists.", "delivered", id="our id in capitals"),
        pytest.param(INSERT, 1, f"Schlüssel »{OWN}« existiert bereits.", "delivered", id="in another language"),
        pytest.param(INSERT, 1, "Key (client_order_id)=(7) already exists.", "reject", id="another unique column"),
        pytest.param(INSERT, 1, "Key (id)=(7) already exists.", "reject", id="another id"),
        pytest.param(INSERT, 1, f"Key (note)=({OWN}) already exists.", "reject", id="a value that quotes our id"),
        pytest.param(INSERT, 1, f"Key (lower(note))=(x {OWN}) already exists.", "reject", id="an expression that does"),
        pytest.param(INSERT, 1, f"Key (account, id)=(1, {OWN[6:-1]}) already exists.", "reject", id="a wider key"),
        pytest.param(INSERT, 1, None, "reject", id="no details"),
        pytest.param(INSERT, 5, f"Key {OWN} already exists.", "split", id="among others"),
        pytest.param(UPSERT, 1, f"Key {OWN} already exists.", "pause:everything", id="an upsert that was no merge"),
        pytest.param(UPSERT, 1, "Key (id, n)=(7, 7) already exists.", "reject", id="an upsert, a wider key"),
        pytest.param(UPDATE, 1, f"Key {OWN} already exists.", "reject", id="an update"),
    ],
)
def test_a_duplicate_is_ours_only_for_an_insert_alone_on_its_own_key(
    operation: Operation, rows: int, details: str | None, expected: str
) -> None:
    reply = postgrest(409, "23505", "duplicate key value violates unique constraint", details=details)
    assert written(judge(operation, rows, reply, own=OWN)) == expected


def test_a_duplicate_without_an_own_key_is_a_strangers() -> None:
    reply = postgrest(409, "23505", details=f"Key {OWN} already exists.")
    assert isinstance(judge(INSERT, 1, reply, own=None), Reject)


# ---------------------------------------------------------------------------------------------- codes and statuses


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        pytest.param(postgrest(403, "42501", "permission denied for table t"), "pause:lane slow", id="GRANT"),
        pytest.param(
            postgrest(403, "42501", 'new row violates row-level security policy for table "t"'), "reject", id="policy"
        ),
        pytest.param(postgrest(401, "42501", "permission denied for table t"), "pause:everything slow", id="anon key"),
        pytest.param(
            postgrest(400, "PGRST102", "Empty or invalid json"), "pause:destination shrink", id="a body lost on the way"
        ),
        pytest.param(
            postgrest(400, "22P02", "invalid input syntax for type json"), "pause:destination shrink", id="the same"
        ),
        pytest.param(postgrest(500, "55000", 'cannot insert into view "v"'), "pause:lane slow", id="a view"),
        pytest.param(
            postgrest(500, "55000", "ON CONFLICT does not support deferrable unique constraints as arbiters"),
            "pause:lane slow",
            id="a deferrable key",
        ),
        pytest.param(
            postgrest(400, "428C9", 'cannot insert a non-DEFAULT value into column "id"'),
            "pause:lane slow",
            id="a key that is generated always",
        ),
        pytest.param(
            Reply(400, {}, b'{"code":"","details":null,"hint":null,"message":""}'),
            "pause:everything",
            id="PostgreSQL has died under PostgREST",
        ),
        pytest.param(
            postgrest(400, "PGRST102", "Content-Type not acceptable: text/plain"),
            "pause:destination slow",
            id="a header lost on the way",
        ),
        pytest.param(postgrest(400, "42601", "syntax error"), "pause:lane slow", id="the server's own SQL is wrong"),
        pytest.param(
            postgrest(400, "0A000", "cached plan must not change result type"), "pause:destination", id="plan"
        ),
        pytest.param(
            postgrest(400, "26000", 'prepared statement "0" does not exist'), "pause:destination", id="pooler"
        ),
        pytest.param(
            postgrest(400, "42P05", 'prepared statement "0" already exists'), "pause:destination", id="pooler2"
        ),
        pytest.param(postgrest(400, "3F000", "no such schema"), "pause:destination slow", id="schema gone"),
        pytest.param(postgrest(413, "PT413", "too large"), "reject", id="413 raised on purpose"),
        pytest.param(page(413), "pause:destination shrink", id="413 from a gateway for a small row"),
        # A gateway's own code begins like a class of PostgreSQL's: 54 is a refused row, 40 a deadlock.
        pytest.param(Reply(544, {}, b'{"code":544,"message":"timeout"}'), "pause:destination shrink", id="code 544"),
        pytest.param(Reply(540, {}, b'{"code":540,"message":"paused"}'), "pause:everything slow", id="code 540"),
        pytest.param(Reply(401, {}, b'{"code":401,"message":"bad JWT"}'), "pause:everything slow", id="code 401"),
        pytest.param(Reply(400, {}, b'{"code":"22","message":"?"}'), "pause:destination shrink", id="half a SQLSTATE"),
        pytest.param(
            Reply(400, {}, b'{"code":"unexpected","error":"?"}'), "pause:destination shrink", id="no SQLSTATE"
        ),
        pytest.param(postgrest(400, "PGRST999"), "pause:destination shrink", id="a PGRST code of the future"),
        pytest.param(postgrest(418, "ZZ999"), "pause:destination shrink", id="neither code nor status is known"),
    ],
)
def test_a_lone_entry_gets_the_verdict(reply: Reply, expected: str) -> None:
    assert written(judge(INSERT, 1, reply)) == expected


@pytest.mark.parametrize(
    ("sent_bytes", "expected"), [(SMALL_BYTES - 1, "pause:destination shrink"), (SMALL_BYTES, "reject")]
)
def test_a_gateway_refuses_a_large_row_for_good_and_a_small_one_by_mistake(sent_bytes: int, expected: str) -> None:
    verdict = judge(INSERT, 1, page(413), sent_bytes=sent_bytes)
    assert written(verdict) == expected


# ---------------------------------------------------------------------------------------------- whose words they are

FORM = {"code": "23514", "details": None, "hint": None, "message": "new row violates check constraint"}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(400, {"code": 10003, "message": "bad gateway key"}, id="a number for a code"),
        pytest.param(429, {"code": 38001, "message": "slow down"}, id="a number that reads like a SQLSTATE"),
        pytest.param(503, {"code": "21001", "message": "overloaded"}, id="a text that reads like one"),
        pytest.param(503, FORM, id="the form, under another status"),
        pytest.param(422, FORM, id="the form, under a status that PostgREST never gives"),
        pytest.param(400, FORM | {"code": 23514}, id="the form, with a number"),
        pytest.param(400, {"code": "23514", "message": "m"}, id="two of the keys"),
        pytest.param(400, FORM | {"path": "/rest/v1/t"}, id="a key too many"),
        pytest.param(400, FORM | {"message": None}, id="without a message"),
        pytest.param(400, FORM | {"hint": {"see": "docs"}}, id="a hint that is no text"),
        pytest.param(400, FORM | {"code": "2351"}, id="a code of four characters"),
        pytest.param(409, FORM | {"code": "23514"}, id="a conflict that is none"),
        pytest.param(400, FORM | {"code": "23505"}, id="a duplicate under 400"),
        pytest.param(400, FORM | {"code": "P0002"}, id="PL/pgSQL's own errors are 500"),
        pytest.param(400, FORM | {"code": "54000"}, id="a limit under 400"),
        pytest.param(413, FORM | {"code": "PT414"}, id="another status than the database asked for"),
    ],
)
def test_only_postgrests_own_words_end_an_entry(status: int, body: dict[str, object]) -> None:
    reply = Reply(status, {}, json.dumps(body).encode())
    assert not read_refusal(reply).genuine
    alone, several = judge(INSERT, 1, reply, own=OWN), judge(INSERT, 5, reply)
    assert isinstance(alone, Pause) and "proxy on the way" in alone.refusal.message
    assert isinstance(several, Split if status == 413 else Pause)


def test_control_in_the_form_and_under_its_status_they_do() -> None:
    assert isinstance(judge(INSERT, 1, Reply(400, {}, json.dumps(FORM).encode())), Reject)
    assert isinstance(judge(INSERT, 5, Reply(400, {}, json.dumps(FORM).encode())), Split)


@pytest.mark.parametrize(
    "row", [row for row in TABLE if row["sender"] == "postgrest"], ids=lambda row: row["meaning"][:40]
)
def test_each_code_of_the_table_stands_under_a_status_that_belongs_to_it(row: dict[str, str]) -> None:
    for text in row["examples"].split():
        status, _, code = text.partition("/")
        if row["class"] != "ok" and re.fullmatch("PGRST...|[0-9A-Z]{5}", code):
            assert belongs(code, int(status)), text


@pytest.mark.parametrize(
    ("operation", "headers", "named"),
    [
        pytest.param(INSERT, {"content-range": "*/*"}, True, id="no Preference-Applied"),
        pytest.param(UPSERT, {"content-range": "*/3"}, True, id="only that one is gone"),
        pytest.param(UPDATE, {"content-range": "0-0/*"}, True, id="an update that was not counted"),
        pytest.param(INSERT, {}, True, id="both gone"),
        pytest.param(INSERT, APPLIED, False, id="control: they are there"),
    ],
)
def test_a_proxy_that_removes_our_headers_is_named(operation: Operation, headers: dict[str, str], named: bool) -> None:
    verdict = judge(operation, 1, Reply(201, headers, b""))
    assert (isinstance(verdict, Pause) and "a proxy on the way removes" in verdict.refusal.message) is named


def test_every_rule_can_be_reached_by_its_code() -> None:
    for prefix in CODES:
        assert prefix.startswith("PGRST") or 2 <= len(prefix) <= 5
    assert all(100 <= status < 600 for status in STATUSES)


def test_a_refusal_keeps_at_most_2000_characters_of_each_field() -> None:
    refusal = read_refusal(postgrest(400, "23514", "m" * 5000, details=["d" * 5000]))
    assert (len(refusal.message), len(refusal.details or "")) == (2000, 2000)


def test_a_refusal_can_be_stored_whatever_the_gateway_has_cut_in_two() -> None:
    half = '{"code":"x\\ud83d","details":"\\ud83d","hint":"\\u0000","message":"\\ud83d\\udcb9 \\ud83d"}'
    assert "\ud83d" in json.loads(half)["message"], "the control: as JSON it is well-formed"
    refusal = read_refusal(Reply(418, {"x-request-id": "\ud83d"}, half.encode()))
    said = (refusal.code, refusal.details, refusal.hint, refusal.message, refusal.request_id)
    assert said == ("x\ufffd", "\ufffd", "\N{SYMBOL FOR NULL}", "💹 \ufffd", "\ufffd")


def test_a_batch_without_rows_is_no_batch() -> None:
    with pytest.raises(ValueError, match="rows is 0"):
        judge(INSERT, 0, Failure.CUT)


# ---------------------------------------------------------------------------------------------- for any answer

operations = st.sampled_from(list(Operation))
codes = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=8),
    st.from_regex(r"[0-9A-Z]{5}|PGRST[0-9]{3}|PT[0-9]{3}", fullmatch=True),
    st.sampled_from(sorted(CODES)),
)
bodies = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda code, message, details: json.dumps({"code": code, "message": message, "details": details}).encode(),
        codes,
        st.text(max_size=20),
        st.one_of(st.none(), st.just(f"Key {OWN} already exists."), st.text(max_size=20)),
    ),
)
replies = st.builds(
    Reply,
    st.integers(100, 999),
    st.dictionaries(st.sampled_from(["content-range", "preference-applied", "retry-after"]), st.text(max_size=10)),
    bodies,
)


@given(operations, st.integers(2, 1000), st.one_of(replies, st.sampled_from([Failure(kind) for kind in Silence])))
def test_several_rows_are_never_refused_or_postponed_together(
    operation: Operation, rows: int, outcome: Reply | Failure
) -> None:
    verdict = judge(operation, rows, outcome, own=OWN)
    if operation is not UPDATE:
        assert not isinstance(verdict, Reject | Retry)
    else:
        assert not isinstance(verdict, Reject)


@given(operations, st.integers(1, 3), st.integers(100, 999), st.text(max_size=8))
def test_an_unknown_answer_ends_no_entry(operation: Operation, rows: int, status: int, code: str) -> None:
    known = status in STATUSES or (len(code) == 5 and status == 400) or any(code.startswith(known) for known in CODES)
    if known and not (status < 300 or status >= 600):
        return
    assert isinstance(judge(operation, rows, postgrest(status, code), own=OWN), Pause)


@given(operations, st.integers(1, 3), st.integers(200, 299), bodies, st.text(max_size=12))
def test_a_2xx_without_the_marks_is_never_a_delivery(
    operation: Operation, rows: int, status: int, body: bytes, noise: str
) -> None:
    headers = {"content-type": noise, "server": noise, "content-location": noise}
    assert isinstance(judge(operation, rows, Reply(status, headers, body)), Pause)


@given(operations, st.integers(1, 1000), replies)
def test_a_reply_that_is_no_success_delivers_only_our_own_duplicate(
    operation: Operation, rows: int, reply: Reply
) -> None:
    verdict = judge(operation, rows, reply, own=OWN)
    if isinstance(verdict, Delivered) and not 200 <= reply.status < 300:
        refusal = read_refusal(reply)
        assert (operation, rows, refusal.code) == (INSERT, 1, "23505")
        assert OWN in (refusal.details or "")


def test_what_is_probed_rarely_is_what_only_an_operator_can_fix() -> None:
    slow = {rule.reason for rule in _RULES if rule.slow}
    assert slow == {reason for reason in Reason if reason.needs_operator} - {Reason.OTHER_PROJECT, Reason.REFUSED}
    assert not [rule for rule in _RULES if not rule.slow and rule.reason.needs_operator]
