"""Remote rows, page after page, each page behind the last row of the one before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from outbox.outbox import Outbox
from outbox.reads.keyset import Place, Position, Texts, Walk, check_distinct


class Pages:
    """Fetches pages, and learns from them where the server cuts: Supabase gives 1,000 rows unless told otherwise."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._largest = 0

    async def fetch(self, path: str) -> list[dict[str, Any]]:
        """Return the rows of one page. Errors as `Outbox.fetch`."""
        rows = await self._outbox.fetch(path)
        self._largest = max(self._largest, len(rows))
        return rows

    def is_last(self, rows: int, wanted: int) -> bool:
        """Return whether a page of `rows` rows, of `wanted`, shows that there are no more.

        A page shorter than another one that this server gave was not cut by its cap.
        """
        return not rows or (rows < wanted and rows < self._largest)

    async def walk(
        self, walk: Walk, *, page_rows: int, offset: int = 0, most: int | None = None
    ) -> AsyncIterator[tuple[dict[str, Any], Texts]]:
        """Give the rows behind the first `offset`, with their texts: `most` of them, or all.

        Raises what `fetch` raises, Undecidable: two rows stand in one place.
        """
        position: Position | None = Place.START
        before: list[Texts] = []
        left = most
        while position is not None and left != 0:
            wanted = page_rows if left is None else min(page_rows, left)
            rows = await self.fetch(walk.path(position, limit=wanted, offset=offset))
            found = [(row, walk.taken(row)) for row in rows]
            places = [walk.position(texts) for _, texts in found]
            check_distinct([*before, *places])
            before, offset = places, 0
            left = None if left is None else left - len(rows)
            for each in found:
                yield each
            position = places[-1] if places else position
            if self.is_last(len(rows), wanted):
                position = walk.after_the_end(position)
