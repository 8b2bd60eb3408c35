"""What goes over the wire is what tests/postgrest/recorded_requests.txt says, byte by byte."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.postgrest.recording import FILE, LEGACY, PUBLISHABLE, SCENES, SECRET, TOKEN, Recorded, read, record, text_of
from tests.support import run_async

TEXT = FILE.read_text(encoding="utf-8")


@pytest.mark.slow
@run_async
async def test_the_library_sends_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("OUTBOX_", "SUPABASE_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    sent = {request.title: request.text() for request in await record()}
    recorded = {request.title: request.text() for request in read(TEXT)}

    for title in recorded:
        assert sent[title] == recorded[title], f"{title}: python -m tests.postgrest.recording --write"
    assert list(sent) == list(recorded) == list(SCENES)


def test_the_file_reads_back_as_it_was_written() -> None:
    assert text_of(read(TEXT)) == TEXT


def test_a_changed_byte_is_a_difference() -> None:
    """The control of the tests above: nothing of a request is left out when it is compared."""
    request = next(each for each in read(TEXT) if each.body)
    changed: list[Recorded] = [
        replace(request, method="PUT"),
        replace(request, target=request.target + "&x=1"),
        replace(request, headers=(*request.headers, ("x", "y"))),
        replace(request, body=request.body.replace("1", "2", 1)),
    ]
    assert all(each.text() != request.text() for each in changed)


def test_a_secret_key_is_no_bearer_token_and_a_legacy_key_is_both() -> None:
    kinds = {(headers["apikey"], headers.get("authorization")) for headers in (dict(r.headers) for r in read(TEXT))}
    assert kinds == {(SECRET, None), (LEGACY, f"Bearer {LEGACY}"), (PUBLISHABLE, f"Bearer {TOKEN}")}


def test_the_file_covers_every_operation_every_table_and_every_filter_operator() -> None:
    requests = read(TEXT)
    assert {request.method for request in requests} == {"POST", "PATCH", "GET"}
    tables = {request.target.removeprefix("/rest/v1/").partition("?")[0] for request in requests}
    assert tables == {"trades", "events", "sessions", "orders", "outbox_health"}
    every = "".join(request.target for request in requests)
    assert all(
        f"={operator}." in every for operator in ("eq", "neq", "gt", "gte", "lt", "lte", "is", "in", "like", "ilike")
    )
