"""Every query that runs more than once: its purpose, the index it must use, its bound.

A test asks SQLite for each one's plan, so that none of them reads the backlog or the history.
"""

from __future__ import annotations

from outbox.store.queries.file import *  # noqa: F403
from outbox.store.queries.operators import *  # noqa: F403
from outbox.store.queries.puts import *  # noqa: F403
from outbox.store.queries.query import Query as Query
from outbox.store.queries.sending import *  # noqa: F403
from outbox.store.queries.waiting import *  # noqa: F403

ALL = {name: query for name, query in globals().items() if isinstance(query, Query)}
