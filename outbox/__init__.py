"""The durable outbox for Python bots.

async with Outbox.open(path="bot.db") as outbox, outbox.flushing():
    await outbox.put("trades", {"symbol": "EURUSD", ...})    # on disk when it returns, in Supabase soon after
"""

from outbox.api import DrainReport, Outbox, Stats, Transaction
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
    MigrationChanged,
    NotADatabase,
    NotDurable,
    OutboxClosed,
    OutboxError,
    OutboxFull,
    OutcomeUnknown,
    RemoteError,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreInUse,
    StoreTooNew,
    TransactionExpired,
    Unreachable,
    UsageError,
    WrongJournalMode,
)
from outbox.settings import Settings
from outbox.store.writer import Receipt

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "DiskFull",
    "DrainReport",
    "EntryError",
    "ForeignLoop",
    "ForkedProcess",
    "IdConflict",
    "InsideTransaction",
    "InvalidEntry",
    "MigrationChanged",
    "NotADatabase",
    "NotDurable",
    "Operation",
    "Outbox",
    "OutboxClosed",
    "OutboxError",
    "OutboxFull",
    "OutcomeUnknown",
    "Receipt",
    "RemoteError",
    "Settings",
    "State",
    "Stats",
    "StoreBusy",
    "StoreCorrupt",
    "StoreError",
    "StoreInUse",
    "StoreTooNew",
    "Transaction",
    "TransactionExpired",
    "Unreachable",
    "UsageError",
    "WrongJournalMode",
]
