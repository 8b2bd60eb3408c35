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
    message: str | None = None,
    refusal: Refusal | None = None,
    batch_rows: int | None = None,
) -> None:
    """Write one line of history for each entry of `seqs`: with our own message, or what the server said."""
    said = refusal and (refusal.status, refusal.code, refusal.message, batch_rows, refusal.request_id)
    words = said or (None, None, message, batch_rows, None)
    await connection.execute(queries.NOTE.sql, (now_ms, event, *words, json.dumps(list(seqs))))


def refusal_words(refusal: Refusal | None) -> tuple[int | None, str | None, str | None, str | None, str | None]:
    if refusal is None:
        return None, None, None, None, None
    return refusal.status, refusal.code, refusal.message, refusal.details, refusal.hint
