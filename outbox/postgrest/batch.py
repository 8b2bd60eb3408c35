"""Which of a lane's ready entries travel in the next request; no I/O, no clock, no randomness."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from itertools import accumulate
from json.encoder import encode_basestring_ascii
from typing import NamedTuple, TypeVar

from outbox.encoding import decode
from outbox.entry import LaneSpec, Operation, Outgoing
from outbox.prepare import digests

# ------------------------------------------------------------------------------------------ one entry


def sent_digests(spec: LaneSpec, entries: Iterable[Outgoing]) -> list[str]:
    """Return the digest that each of `entries` must have unless somebody has changed it since its put."""
    on_conflict = spec.on_conflict if spec.operation is Operation.UPSERT else None
    told = ((entry.key, entry.match, entry.payload) for entry in entries)
    return digests(spec.destination, spec.operation, on_conflict, told)


def sent_bytes(spec: LaneSpec, entries: Sequence[Outgoing]) -> list[int]:
    """Return the bytes that each of `entries` adds to a request at most: an insert's id may be added to its payload."""
    payloads = [utf8_bytes(entry.payload) + len(",") for entry in entries]
    if spec.operation is not Operation.INSERT:
        return payloads
    named = len(spec.on_conflict) + len('"":,')
    return [
        payload + named + len(encode_basestring_ascii(entry.id))
        for payload, entry in zip(payloads, entries, strict=True)
    ]


def utf8_bytes(text: str) -> int:
    """Return the bytes of `text` as UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def insert_body(spec: LaneSpec, entry_id: str, payload: str) -> str:
    """Return the row to insert: the payload, with the id in the key column unless the caller filled that."""
    column = spec.on_conflict
    if f'"{column}"' in payload and column in json.loads(payload):  # parses the object only if it may be there
        return payload
    return f'{{"{column}":{encode_basestring_ascii(entry_id)},{payload.lstrip()[1:]}'


def remote_id(spec: LaneSpec, entry: Outgoing) -> str:
    """Return the value of an insert's key column: the payload's own value, or the entry's id."""
    if f'"{spec.on_conflict}"' not in entry.payload:
        return entry.id
    return str(decode(entry.payload).get(spec.on_conflict, entry.id))


def own_duplicate(spec: LaneSpec, entries: Sequence[Outgoing]) -> str | None:
    """Return what PostgreSQL says of a duplicate that is the entry's own row, if the entry travels alone."""
    if spec.operation is Operation.UPDATE or len(entries) != 1:
        return None
    columns = f"({spec.on_conflict.replace(',', ', ')})="
    return f"{columns}({remote_id(spec, entries[0])})" if spec.operation is Operation.INSERT else columns


def conflict_values(payload: str, columns: Sequence[str]) -> str:
    """Return the canonical text of the payload's values in `columns`."""
    # Numbers stay text: two decimals that are one float are two rows.
    row = json.loads(payload, parse_float=str, parse_int=str)
    return json.dumps([row.get(column) for column in columns])


# ------------------------------------------------------------------------------------------ several entries


def last_of_each_row(spec: LaneSpec, entries: Sequence[Outgoing]) -> tuple[Sequence[Outgoing], Sequence[Outgoing]]:
    """Return (sent, superseded): of the upserts with the same conflict values only the last one travels."""
    if spec.operation is not Operation.UPSERT:
        return entries, ()
    columns = spec.on_conflict.split(",")
    return last_wins(entries, target=lambda entry: conflict_values(entry.payload, columns))


def unsuspected(ready: Sequence[Outgoing], suspects: Collection[int]) -> Sequence[Outgoing]:
    """Return what to probe a pause with: no entry that may be its cause or must wait for one; all if no other is left.

    suspects: the `seq` of entries that failed alone.
    """
    keys = {entry.key for entry in ready if entry.seq in suspects and entry.key is not None}
    return [entry for entry in ready if entry.seq not in suspects and entry.key not in keys] or ready


