"""The bot's classes for a `BlockingOutbox`: the same names and arguments as in `outbox.bot`, but their calls block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from outbox.blocking.calls import Calls, Twin, blocking, iterated, passed, passed_there, shown, target_of
from outbox.blocking.outbox import BlockingOutbox
from outbox.bot import bars, sessions, supabase, trades
from outbox.errors import UsageError
from outbox.outbox import Outbox

S = TypeVar("S")


class _BotTwin(Twin[S]):
    def __init__(self, outbox: object, make: Callable[[Outbox], S]) -> None:
        if not isinstance(outbox, BlockingOutbox):
            taker, given = type(self).__name__, type(outbox).__name__
            raise UsageError(f"blocking.{taker} takes the BlockingOutbox, not a {given}; nothing was written")
        self.outbox: BlockingOutbox = outbox
        self._made = make(target_of(outbox)[0])

    def _target(self) -> tuple[S, Calls]:
        return self._made, target_of(self.outbox)[1]


class TradeLogger(_BotTwin[trades.TradeLogger]):
    """`outbox.TradeLogger` for a `BlockingOutbox`, which is open.

    Raises:
        UsageError: `outbox` is not a BlockingOutbox.
        OutboxClosed: It is not open.
    """

    def __init__(
        self, outbox: BlockingOutbox, session_id: str, *, round_pnl: int | None = None, round_pips: int | None = None
    ) -> None:
        super().__init__(
            outbox, lambda home: trades.TradeLogger(home, session_id, round_pnl=round_pnl, round_pips=round_pips)
        )

    @property
    def session_id(self) -> str:
        """Whose trades these are; can be set."""
        return self._made.session_id

    @session_id.setter
    def session_id(self, session_id: str) -> None:
        self._made.session_id = session_id

    log_trade: Final = blocking(trades.TradeLogger.log_trade)
    log_real_trade: Final = blocking(trades.TradeLogger.log_real_trade)
    log_paper_trade: Final = blocking(trades.TradeLogger.log_paper_trade)


class SessionManager(_BotTwin[sessions.SessionManager]):
    """`outbox.SessionManager` for a `BlockingOutbox`, which is open.

    Raises:
        UsageError: `outbox` is not a BlockingOutbox.
        OutboxClosed: It is not open.
    """

    def __init__(self, outbox: BlockingOutbox, *, source: str | None = None) -> None:
        super().__init__(outbox, lambda home: sessions.SessionManager(home, source=source))

    session_id: Final = shown(sessions.SessionManager, lambda manager: manager.session_id)
    start_time: Final = shown(sessions.SessionManager, lambda manager: manager.start_time)
    day_start: Final = shown(sessions.SessionManager, lambda manager: manager.day_start)
    last_heartbeat: Final = shown(sessions.SessionManager, lambda manager: manager.last_heartbeat)
    is_recovered: Final = shown(sessions.SessionManager, lambda manager: manager.is_recovered)
    initial_balance: Final = shown(sessions.SessionManager, lambda manager: manager.initial_balance)
    current_balance: Final = shown(sessions.SessionManager, lambda manager: manager.current_balance)
    symbols: Final = shown(sessions.SessionManager, lambda manager: manager.symbols)
    start_session: Final = blocking(sessions.SessionManager.start_session)
    end_session: Final = blocking(sessions.SessionManager.end_session)
    update_heartbeat: Final = blocking(sessions.SessionManager.update_heartbeat)
    check_day_boundary: Final = passed_there(sessions.SessionManager.check_day_boundary)


class SupabaseClient(_BotTwin[supabase.SupabaseClient]):
    """`outbox.SupabaseClient` for a `BlockingOutbox`, which is open.

    Raises:
        UsageError: `outbox` is not a BlockingOutbox.
        OutboxClosed: It is not open.
    """

    def __init__(self, outbox: BlockingOutbox) -> None:
        super().__init__(outbox, supabase.SupabaseClient)

    enabled: Final = shown(supabase.SupabaseClient, lambda client: client.enabled)
    url: Final = shown(supabase.SupabaseClient, lambda client: client.url)
    pending_count: Final = shown(supabase.SupabaseClient, lambda client: client.pending_count)
    execute: Final = blocking(supabase.SupabaseClient.execute)
    log_trade: Final = blocking(supabase.SupabaseClient.log_trade)
    log_event: Final = blocking(supabase.SupabaseClient.log_event)
    retry_pending: Final = blocking(supabase.SupabaseClient.retry_pending)
    get_trades: Final = blocking(supabase.SupabaseClient.get_trades)
    query: Final = blocking(supabase.SupabaseClient.query)
    rows: Final = iterated(supabase.SupabaseClient.rows)
    describe: Final = passed(supabase.SupabaseClient.describe)


class LocalStorage(_BotTwin[bars.LocalStorage]):
    """`outbox.LocalStorage` for a `BlockingOutbox`, which is open.

    Raises:
        UsageError: `outbox` is not a BlockingOutbox.
        OutboxClosed: It is not open.
    """

    def __init__(self, outbox: BlockingOutbox) -> None:
        super().__init__(outbox, bars.LocalStorage)

    cache_bars: Final = blocking(bars.LocalStorage.cache_bars)
    load_cached_bars: Final = blocking(bars.LocalStorage.load_cached_bars)
    prune_bars: Final = blocking(bars.LocalStorage.prune_bars)
    save_pending: Final = blocking(bars.LocalStorage.save_pending)
    load_pending: Final = blocking(bars.LocalStorage.load_pending)
    clear_pending: Final = passed(bars.LocalStorage.clear_pending)
