"""Remote rows, page after page, each page behind the last row of the one before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from outbox.outbox import Outbox
from outbox.reads.keyset import Place, Position, Texts, Walk, check_distinct


async def pages(
    outbox: Outbox, walk: Walk, *, page_rows: int, offset: int = 0, most: int | None = None
) -> AsyncIterator[list[tuple[dict[str, Any], Texts]]]:
    """Give the pages behind the first `offset` rows, each row with its texts: `most` rows, or all.

    A short page proves nothing: the server's cap, which may change at any time, may have cut it. The last one is
    empty. Raises what `Outbox.fetch` raises, Undecidable: two rows stand in one place.
    """
    position: Position | None = Place.START
    before: list[Texts] = []
    left = most
    while position is not None and left != 0:
        wanted = page_rows if left is None else min(page_rows, left)
        rows = await outbox.fetch(walk.path(position, limit=wanted, offset=offset))
        found = [(row, walk.taken(row)) for row in rows]
        places = [walk.position(texts) for _, texts in found]
        check_distinct([*before, *places])
        before, offset = places, 0
        left = None if left is None else left - len(rows)
        if found:
            yield found
        position = places[-1] if places else walk.after_the_end(position)
