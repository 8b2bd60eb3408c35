"""What a read returns, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from outbox.errors import InvalidQuery, OutboxError


class ReadSource(StrEnum):
    """Where rows are read.

    remote: Supabase. local: what this outbox has put and still holds, delivered or pending. merged: Supabase, with
    what is pending laid over it: a bot sees what it has just written.
    """

    REMOTE = "remote"
    LOCAL = "local"
    MERGED = "merged"


def chosen_source(source: str | ReadSource) -> ReadSource:
    """Return the member that `source` is or names. Raises InvalidQuery."""
    try:
        return ReadSource(source)
    except ValueError:
        listed = ", ".join(repr(each.value) for each in ReadSource)
        raise InvalidQuery(f"must be one of {listed}", field="source") from None


class Rows(list[dict[str, Any]]):
    """The rows of a read, and what they are worth.

    source: where they are from. complete: False if the remote end may have more of them. error: why a merged read
    had to make do with local rows, or None.
    """

    __slots__ = ("complete", "error", "source")

    def __init__(
        self,
        rows: Iterable[dict[str, Any]] = (),
        *,
        source: ReadSource = ReadSource.REMOTE,
        error: OutboxError | None = None,
    ) -> None:
        super().__init__(rows)
        self.source = source
        self.complete = source is not ReadSource.LOCAL
        self.error = error
