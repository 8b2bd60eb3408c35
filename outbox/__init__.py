"""The durable outbox for Python bots.

async with Outbox.open(path="bot.db") as outbox, outbox.flushing():
    await outbox.put("trades", {"symbol": "EURUSD", ...})    # on disk when it returns, in Supabase soon after
"""

from outbox.blocking import BlockingOutbox
from outbox.bot.bars import LocalStorage
from outbox.bot.models import Event, Session, Trade
from outbox.bot.sessions import SessionEndReason, SessionManager
from outbox.bot.supabase import SupabaseClient
from outbox.bot.trades import PaperTrade, TradeLogger
from outbox.columns import Column, Kind
from outbox.entry import Operation, State, uuid_of
from outbox.errors import (
    ConfigError,
    DeadlinePassed,
    DiskFull,
    EntryError,
    ForeignLoop,
    ForkedProcess,
    IdConflict,
    InsideTransaction,
    InvalidEntry,
    InvalidQuery,
    InvalidRequest,
    MigrationChanged,
    NotADatabase,
    NotDurable,
    OutboxClosed,
    OutboxError,
    OutboxFull,
    OutcomeUnknown,
    RemoteError,
    SchemaError,
    SessionError,
    SessionNotRunning,
    SessionRunning,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreInUse,
    StoreTooNew,
    TransactionExpired,
    Undecidable,
    Unreachable,
    UsageError,
    WrongJournalMode,
)
from outbox.outbox import Outbox
from outbox.reads import ReadSource, Rows
from outbox.settings import Settings
from outbox.stats import DrainReport, Stats
from outbox.store.receipts import Receipt
from outbox.store.selection import Handled, Outcome
from outbox.transaction import Transaction

__version__ = "0.1.0"

__all__ = [
    "BlockingOutbox",
    "Column",
    "ConfigError",
    "DeadlinePassed",
    "DiskFull",
    "DrainReport",
    "EntryError",
    "Event",
    "ForeignLoop",
    "ForkedProcess",
    "Handled",
    "IdConflict",
    "InsideTransaction",
    "InvalidEntry",
    "InvalidQuery",
    "InvalidRequest",
    "Kind",
    "LocalStorage",
    "MigrationChanged",
    "NotADatabase",
    "NotDurable",
    "Operation",
    "Outbox",
    "OutboxClosed",
    "OutboxError",
    "OutboxFull",
    "Outcome",
    "OutcomeUnknown",
    "PaperTrade",
    "ReadSource",
    "Receipt",
    "RemoteError",
    "Rows",
    "SchemaError",
    "Session",
    "SessionEndReason",
    "SessionError",
    "SessionManager",
    "SessionNotRunning",
    "SessionRunning",
    "Settings",
    "State",
    "Stats",
    "StoreBusy",
    "StoreCorrupt",
    "StoreError",
    "StoreInUse",
    "StoreTooNew",
    "SupabaseClient",
    "Trade",
    "TradeLogger",
    "Transaction",
    "TransactionExpired",
    "Undecidable",
    "Unreachable",
    "UsageError",
    "WrongJournalMode",
    "uuid_of",
]