def like_the_first(ready: Sequence[Outgoing], suspects: Collection[int]) -> Sequence[Outgoing]:
    """Return the first entries of one kind: a suspect alone; those refused before apart from the others."""
    if ready and ready[0].seq in suspects:
        return ready[:1]
    for number, entry in enumerate(ready):
        if bool(entry.attempts) is not bool(ready[0].attempts) or entry.seq in suspects:
            return ready[:number]
    return ready


def heads(entries: Sequence[Outgoing]) -> list[Outgoing]:
    """Return the first entry of each ordering key; the others of the key wait behind it."""
    return list({entry.key or entry.id: entry for entry in reversed(entries)}.values())


def ahead_of_their_keys(waiting: Sequence[tuple[Outgoing, str | None]]) -> list[Outgoing]:
    """Return which pending entries may travel: ready ones without a key, and all of each key whose first is ready.

    waiting: each with what it waits for; None: it is ready.
    """
    free: dict[str, bool] = {}
    return [
        entry
        for entry, waits in waiting
        if (waits is None if entry.key is None else free.setdefault(entry.key, waits is None))
    ]


def without_parent(entries: Sequence[Outgoing], details: str | None) -> Sequence[Outgoing]:
    """Return which of the refused `entries` refer to the missing row that `details` name.

    `Key (order_id)=(7) is not present in table "orders".` Empty if they do not tell, or name several columns.
    """
    told = _MISSING.match(details or "")
    if told is None:
        return ()
    column, value = told[1].strip('"'), told[2]
    return [
        entry for entry in entries if json.loads(entry.payload, parse_float=str, parse_int=str).get(column) == value
    ]


_MISSING = re.compile(r'Key \(("?[A-Za-z_][A-Za-z0-9_]*"?)\)=\((.*)\) is not present in table ', re.DOTALL)


T = TypeVar("T")


def fitting(sizes: Sequence[int], *, max_rows: int, max_bytes: int) -> int:
    """Return how many entries, the first of these sizes, are within both bounds; never 0 unless there are none.

    An entry larger than `max_bytes` travels alone: the server, not this bound, decides about it.
    """
    totals = list(accumulate(sizes[:max_rows]))
    return max(bisect_right(totals, max_bytes), min(1, len(totals)))


def halves(batch: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Return the two halves of a batch of two or more, in order; the first is never the larger."""
    if len(batch) < 2:
        raise ValueError("a batch of one cannot be halved")
    middle = len(batch) // 2
    return batch[:middle], batch[middle:]


def last_wins(batch: Sequence[T], *, target: Callable[[T], Hashable]) -> tuple[list[T], list[T]]:
    """Return (winners, superseded): of the entries with the same `target` the last one is sent.

    PostgreSQL refuses a merge that touches one row twice (21000), so only one may travel.
    """
    latest = {target(entry): index for index, entry in enumerate(batch)}
    keep = set(latest.values())
    winners = [entry for index, entry in enumerate(batch) if index in keep]
    superseded = [entry for index, entry in enumerate(batch) if index not in keep]
    return winners, superseded


class Limit(NamedTuple):
    """How many bytes may travel. threshold: up to it they double with each answer, beyond it they grow by an eighth."""

    bytes: int
    threshold: int


def next_limit(limit: Limit, *, sent: int, took_s: float | None, deadline_s: float, most: int, least: int = 1) -> Limit:
    """Return the limit after `sent` bytes were answered in `took_s` seconds; None: they were too many.

    Multiplicative decrease, to half of what failed, but not below `least`: a failure there says nothing about size.
    Increase up to `most`: only if half of the limit was in use, and by no more than is sure to fit. An answer within an
    eighth of the deadline may double it (twice as many take a quarter), one within a third adds an eighth.
    """
    if took_s is None:
        half = min(limit.bytes, sent) // 2
        return limit if half < least else Limit(half, half)
    if took_s > deadline_s / 3 or 2 * sent < limit.bytes:
        return limit
    grown = limit.bytes + max(limit.bytes // 8, 1)
    if took_s <= deadline_s / 8:
        grown = max(grown, min(2 * limit.bytes, limit.threshold))
    return Limit(min(grown, max(most, limit.bytes)), limit.threshold)
