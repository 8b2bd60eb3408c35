"""The history of an entry: a line for each thing that happened to it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import aiosqlite

from outbox.postgrest.verdicts import Refusal
from outbox.store import queries


async def note(
    connection: aiosqlite.Connection,
    seqs: Sequence[int],
    *,
    now_ms: int,
    event: str,
    status: int | None = None,
    code: str | None = None,
    message: str | None = None,
    batch_rows: int | None = None,
    request_id: str | None = None,
) -> None:
    """Write one line of history for each entry of `seqs`."""
    words = (now_ms, event, status, code, message, batch_rows, request_id)
    await connection.execute(queries.NOTE.sql, (*words, json.dumps(list(seqs))))


async def note_refusal(
    connection: aiosqlite.Connection,
    seqs: Sequence[int],
    event: str,
    refusal: Refusal,
    *,
    now_ms: int,
    batch_rows: int | None,
) -> None:
    await note(
        connection,
        seqs,
        now_ms=now_ms,
        event=event,
        status=refusal.status,
        code=refusal.code,
        message=refusal.message,
        batch_rows=batch_rows,
        request_id=refusal.request_id,
    )


def refusal_words(refusal: Refusal | None) -> tuple[int | None, str | None, str | None, str | None, str | None]:
    if refusal is None:
        return None, None, None, None, None
    return refusal.status, refusal.code, refusal.message, refusal.details, refusal.hint
