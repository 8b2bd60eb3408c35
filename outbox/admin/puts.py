"""A put that a command asks for: from a shell, cron or another language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from outbox.arguments import Arguments
from outbox.destinations import Destinations
from outbox.entry import SharedOptions
from outbox.errors import InvalidRequest
from outbox.store.store import Store


class Put(Arguments):
    """Rows for one destination, all or none. ids: one for each row whose key column is empty; the rest as `put_many`.

    The ids are minted by whoever asks: a request that is carried out twice stores its rows once.
    """

    destination: str
    rows: list[dict[str, Any]]
    ids: list[str] | None = None
    operation: Literal["insert", "upsert", "update"] | None = None
    key: str | None = None
    on_conflict: list[str] | None = None
    match: dict[str, Any] | None = None
    if_exists: Literal["keep"] | None = None


async def put(store: Store, destinations: Destinations, asked: Put) -> Mapping[str, Any]:
    """Store what is `asked`, in one commit. Raises what `Outbox.put_many` raises."""
    key = destinations.destination(asked.destination).key
    ids: list[str | None] | None = None
    if asked.ids is not None:
        if len(asked.ids) != len(asked.rows):
            raise InvalidRequest(f"{len(asked.ids)} ids for {len(asked.rows)} rows", field="ids")
        ids = [None if row.get(key) is not None else each for row, each in zip(asked.rows, asked.ids, strict=True)]
    options: SharedOptions = {
        "operation": asked.operation, "key": asked.key, "on_conflict": asked.on_conflict, "match": asked.match,
        "if_exists": asked.if_exists,
    }  # fmt: skip
    receipts = await store.put_many(destinations.entries(asked.destination, asked.rows, ids, options))
    return {"put": len(receipts), "duplicates": sum(receipt.duplicate for receipt in receipts), "ids": _ids(receipts)}


def _ids(receipts: Sequence[Any]) -> list[str]:
    return [receipt.id for receipt in receipts]
