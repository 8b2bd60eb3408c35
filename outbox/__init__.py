"""The durable outbox for Python bots.

Every row that a bot writes is in a local SQLite file, synced, before the call returns. A background task, the flusher,
delivers it to Supabase exactly once, through kill -9, power loss and outages. The bot never waits on the network.

    import asyncio
    from outbox import Outbox

    async def main():
        async with Outbox.open(path="bot.db") as outbox, outbox.flushing():
            trade = {"session_id": "s-1", "symbol": "EURUSD", "timestamp": "2026-01-02T10:00:00Z", "direction": 1}
            await outbox.put("trades", trade)  # on disk when it returns, in Supabase soon after
            print(await outbox.drain(timeout=30))  # send now, and say what is left

    asyncio.run(main())

It needs SUPABASE_URL and SUPABASE_SECRET_KEY in the environment or in `.env`; without them rows are kept and wait.

Where to go on:

    help(outbox.Outbox)          put, put_many, transaction, drain, stats, and what an operator calls
    help(outbox.BlockingOutbox)  the same for programs without asyncio
    help(outbox.TradeLogger)     a bot's trades; SessionManager, SupabaseClient and LocalStorage beside it
    help(outbox.Settings)        everything that can be set
    help("outbox.errors")        every error, drawn as a tree
    help("outbox.testing")       a clock and a remote end for the tests of a bot

In a shell: `outbox --help` shows the commands, `outbox help` the pages of the documentation.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outbox import errors as errors
    from outbox.admin.resend import ResendReport as ResendReport
    from outbox.blocking import BlockingOutbox
    from outbox.bot.bars import LocalStorage
    from outbox.bot.models import Event, Session, Trade
    from outbox.bot.sessions import SessionEndReason, SessionManager
    from outbox.bot.supabase import SupabaseClient
    from outbox.bot.trades import PaperTrade, TradeLogger
    from outbox.columns import Column, Kind
    from outbox.entry import Destination, Operation, State, StoredEntry as StoredEntry
    from outbox.errors import *  # noqa: F403 - every error, and nothing else
    from outbox.errors import OutboxError
    from outbox.futures import PutFuture
    from outbox.outbox import Outbox
    from outbox.prepare import uuid_of
    from outbox.reads import ReadSource, Rows
    from outbox.settings import Settings
    from outbox.stats import DrainReport, FlusherState, Stats
    from outbox.store.receipts import Receipt
    from outbox.store.rows import StoredPause
    from outbox.store.selection import Handled, Outcome
    from outbox.transaction import Transaction

__version__ = "0.1.0"

_WHEN_USED = {
    name: module
    for module, names in {
        "outbox.admin.resend": "ResendReport",
        "outbox.blocking": "BlockingOutbox",
        "outbox.bot.bars": "LocalStorage",
        "outbox.bot.models": "Event Session Trade",
        "outbox.bot.sessions": "SessionEndReason SessionManager",
        "outbox.bot.supabase": "SupabaseClient",
        "outbox.bot.trades": "PaperTrade TradeLogger",
        "outbox.columns": "Column Kind",
        "outbox.entry": "Destination Operation State StoredEntry",
        "outbox.prepare": "uuid_of",
        "outbox.errors": "OutboxError",
        "outbox.futures": "PutFuture",
        "outbox.outbox": "Outbox",
        "outbox.transaction": "Transaction",
        "outbox.reads": "ReadSource Rows",
        "outbox.settings": "Settings",
        "outbox.stats": "DrainReport FlusherState Stats",
        "outbox.store.receipts": "Receipt",
        "outbox.store.rows": "StoredPause",
        "outbox.store.selection": "Handled Outcome",
    }.items()
    for name in names.split()
}

__all__ = [
    "BlockingOutbox",
    "Column",
    "Destination",
    "DrainReport",
    "Event",
    "FlusherState",
    "Handled",
    "Kind",
    "LocalStorage",
    "Operation",
    "Outbox",
    "OutboxError",
    "Outcome",
    "PaperTrade",
    "PutFuture",
    "ReadSource",
    "Receipt",
    "Rows",
    "Session",
    "SessionEndReason",
    "SessionManager",
    "Settings",
    "State",
    "Stats",
    "StoredPause",
    "SupabaseClient",
    "Trade",
    "TradeLogger",
    "Transaction",
    "uuid_of",
]


if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name == "errors":
            return import_module("outbox.errors")
        if name in _WHEN_USED:
            found = getattr(import_module(_WHEN_USED[name]), name)
        elif not _is_error(found := getattr(import_module("outbox.errors"), name, None)):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, import_module("outbox.errors").OutboxError)


def __dir__() -> list[str]:
    errors = (name for name, value in vars(import_module("outbox.errors")).items() if _is_error(value))
    return sorted({*globals(), *_WHEN_USED, *errors, "errors"})
