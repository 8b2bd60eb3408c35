"""What travels together; no I/O, no clock, no dice."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


def take(entries: Iterable[T], *, size: Callable[[T], int], max_rows: int, max_bytes: int) -> list[T]:
    """Return the longest prefix of `entries` within both bounds; never empty unless `entries` is.

    One entry larger than `max_bytes` travels alone: the server, not this bound, decides about it.
    """
    batch: list[T] = []
    total = 0
    for entry in entries:
        total += size(entry)
        if batch and (len(batch) >= max_rows or total > max_bytes):
            break
        batch.append(entry)
    return batch


def halves(batch: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Return the two halves of a batch of two or more, in order; the first is never the larger one."""
    if len(batch) < 2:
        raise ValueError("a batch of one cannot be halved")
    middle = len(batch) // 2
    return batch[:middle], batch[middle:]


def last_wins(batch: Sequence[T], *, target: Callable[[T], Hashable]) -> tuple[list[T], list[T]]:
    """Return (winners, superseded): of the entries with the same `target` the last one is sent.

    PostgreSQL refuses a merge that touches one row twice (21000), so that only one may travel.
    """
    latest = {target(entry): index for index, entry in enumerate(batch)}
    keep = set(latest.values())
    winners = [entry for index, entry in enumerate(batch) if index in keep]
    superseded = [entry for index, entry in enumerate(batch) if index not in keep]
    return winners, superseded


@dataclass(frozen=True, slots=True)
class Limit:
    """How many bytes may travel. threshold: up to here they double with each answer, beyond they grow by an eighth."""

    bytes: int
    threshold: int


def next_limit(limit: Limit, *, sent: int, took_s: float | None, deadline_s: float, most: int, least: int = 1) -> Limit:
    """Return the limit after `sent` bytes were answered in `took_s` seconds; None: they were too many.

    Multiplicative decrease, to half of what failed, but not below `least`: such a failure says nothing about size.
    Increase up to `most`: only if half of the limit was in use, and by no more than surely fits. An answer within an
    eighth of the deadline may double (twice as many take a quarter), one within a third adds an eighth.
    """
    if took_s is None:
        half = min(limit.bytes, sent) // 2
        return limit if half < least else Limit(half, half)
    if took_s > deadline_s / 3 or 2 * sent < limit.bytes:
        return limit
    grown = limit.bytes + max(limit.bytes // 8, 1)
    if took_s <= deadline_s / 8 and limit.bytes < limit.threshold:
        grown = max(grown, min(2 * limit.bytes, limit.threshold))
    return Limit(min(grown, max(most, limit.bytes)), limit.threshold)
