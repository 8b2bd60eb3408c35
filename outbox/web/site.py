"""Datasette, configured for an outbox: ready questions, times, a first page with a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasette.app import Datasette
from datasette.database import Database
from datasette.plugins import pm
from datasette.utils import sqlite3

from outbox.store import files
from outbox.web import hooks
from outbox.web.operations import Operations
from outbox.web.picture import NAME, TIME_LIMIT_MS
from outbox.web.questions import QUESTIONS

_BUSY_TIMEOUT_S = 5.0


class _ReadOnly(Database):  # type: ignore[misc]
    """The file as Datasette sees it. Mutable, so never `immutable=1`: a bot may write meanwhile."""

    def connect(self, write: bool = False) -> Any:
        """Return a connection that can neither write nor checkpoint, whatever its purpose."""
        # Datasette's own puts the bare path into the URI, where ? and % mean something.
        connection = sqlite3.connect(
            files.uri(Path(self.path)), uri=True, timeout=_BUSY_TIMEOUT_S, check_same_thread=False
        )
        connection.execute("pragma query_only = 1")
        self._all_file_connections.append(connection)
        return connection


def make_site(path: Path, operations: Operations) -> Datasette:
    """Return Datasette on the outbox file `path`, which must exist."""
    # If rich is installed, each mistyped query would print its traceback with all variables, payloads included.
    # The page says what was wrong. (Reached through the plugins: importing it first would register it half made.)
    pm.get_plugin("datasette.handle_exception").rich = None
    if not pm.is_registered(hooks):
        pm.register(hooks)
    site = Datasette(
        [],
        metadata=_metadata(path),
        template_dir=str(Path(__file__).parent / "templates"),
        settings={
            "sql_time_limit_ms": TIME_LIMIT_MS,
            "allow_download": False,  # a copy of a live file without its WAL is no backup
            "suggest_facets": False,  # each suggestion would read every entry, column by column
            "num_sql_threads": 2,  # a bot may run beside it
            "default_page_size": 50,
        },
    )
    site.outbox_operations = operations
    site.remove_database("_memory")
    site.add_database(_ReadOnly(site, path=str(path)), name=NAME)
    return site


def _metadata(path: Path) -> dict[str, Any]:
    queries = {
        each.name: {"sql": each.sql.strip(), "title": each.title, "description": each.explains, "hide_sql": True}
        for each in QUESTIONS
    }
    table = {
        "sort_desc": "seq",
        "description": "Every entry. state: pending, delivered, dead or discarded; payload: the row as it travels.",
    }
    return {"title": f"outbox · {path.name}", "databases": {NAME: {"queries": queries, "tables": {"outbox": table}}}}
