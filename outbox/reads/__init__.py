"""Reads rows: from the remote tables, from what this outbox holds, or from both together.

query     what a read asks for, and what it returns
keyset    remote rows page after page, each behind the last row of the one before
overlay   what pending entries make of a row
merged    the reads themselves: remote pages, what the file holds, the two merged
"""

from outbox.reads.query import ReadSource, Rows, chosen_source

__all__ = ["ReadSource", "Rows", "chosen_source"]
