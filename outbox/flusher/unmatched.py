"""Updates that matched no row: in memory, so that what is put behind one of them need not wait for its next try.

After a restart they are known again once they have been tried.
"""

from __future__ import annotations

import json

from outbox.store import queries
from outbox.store.store import Store

# More of them wait for their own next try, as after a restart.
_MOST = 500


class Unmatched:
    """Those that wait for their next try."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seqs: dict[int, int] = {}

    def add(self, seq: int, patience_until_ms: int) -> None:
        """Remember one that has just been postponed, and until when others wait for it."""
        if len(self._seqs) < _MOST:
            self._seqs[seq] = patience_until_ms

    async def hurry(self, now_ms: int) -> None:
        """Let those be tried at once that hold up what brings their row, and in time those that hold up anything.

        now_ms: on the clock that entries wait by, as `patience_until_ms`.
        """
        if not self._seqs:
            return
        waiting = await self._store.read(queries.UNMATCHED.sql, (json.dumps(list(self._seqs)),))
        self._seqs = {seq: self._seqs[seq] for seq, *_ in waiting}
        rows = []
        for seq, next_ms, behind, bringer in waiting:
            due_ms = now_ms if bringer else max(now_ms, self._seqs[seq])
            if behind and next_ms > due_ms:
                rows.append((due_ms, seq))
        if rows:
            await self._store.transact(lambda connection: connection.executemany(queries.HURRY.sql, rows))
