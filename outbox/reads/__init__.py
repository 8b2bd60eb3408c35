"""Rows out: of the remote tables, of what this outbox holds, or of the two together.

results   what a read returns, and where it comes from
remote    page after page, each behind the last row of the one before
local     what the file holds of a destination, in pages
merged    pending entries laid over the remote rows
"""

from outbox.reads.results import ReadSource, Rows, chosen_source

__all__ = ["ReadSource", "Rows", "chosen_source"]
