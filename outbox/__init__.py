"""The durable outbox for Python bots.

async with Outbox.open(path="bot.db") as outbox, outbox.flushing():
    await outbox.put("trades", {"symbol": "EURUSD", ...})    # on disk when it returns, in Supabase soon after
"""

from outbox.api import DrainReport, Outbox, Stats, Transaction
from outbox.bars import LocalStorage
from outbox.entry import Operation, State
from outbox.errors import (
    ConfigError,
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
from outbox.models import Event, Session, Trade
from outbox.policy.columns import Column, Kind
from outbox.reads import ReadSource, Rows
from outbox.sessions import SessionEndReason, SessionManager
from outbox.settings import Settings
from outbox.store.operators import Handled, Outcome
from outbox.store.writer import Receipt
from outbox.supabase import SupabaseClient
from outbox.trades import PaperTrade, TradeLogger

__version__ = "0.1.0"

__all__ = [
    "Column",
    "ConfigError",
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
]
