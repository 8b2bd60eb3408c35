"""The outbox for programs without asyncio: `BlockingOutbox`, and the bot's classes for it, called from any thread."""

from outbox.blocking.bot import LocalStorage, SessionManager, SupabaseClient, TradeLogger
from outbox.blocking.outbox import BlockingOutbox, BlockingTransaction

__all__ = ["BlockingOutbox", "BlockingTransaction", "LocalStorage", "SessionManager", "SupabaseClient", "TradeLogger"]
