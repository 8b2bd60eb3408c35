"""A read as one GET: which path may be asked for, and what its answer means; no I/O, no clock, no dice."""

from __future__ import annotations

import json
import re
from typing import Any

from outbox.errors import InvalidQuery, RemoteError, Unreachable
from outbox.postgrest.verdicts import Failure, Reply, read_refusal

NAME = r"[A-Za-z_][A-Za-z0-9_]{0,62}"
_PATH_RE = re.compile(rf"(?:rpc/)?{NAME}(?:\?[!\"$-~]*)?")  # no "#": what follows it is never sent


def checked_path(path: str) -> str:
    """Return `path` if it names a table or a function and, after a "?", printable ASCII. Raises InvalidQuery."""
    if not isinstance(path, str) or not _PATH_RE.fullmatch(path):
        raise InvalidQuery("must be table?parameters or rpc/function?parameters, percent-encoded", field="path")
    return path


def rows_of(path: str, outcome: Reply | Failure) -> list[dict[str, Any]]:
    """Return the rows that the answer to `path` holds. Raises Unreachable, RemoteError: never [] for a failure."""
    table = path.partition("?")[0]
    if isinstance(outcome, Failure):
        raise Unreachable(f"{table}: no answer ({outcome.said}); nothing was read")
    if not 200 <= outcome.status < 300:
        refusal = read_refusal(outcome)
        said = " ".join(word for word in (refusal.code, refusal.message) if word)
        raise RemoteError(
            f"{table}: HTTP {outcome.status}, {said}; nothing was read", status=outcome.status, code=refusal.code
        )
    try:
        rows = json.loads(outcome.body)
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        problem = "the answer does not come from PostgREST; nothing was read"
        raise RemoteError(f"{table}: HTTP {outcome.status}, {problem}", status=outcome.status)
    return rows
