"""The outbox for programs without asyncio: `BlockingOutbox`, called from any thread."""

from outbox.blocking.outbox import BlockingOutbox, BlockingTransaction

__all__ = ["BlockingOutbox", "BlockingTransaction"]
