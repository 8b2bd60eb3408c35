"""The durable outbox for Python bots.

async with Outbox.open(path="bot.db") as outbox, outbox.flushing():
    await outbox.put("trades", {"symbol": "EURUSD", ...})    # on disk when it returns, in Supabase soon after

What most bots need stands here; `outbox.errors` has every error, drawn as a tree. The bot's vocabulary, the reads and
`BlockingOutbox` are loaded when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from outbox.columns import Column, Kind
from outbox.entry import Operation, State, uuid_of
from outbox.errors import (
    ConfigError as ConfigError,
)
from outbox.errors import (
    DeadlinePassed as DeadlinePassed,
)
from outbox.errors import (
    DiskFull as DiskFull,
)
from outbox.errors import (
    EntryError as EntryError,
)
from outbox.errors import (
    ForeignLoop as ForeignLoop,
)
from outbox.errors import (
    ForkedProcess as ForkedProcess,
)
from outbox.errors import (
    IdConflict as IdConflict,
)
from outbox.errors import (
    InsideTransaction as InsideTransaction,
)
from outbox.errors import (
    InvalidEntry as InvalidEntry,
)
from outbox.errors import (
    InvalidQuery as InvalidQuery,
)
from outbox.errors import (
    InvalidRequest as InvalidRequest,
)
from outbox.errors import (
    MigrationChanged as MigrationChanged,
)
from outbox.errors import (
    NotADatabase as NotADatabase,
)
from outbox.errors import (
    NotDurable as NotDurable,
)
from outbox.errors import (
    OutboxClosed as OutboxClosed,
)
from outbox.errors import (
    OutboxError as OutboxError,
)
from outbox.errors import (
    OutboxFull as OutboxFull,
)
from outbox.errors import (
    OutcomeUnknown as OutcomeUnknown,
)
from outbox.errors import (
    RemoteError as RemoteError,
)
from outbox.errors import (
    SchemaError as SchemaError,
)
from outbox.errors import (
    SessionError as SessionError,
)
from outbox.errors import (
    SessionNotRunning as SessionNotRunning,
)
from outbox.errors import (
    SessionRunning as SessionRunning,
)
from outbox.errors import (
    StoreBusy as StoreBusy,
)
from outbox.errors import (
    StoreCorrupt as StoreCorrupt,
)
from outbox.errors import (
    StoreError as StoreError,
)
from outbox.errors import (
    StoreInUse as StoreInUse,
)
from outbox.errors import (
    StoreTooNew as StoreTooNew,
)
from outbox.errors import (
    TransactionExpired as TransactionExpired,
)
from outbox.errors import (
    Undecidable as Undecidable,
)
from outbox.errors import (
    Unreachable as Unreachable,
)
from outbox.errors import (
    UsageError as UsageError,
)
from outbox.errors import (
    WrongJournalMode as WrongJournalMode,
)
from outbox.outbox import Outbox
from outbox.settings import Settings
from outbox.stats import DrainReport, Stats
from outbox.store.receipts import Receipt
from outbox.store.selection import Handled, Outcome
from outbox.transaction import Transaction

if TYPE_CHECKING:
    from outbox.blocking import BlockingOutbox
    from outbox.bot.bars import LocalStorage
    from outbox.bot.models import Event, Session, Trade
    from outbox.bot.sessions import SessionEndReason, SessionManager
    from outbox.bot.supabase import SupabaseClient
    from outbox.bot.trades import PaperTrade, TradeLogger
    from outbox.reads import ReadSource, Rows

__version__ = "0.1.0"

_WHEN_USED = {
    "BlockingOutbox": "outbox.blocking",
    "Event": "outbox.bot.models",
    "LocalStorage": "outbox.bot.bars",
    "PaperTrade": "outbox.bot.trades",
    "ReadSource": "outbox.reads",
    "Rows": "outbox.reads",
    "Session": "outbox.bot.models",
    "SessionEndReason": "outbox.bot.sessions",
    "SessionManager": "outbox.bot.sessions",
    "SupabaseClient": "outbox.bot.supabase",
    "Trade": "outbox.bot.models",
    "TradeLogger": "outbox.bot.trades",
}

__all__ = [
    "BlockingOutbox",
    "Column",
    "DrainReport",
    "Event",
    "Handled",
    "Kind",
    "LocalStorage",
    "Operation",
    "Outbox",
    "OutboxError",
    "Outcome",
    "PaperTrade",
    "ReadSource",
    "Receipt",
    "Rows",
    "Session",
    "SessionEndReason",
    "SessionManager",
    "Settings",
    "State",
    "Stats",
    "SupabaseClient",
    "Trade",
    "TradeLogger",
    "Transaction",
    "uuid_of",
]


def __getattr__(name: str) -> Any:
    if name not in _WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_WHEN_USED[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHEN_USED})
