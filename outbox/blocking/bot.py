"""The bot's classes for a `BlockingOutbox`: the same names and arguments as in `outbox.bot`, and their calls wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from outbox.blocking.calls import Calls, Twin, blocking, iterated, passed, passed_there, shown, target_of
from outbox.blocking.outbox import BlockingOutbox
from outbox.bot import bars, sessions, supabase, trades
from outbox.errors import UsageError
from outbox.outbox import Outbox

S = TypeVar("S")


def _check(outbox: object, taker: str) -> None:
    if not isinstance(outbox, BlockingOutbox):
        raise UsageError(
            f"blocking.{taker} takes the BlockingOutbox, not a {type(outbox).__name__}; nothing was written"
        )


class _BotTwin(Twin[S]):
    def __init__(self, outbox: BlockingOutbox, make: Callable[[Outbox], S]) -> None:
        _check(outbox, type(self).__name__)
        self.outbox = outbox
        self._made = make(target_of(outbox)[0])

    def _target(self) -> tuple[S, Calls]:
        return self._made, target_of(self.outbox)[1]


class TradeLogger(_BotTwin[trades.TradeLogger]):
    """`outbox.TradeLogger` for a `BlockingOutbox`, which is open. Raises UsageError."""

    def __init__(
        self, outbox: BlockingOutbox, session_id: str, *, round_pnl: int | None = None, round_pips: int | None = None
    ) -> None:
        super().__init__(
            outbox, lambda home: trades.TradeLogger(home, session_id, round_pnl=round_pnl, round_pips=round_pips)
        )

    @property
    def session_id(self) -> str:
        """Whose trades these are; may be set to another."""
        return self._made.session_id

    @session_id.setter
    def session_id(self, session_id: str) -> None:
        self._made.session_id = session_id

    log_trade = blocking(trades.TradeLogger.log_trade)
    log_real_trade = blocking(trades.TradeLogger.log_real_trade)
    log_paper_trade = blocking(trades.TradeLogger.log_paper_trade)


class SessionManager(_BotTwin[sessions.SessionManager]):
    """`outbox.SessionManager` for a `BlockingOutbox`, which is open. Raises UsageError."""

    def __init__(self, outbox: BlockingOutbox, *, source: str | None = None) -> None:
        super().__init__(outbox, lambda home: sessions.SessionManager(home, source=source))

    session_id = shown(sessions.SessionManager, lambda manager: manager.session_id)
    start_time = shown(sessions.SessionManager, lambda manager: manager.start_time)
    day_start = shown(sessions.SessionManager, lambda manager: manager.day_start)
    last_heartbeat = shown(sessions.SessionManager, lambda manager: manager.last_heartbeat)
    is_recovered = shown(sessions.SessionManager, lambda manager: manager.is_recovered)
    initial_balance = shown(sessions.SessionManager, lambda manager: manager.initial_balance)
    current_balance = shown(sessions.SessionManager, lambda manager: manager.current_balance)
    symbols = shown(sessions.SessionManager, lambda manager: manager.symbols)
    start_session = blocking(sessions.SessionManager.start_session)
    end_session = blocking(sessions.SessionManager.end_session)
    update_heartbeat = blocking(sessions.SessionManager.update_heartbeat)
    check_day_boundary = passed_there(sessions.SessionManager.check_day_boundary)


class SupabaseClient(_BotTwin[supabase.SupabaseClient]):
    """`outbox.SupabaseClient` for a `BlockingOutbox`, which is open. Raises UsageError."""

    def __init__(self, outbox: BlockingOutbox) -> None:
        super().__init__(outbox, supabase.SupabaseClient)

    enabled = shown(supabase.SupabaseClient, lambda client: client.enabled)
    url = shown(supabase.SupabaseClient, lambda client: client.url)
    pending_count = shown(supabase.SupabaseClient, lambda client: client.pending_count)
    execute = blocking(supabase.SupabaseClient.execute)
    log_trade = blocking(supabase.SupabaseClient.log_trade)
    log_event = blocking(supabase.SupabaseClient.log_event)
    retry_pending = blocking(supabase.SupabaseClient.retry_pending)
    get_trades = blocking(supabase.SupabaseClient.get_trades)
    query = blocking(supabase.SupabaseClient.query)
    rows = iterated(supabase.SupabaseClient.rows)
    describe = passed(supabase.SupabaseClient.describe)


class LocalStorage(_BotTwin[bars.LocalStorage]):
    """`outbox.LocalStorage` for a `BlockingOutbox`, which is open. Raises UsageError."""

    def __init__(self, outbox: BlockingOutbox) -> None:
        super().__init__(outbox, bars.LocalStorage)

    cache_bars = blocking(bars.LocalStorage.cache_bars)
    load_cached_bars = blocking(bars.LocalStorage.load_cached_bars)
    prune_bars = blocking(bars.LocalStorage.prune_bars)
    save_pending = blocking(bars.LocalStorage.save_pending)
    load_pending = blocking(bars.LocalStorage.load_pending)
    clear_pending = passed(bars.LocalStorage.clear_pending)
