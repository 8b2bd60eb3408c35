"""`SupabaseClient`: the old module's client, on the outbox. Writes are durable, reads never lie."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, assert_never

from outbox.bot.records import check_outbox, event_row, moment, put_trade
from outbox.columns import SHIPPED, Column, Columns, Kind, described
from outbox.entry import IfExists, Operation, OperationName
from outbox.errors import ConfigError, OutboxError, RemoteError
from outbox.outbox import Outbox
from outbox.reads import ReadSource, Rows, chosen_source
from outbox.reads.keyset import obstacle, walk
from outbox.reads.merged import local_rows, merged, pages
from outbox.reads.overlay import Table, table as known_table
from outbox.reads.query import PAGE_ROWS, Query, asked, check_numbers, is_away
from outbox.store.receipts import Receipt
from outbox.transaction import AnyTransaction


class SupabaseClient:
    """Trades and events in, rows out. Writing needs no network; reading does, and raises if there is none.

    Raises:
        UsageError: `outbox` is not an Outbox.
    """

    def __init__(self, outbox: Outbox) -> None:
        check_outbox(outbox, "SupabaseClient")
        self.outbox = outbox
        self._columns: dict[str, Columns] = dict(SHIPPED)

    @property
    def enabled(self) -> bool:
        """Whether a URL and a key are set. Without them rows are kept and sent once they are."""
        return self.outbox.has_remote

    @property
    def url(self) -> str | None:
        """The project's URL, or None."""
        return self.outbox.supabase_url

    # ------------------------------------------------------------------------------------------ writing

    async def execute(  # noqa: D417 - the others are those of `Outbox.put`
        self,
        table: str,
        data: object,
        operation: OperationName | Operation = "insert",
        *,
        on_conflict: Sequence[str] | None = None,
        match: Mapping[str, object] | None = None,
        key: object = None,
        id: object = None,
        if_exists: IfExists | None = None,
        tx: AnyTransaction | None = None,
    ) -> Receipt:
        """Put one row into `table` and return once it is on disk. Other arguments and errors as `Outbox.put`.

        Args:
            table: The remote table.
            data: The row.
            on_conflict: The columns that decide an upsert. If the table declares none either, its key column decides,
                as the primary key does in Supabase.
            tx: As part of that transaction.
        """
        if operation == Operation.UPSERT and on_conflict is None:
            on_conflict = self.outbox.destination(table).unique
        target = self.outbox if tx is None else tx.transaction
        return await target.put(
            table, data, operation=operation, on_conflict=on_conflict, match=match, key=key, id=id, if_exists=if_exists
        )

    async def log_trade(
        self, trade_data: Mapping[str, object], *, id: object = None, tx: AnyTransaction | None = None
    ) -> Receipt:
        """Record one trade; errors as `Outbox.put`.

        Args:
            trade_data: It is not changed. Its `id` is stored as `trade_id`; without one that is the receipt's id. A
                missing timestamp is now. The rest goes into the table's columns, without one into `extra`; see
                `docs/migrating.md`.
            id: The broker's own name for the trade; if it is logged again, the first one stays.
            tx: As part of that transaction.
        """
        return await put_trade(self.outbox, trade_data, tx, id=id)

    async def log_event(  # noqa: D417 - the others are columns of `events`
        self,
        event_type: str,
        data: Mapping[str, object] | None = None,
        session_id: str | None = "",
        *,
        tx: AnyTransaction | None = None,
    ) -> Receipt:
        """Record one event, now; other errors as `Outbox.put`.

        Args:
            data: Becomes a JSON object, None an empty one.
            tx: As part of that transaction.

        Raises:
            InvalidEntry: `data` is not an object, for example an already encoded text. Nothing was written.
        """
        row = event_row(event_type, data, session_id, now=moment(self.outbox.clock.now_ms()))
        return await (self.outbox if tx is None else tx.transaction).put("events", row, operation=Operation.INSERT)

    # ------------------------------------------------------------------------------------------ sending

    async def retry_pending(self, timeout: float = 10.0) -> int:
        """Send what is pending now. With a running flusher there is no need to call this.

        Args:
            timeout: Seconds at most.

        Returns:
            How many entries were delivered; the others stay pending.
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
        *,
        source: str | ReadSource = ReadSource.REMOTE,
    ) -> Rows:
        """Return the newest trades; errors as `query`.

        Args:
            session_id: Only those of this session; None or "" is no filter.
            is_paper: Only simulated ones, or only real ones; None is no filter.
            symbol: Only those of this symbol; None or "" is no filter.
            limit: How many at most.
            source: As `query`; "merged" includes trades that are still pending.
        """
        filters: dict[str, object] = {}
        if session_id:
            filters["session_id"] = session_id
        if is_paper is not None:
            filters["is_paper"] = is_paper
        if symbol:
            filters["symbol"] = symbol
        return await self.query("trades", filters=filters, order="-timestamp", limit=limit, source=source)

    async def query(
        self,
        table: str,
        select: str = "*",
        filters: Mapping[str, object] | None = None,
        order: str | Sequence[str] | None = None,
        limit: int | None = None,
        *,
        offset: int = 0,
        source: str | ReadSource = ReadSource.REMOTE,
    ) -> Rows:
        """Return rows of a table: a list that knows its source (`Rows`).

        More than 1,000 rows are read page by page as `rows` does, in the order of the unique columns (`Outbox.register`
        tells which; "id" unless it does) where `order` leaves it open. Never [] for a failure, never part of the rows.

        Args:
            table: The remote table.
            select: Columns, comma-separated.
            filters: column → value, column → (operator, value), or column → a list of the latter, with the operators
                eq, neq, gt, gte, lt, lte, in, is, like, ilike; all must match, None matches null.
            order: One or more columns, "-column" for descending.
            limit: How many at most; None returns all.
            offset: How many rows to skip.
            source: "remote"; "local", what this outbox has put and still holds; "merged", the remote rows as they will
                be once what is pending now has arrived, or local ones, marked by `.complete` and `.error`, while the
                remote end is unreachable.

        Raises:
            Unreachable: No answer.
            RemoteError: The server refused.
            ConfigError: No URL or key is set.
            InvalidQuery: An argument cannot be sent.
            Undecidable: A local or merged read would have to guess (`docs/reading.md` lists when).
        """
        query, place = asked(table, select, filters, order), chosen_source(source)
        check_numbers(limit=1 if limit is None else limit, offset=offset)
        match place:
            case ReadSource.REMOTE:
                return Rows(await self._remote_rows(query, limit, offset))
            case ReadSource.LOCAL:
                return await self._local_rows(query, limit, offset)
            case ReadSource.MERGED:
                return await self._merged_rows(query, limit, offset)
            case _:
                assert_never(place)

    async def rows(
        self,
        table: str,
        filters: Mapping[str, object] | None = None,
        *,
        select: str = "*",
        order: str | Sequence[str] | None = None,
        page: int = PAGE_ROWS,
        source: str | ReadSource = ReadSource.REMOTE,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the rows of a table one by one, fetched in pages of `page`: `async for row in client.rows("trades")`.

        Each page begins after the last row of the one before, however many rows come and go meanwhile, and an index
        on the first column of `order` finds it at once. Memory holds one page. Arguments and errors as `query`; an
        error in the middle is raised, the rows before it were right. While the remote end is unreachable a merged
        read raises too: rows already yielded cannot be taken back.
        """
        query, place = asked(table, select, filters, order), chosen_source(source)
        check_numbers(page=page)
        if place is ReadSource.LOCAL:
            for row in await self._local_rows(query, None, 0):
                yield row
        elif place is ReadSource.MERGED:
            async for row in merged(self.outbox, self._table(query), query, page_rows=page):
                yield row
        else:
            unique = self.outbox.destination(query.table).unique
            async for found in pages(self.outbox, walk(query, unique), page_rows=page):
                for row, _ in found:
                    yield row

    def describe(self, table: str, columns: Mapping[str, str | Kind | Column]) -> None:
        """Declare what the columns of your own table hold, so that `source="merged"` and "local" can compare them.

        The shipped tables are known.

        Args:
            table: The remote table.
            columns: column → "integer", "float", "numeric", "text", "timestamp", "boolean", "uuid" or "other", or a
                `Column` that also gives its default.

        Raises:
            InvalidQuery: A kind does not exist.
        """
        self._columns[table] = described(columns)

    def _table(self, query: Query) -> Table:
        return known_table(self.outbox.destination(query.table), self._columns.get(query.table, {}), query)

    async def _local_rows(self, query: Query, limit: int | None, offset: int, error: OutboxError | None = None) -> Rows:
        found = await local_rows(self.outbox, self._table(query), query)
        end = None if limit is None else offset + limit
        return Rows(found[offset:end], source=ReadSource.LOCAL, error=error)

    async def _merged_rows(self, query: Query, limit: int | None, offset: int) -> Rows:
        page_rows = PAGE_ROWS if limit is None else min(PAGE_ROWS, offset + limit)
        found: list[dict[str, Any]] = []
        rows = merged(self.outbox, self._table(query), query, page_rows=page_rows)
        try:
            async with contextlib.aclosing(rows):
                async for row in rows:
                    found.append(row)
                    if limit is not None and len(found) == offset + limit:
                        break
        except (RemoteError, ConfigError) as error:
            if isinstance(error, RemoteError) and not is_away(error):
                raise
            return await self._local_rows(query, limit, offset, error)
        return Rows(found[offset:], source=ReadSource.MERGED)

    async def _remote_rows(self, query: Query, limit: int | None, offset: int) -> list[dict[str, Any]]:
        if limit is not None and limit <= PAGE_ROWS:
            rows = await self.outbox.fetch(query.path(limit=limit, offset=offset))
            # Fewer than requested: that is all there are, or the server's own limit cut them.
            if len(rows) in (0, limit) or not await self.outbox.fetch(query.path(limit=1, offset=offset + len(rows))):
                return rows
        unique = self.outbox.destination(query.table).unique
        if obstacle(query, unique) is not None:
            return await self._counted_pages(query, unique, limit, offset)
        found = pages(self.outbox, walk(query, unique), page_rows=PAGE_ROWS, offset=offset, most=limit)
        return [row async for page in found for row, _ in page]

    async def _counted_pages(
        self, query: Query, unique: Sequence[str], limit: int | None, offset: int
    ) -> list[dict[str, Any]]:
        """Read by an order that has no cursor, such as a path into JSON: each page counts the rows before it."""
        shown = all(query.shows(column) for column in unique)
        rows: list[dict[str, Any]] = []
        seen: set[tuple[str, ...]] = set()
        while limit is None or len(rows) < limit:
            wanted = PAGE_ROWS if limit is None else min(PAGE_ROWS, limit - len(rows))
            page = await self.outbox.fetch(query.path(limit=wanted, offset=offset, last=unique))
            if not page:
                break
            offset += len(page)
            # A row inserted meanwhile pushes the last one of this page onto the next.
            rows += [row for row in page if _is_new(row, unique, seen)] if shown else page
        return rows


def _is_new(row: Mapping[str, object], unique: Sequence[str], seen: set[tuple[str, ...]]) -> bool:
    key = tuple(str(row.get(column)) for column in unique)
    before = len(seen)
    seen.add(key)
    return len(seen) > before or any(row.get(column) is None for column in unique)
