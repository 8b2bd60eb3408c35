"""What stands in a request, byte by byte."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from hypothesis import given, strategies as st

from outbox.entry import LaneSpec, Operation, Outgoing
from outbox.postgrest.client import Request, build

JSON = ("content-type", "application/json")
INSERT = LaneSpec("trades", Operation.INSERT, "id", "id,price", False)
UPSERT = LaneSpec("sessions", Operation.UPSERT, "account,day", "account,day,pnl", True)
UPDATE = LaneSpec("sessions", Operation.UPDATE, "", "pnl", True)


def outgoing(id: str, payload: str, match: str | None = None) -> Outgoing:
    return Outgoing(1, id, None, payload, match, "digest", 0)


def test_an_insert_is_pinned_to_the_byte() -> None:
    entries = [outgoing("i-1", '{"price":1.10}'), outgoing("i-2", '{"id":"theirs","price":2}')]
    assert build(INSERT, entries) == Request(
        "POST",
        "trades?on_conflict=id&columns=id,price",
        (JSON, ("prefer", "return=minimal,resolution=ignore-duplicates,missing=default")),
        b'[{"id":"i-1","price":1.10},{"id":"theirs","price":2}]',
    )


def test_an_upsert_is_pinned_to_the_byte_and_never_gets_the_id() -> None:
    assert build(UPSERT, [outgoing("i-1", '{"account":"a","day":"2026-01-01","pnl":0.1}')]) == Request(
        "POST",
        "sessions?on_conflict=account,day&columns=account,day,pnl",
        (JSON, ("prefer", "return=minimal,resolution=merge-duplicates,missing=default")),
        b'[{"account":"a","day":"2026-01-01","pnl":0.1}]',
    )


def test_an_update_is_pinned_to_the_byte() -> None:
    assert build(UPDATE, [outgoing("i-1", '{"pnl":1}', '{"account":"a","day":null}')]) == Request(
        "PATCH",
        "sessions?account=eq.a&day=is.null&columns=pnl",
        (JSON, ("prefer", "return=minimal,count=exact")),
        b'{"pnl":1}',
    )


def test_an_update_carries_one_entry() -> None:
    with pytest.raises(ValueError, match="too many values"):
        build(UPDATE, [outgoing("i", "{}", "{}"), outgoing("j", "{}", "{}")])


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        pytest.param('{"price":1}', '{"id":"i\\"1","price":1}', id="without the key column"),
        pytest.param('{"id":5,"price":1}', '{"id":5,"price":1}', id="with the key column"),
        pytest.param('{"price":"\\"id\\":"}', '{"id":"i\\"1","price":"\\"id\\":"}', id="its name inside a text"),
        pytest.param('{"price":["id"]}', '{"id":"i\\"1","price":["id"]}', id="its name as a value"),
        pytest.param('{"price":{"id":5}}', '{"id":"i\\"1","price":{"id":5}}', id="its name one level down"),
        pytest.param(' \n\t{ "price" : 1 } \n', '{"id":"i\\"1", "price" : 1 } \n', id="a shell's blanks"),
        pytest.param('{"note":"é€😀"}', '{"id":"i\\"1","note":"é€😀"}', id="other scripts"),
    ],
)
def test_an_insert_fills_the_key_column_unless_the_row_has_it(payload: str, expected: str) -> None:
    request = build(INSERT, [outgoing('i"1', payload)])
    assert request.body == f"[{expected}]".encode()
    assert json.loads(request.body)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param('"a&b=c"', "eq.a%26b%3Dc", id="ampersand"),
        pytest.param('"%41"', "eq.%2541", id="percent"),
        pytest.param('"a,b"', "eq.a%2Cb", id="comma"),
        pytest.param('"é"', "eq.%C3%A9", id="other script"),
        pytest.param('"(x)"', "eq.%28x%29", id="parentheses"),
        pytest.param('"\\""', "eq.%22", id="quote"),
        pytest.param('"a b+c"', "eq.a%20b%2Bc", id="blank and plus"),
        pytest.param('"#?/:;@"', "eq.%23%3F%2F%3A%3B%40", id="what URLs are cut by"),
        pytest.param('"\\r\\nX: y"', "eq.%0D%0AX%3A%20y", id="a header smuggled in"),
        pytest.param('"null"', "eq.null", id="the word null"),
        pytest.param('""', "eq.", id="empty"),
        pytest.param("null", "is.null", id="null"),
        pytest.param("true", "is.true", id="true"),
        pytest.param("false", "is.false", id="false"),
        pytest.param("1", "eq.1", id="number"),
        pytest.param("1.10000000000000000000001", "eq.1.10000000000000000000001", id="digits of a decimal"),
        pytest.param("1E+2", "eq.1E%2B2", id="exponent"),
        pytest.param("123456789012345678901234567890", "eq.123456789012345678901234567890", id="a long integer"),
    ],
)
def test_a_filter_is_encoded(value: str, expected: str) -> None:
    request = build(UPDATE, [outgoing("i", '{"pnl":1}', f'{{"a":{value}}}')])
    assert request.path == f"sessions?a={expected}&columns=pnl"
    # httpx must send it as it stands.
    assert str(httpx.URL(f"http://h/rest/v1/{request.path}")) == f"http://h/rest/v1/{request.path}"


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.text(st.characters(codec="utf-8")), min_size=1))
def test_any_text_comes_out_of_the_url_as_it_went_in(match: dict[str, str]) -> None:
    request = build(UPDATE, [outgoing("i", '{"pnl":1}', json.dumps(match))])
    query = parse_qsl(urlsplit(f"http://h/{request.path}").query, keep_blank_values=True, strict_parsing=True)
    assert query == [*((name, f"eq.{value}") for name, value in sorted(match.items())), ("columns", "pnl")]


def test_no_request_carries_a_key() -> None:
    for spec, match in ((INSERT, None), (UPSERT, None), (UPDATE, '{"a":1}')):
        names = {name for name, _ in build(spec, [outgoing("i", '{"x":1}', match)]).headers}
        assert names == {"content-type", "prefer"}
