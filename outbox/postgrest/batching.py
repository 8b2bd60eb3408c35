"""What travels together; no I/O, no clock, no dice."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
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


def next_limit(limit: int, *, sent: int, succeeded: bool, max_rows: int) -> int:
    """Return the rows that the next request may carry: additive increase, multiplicative decrease."""
    if succeeded:
        # A tenth of the maximum a step: ten good requests lead from one row back to the full batch.
        return min(max_rows, limit + max(1, max_rows // 10))
    return max(1, min(limit, sent) // 2)
