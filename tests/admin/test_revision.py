"""What a hand may make of a refused entry: the same entry with another row, and never another entry."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from outbox.admin.revision import Revised, Unrevised, differences, laid_out, revised
from outbox.entry import Destination, Outgoing
from outbox.errors import InvalidEntry
from outbox.postgrest.batch import sent_digests
from outbox.prepare import digest, written


def stored(row: dict[str, object], **how: object) -> Unrevised:
    """Return an entry as `put` stores it; it was refused since."""
    ready = written(Destination("fills", on_conflict=("number",)), row, **how)  # type: ignore[arg-type]
    intent = ready.intent
    return Unrevised(
        seq=1,
        id="t-1",
        destination="fills",
        operation=intent.spec.operation,
        key=intent.key,
        payload=ready.payload,
        on_conflict=intent.on_conflict,
        match=intent.match,
        created_at_ms=0,
        spec=intent.spec,
    )


def is_what_would_be_sent(entry: Unrevised, new: Revised) -> bool:
    assert new.spec is not None
    assert new.digest is not None
    outgoing = Outgoing(1, entry.id, new.key, new.payload, entry.match, new.digest, 0)
    return sent_digests(new.spec, [outgoing]) == [new.digest]


@pytest.mark.parametrize(
    ("how", "row", "text", "columns", "key"),
    [
        pytest.param({}, {"n": "0,1"}, '{"n": 0.10}', "id,n", None, id="an insert"),
        pytest.param({}, {"n": 1}, '{"n": 1, "more": [1.50]}', "id,more,n", None, id="another column: another lane"),
        pytest.param({}, {"n": 1}, '{"id": "t-1", "n": 1}', "id,n", None, id="its own id"),
        pytest.param({}, {"n": 1}, '{"id": null, "n": 1}', "id,n", None, id="no id"),
        pytest.param({"key": "k"}, {"n": 1}, '{"n": 2}', "id,n", "k", id="a caller's key stays"),
        pytest.param({"operation": "upsert"}, {"number": 7, "n": 1}, '{"number": 8, "n": 1}', "n,number", "8",
                     id="an upsert of another row has that row's key"),
        pytest.param({"operation": "upsert", "key": "k"}, {"number": 7}, '{"number": 8}', "number", "k",
                     id="unless its caller gave one"),
        pytest.param({"operation": "update", "match": {"a": 1}}, {"n": 1}, '{"n": 2}', "n", "1", id="an update"),
    ],
)  # fmt: skip
def test_an_edited_entry_is_one_that_a_put_could_have_made(
    how: dict[str, object], row: dict[str, object], text: str, columns: str, key: str | None
) -> None:
    entry = stored(row, **how)
    new = revised(entry, text)

    assert new.spec is not None
    assert (new.spec.columns, new.key) == (columns, key)
    assert new.spec._replace(columns="") == (entry.spec or new.spec)._replace(columns="")
    assert is_what_would_be_sent(entry, new)


def test_numbers_keep_their_digits() -> None:
    assert revised(stored({"n": 1}), '{"n": 1.10, "m": 12345678901234567890.5}').payload == (
        '{"m":12345678901234567890.5,"n":1.10}'
    )
    assert laid_out('{"m":1.10,"n":{"x":[1,2]}}') == '{\n  "m": 1.10,\n  "n": {"x":[1,2]}\n}\n'
    assert json.loads(laid_out('{"ü":"\\n"}')) == {"ü": "\n"}


@pytest.mark.parametrize(
    ("how", "text", "field"),
    [
        pytest.param({}, "[]", "payload", id="an array"),
        pytest.param({}, "", "payload", id="nothing"),
        pytest.param({}, '{"n": 1, "n": 1}', "payload.n", id="a name twice"),
        pytest.param({}, '{"n": Infinity}', "payload", id="no number of JSON"),
        pytest.param({}, '{"id": "t-2"}', "fills.id", id="another id"),
        pytest.param({}, '{"a b": 1}', "fills", id="no identifier"),
        pytest.param({"operation": "upsert"}, '{"n": 1}', "fills.number", id="an upsert that decides by nothing"),
        pytest.param({"operation": "update", "match": {"a": 1}}, '{"a": 2}', "match.a", id="an update of its match"),
    ],
)
def test_what_no_put_could_have_made_is_refused_by_its_field(how: dict[str, object], text: str, field: str) -> None:
    with pytest.raises(InvalidEntry) as caught:
        revised(stored({"number": 1, "n": 1}, **how), text)
    assert caught.value.field.startswith(field)


def test_an_entry_without_parsed_fields_keeps_its_fields_unset() -> None:
    unread = replace(stored({"a": 1}), payload='{"a b": 1}', spec=None)
    assert revised(unread, '{"a": 1}') == Revised('{"a":1}', None, None, None)


def test_differences_are_listed_by_column() -> None:
    assert differences('{"a":1,"b":"x","c":[1]}', '{"b":"y","c":[1],"d":1.10}') == [
        ("a", "1", None), ("b", '"x"', '"y"'), ("d", None, "1.10"),
    ]  # fmt: skip


def test_the_digest_is_over_all_that_is_sent() -> None:
    entry = stored({"n": 1})
    assert revised(entry, '{"n":1}').digest == digest("fills", "insert", None, '{"n":1}', None, None)
    assert revised(entry, '{"n":2}').digest != revised(entry, '{"n":1}').digest


def test_a_row_that_only_sqlite_reads_can_be_edited_too() -> None:
    endless = f'{{"n": {"9" * 5000}}}'
    assert laid_out(endless) == endless
    assert differences(endless, '{"n":9}') == [("n", None, "9")]
