"""Floor 5 · supabase. `SupabaseClient`: the old module's client, on the outbox. Writes are durable, reads never lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from outbox.entry import Operation
from outbox.policy.reading import PAGE_ROWS, Query, asked, checked_limit
from outbox.records import Home, Puts, check_home, event_row, moment, put_trade
from outbox.store.writer import Receipt


class SupabaseClient:
    """Trades and events in, rows out. Writing needs no network; reading does, and says so when there is none.

    Raises UsageError: `outbox` is no Outbox.
    """

    def __init__(self, outbox: Home) -> None:
        check_home(outbox, "SupabaseClient")
        self.outbox = outbox
        self._largest_page = 0

    @property
    def enabled(self) -> bool:
        """Whether a URL and a key are set. Without them rows are kept and sent once they are."""
        return self.outbox.has_remote

    @property
    def url(self) -> str | None:
        """The project's URL, or None."""
        return self.outbox.supabase_url

    # ------------------------------------------------------------------------------------------ writing

    async def execute(
        self,
        table: str,
        data: object,
        operation: str | Operation = "insert",
        *,
        on_conflict: Sequence[str] | None = None,
        match: Mapping[str, object] | None = None,
        key: object = None,
        id: object = None,
        tx: Puts | None = None,
    ) -> Receipt:
        """Put one row into `table` and return once it is on disk. Arguments and errors as `Outbox.put`.

        An upsert into a table that has no conflict columns declared is decided by the table's key column, as
        Supabase does by its primary key. tx: as part of that transaction.
        """
        if operation == Operation.UPSERT and on_conflict is None:
            declared = self.outbox.destination(table)
            on_conflict = declared.on_conflict or (declared.key,)
        target = self.outbox if tx is None else tx
        return await target.put(table, data, operation=operation, on_conflict=on_conflict, match=match, key=key, id=id)

    async def log_trade(self, trade_data: Mapping[str, object], *, tx: Puts | None = None) -> Receipt:
        """Record one trade; `trade_data` is not changed.

        Its `id` is stored as `trade_id`; without one that is the receipt's id. A missing timestamp is now. The rest
        as the table's columns; see `docs/migrating.md`. Raises what `Outbox.put` raises.
        """
        return await put_trade(self.outbox, trade_data, tx)

    async def log_event(
        self,
        event_type: str,
        data: Mapping[str, object] | None = None,
        session_id: str | None = "",
        *,
        tx: Puts | None = None,
    ) -> Receipt:
        """Record one event, now; `data` becomes a JSON object, None an empty one.

        Raises InvalidEntry: `data` is none, for example a text that was encoded already; and what `Outbox.put` raises.
        """
        row = event_row(event_type, data, session_id, now=moment(self.outbox.clock.now_ms()))
        return await (self.outbox if tx is None else tx).put("events", row, operation=Operation.INSERT)

    # ------------------------------------------------------------------------------------------ sending

    async def retry_pending(self, timeout: float = 10.0) -> int:
        """Send what is pending now, for `timeout` seconds at the most, and return how many entries were delivered.

        With a running flusher there is no need to call this. What is not delivered stays pending.
        """
        return (await self.outbox.drain(timeout=timeout)).delivered

    @property
    def pending_count(self) -> int:
        """How many entries are pending, of all tables. Some ten microseconds in the caller's thread."""
        return self.outbox.pending_now()

    # ------------------------------------------------------------------------------------------ reading

    async def get_trades(
        self,
        session_id: str | None = None,
        is_paper: bool | None = None,
        symbol: str | None = None,
        limit: int | None = 100,
    ) -> list[dict[str, Any]]:
        """Return the newest trades at Supabase, at most `limit` of them; None or "" is no filter.

        What is pending is not there yet. Errors as `query`.
        """
        filters: dict[str, object] = {}
        if session_id:
            filters["session_id"] = session_id
        if is_paper is not None:
            filters["is_paper"] = is_paper
        if symbol:
            filters["symbol"] = symbol
        return await self.query("trades", filters=filters, order="-timestamp", limit=limit)

    async def query(
        self,
        table: str,
        select: str = "*",
        filters: Mapping[str, object] | None = None,
        order: str | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return rows of a remote table.

        select: columns, comma-separated. filters: column → value or column → (operator, value), with the operators
        eq, gt, gte, lt, lte; all must hold, None finds null. order: a column, "-column" for descending.
        limit: None returns all there are. More than 1,000 rows are read page by page, in the order of the key column
        (`Outbox.register` tells which one; "id" unless it does) where `order` leaves it open.

        Raises Unreachable: no answer; RemoteError: the server refused; ConfigError: no URL or key is set;
        InvalidQuery: an argument cannot be sent like that. Never [] for a failure, never part of the rows.
        """
        query = asked(table, select, filters, order)
        limit = checked_limit(limit)
        if limit is not None and limit <= PAGE_ROWS:
            rows = await self._page(query.path(limit=limit))
            if not await self._is_cut(query, rows, limit):
                return rows
        return await self._all_pages(query, limit)

    async def _all_pages(self, query: Query, limit: int | None) -> list[dict[str, Any]]:
        """Read page after page until `limit` or the end; rows equal in the caller's order stand in the key's."""
        key = self.outbox.destination(query.table).key
        rows: list[dict[str, Any]] = []
        seen: set[str] = set()
        offset = 0
        while limit is None or len(rows) < limit:
            wanted = PAGE_ROWS if limit is None else min(PAGE_ROWS, limit - len(rows))
            page = await self._page(query.path(limit=wanted, offset=offset, last=key))
            offset += len(page)
            # A row that was inserted meanwhile pushes the last one of this page onto the next.
            rows += [row for row in page if _is_new(row.get(key), seen)] if query.shows(key) else page
            if not page or (len(page) < wanted and len(page) < self._largest_page):
                break
        return rows

    async def _is_cut(self, query: Query, rows: Sequence[object], limit: int) -> bool:
        """Whether the server gave fewer rows than there are: its own cap may be lower than 1,000."""
        if not rows or len(rows) >= limit or len(rows) < self._largest_page:
            return False
        return bool(await self._page(query.path(limit=1, offset=len(rows))))

    async def _page(self, path: str) -> list[dict[str, Any]]:
        rows = await self.outbox.fetch(path)
        # A page shorter than another one that this server gave was not cut by its cap.
        self._largest_page = max(self._largest_page, len(rows))
        return rows


def _is_new(key: object, seen: set[str]) -> bool:
    before = len(seen)
    seen.add(str(key))
    return key is None or len(seen) > before
