"""The files of supabase_sql/, and how they are applied to a PostgreSQL. Needs the extra `schema`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from outbox.errors import InvalidRequest, SchemaError
from outbox.sql_files import folder, sql_files

if TYPE_CHECKING:
    from psycopg import Connection

# For a name server, a TLS handshake and a pooler's queue; a machine that never answers would take minutes.
_CONNECT_S = 10
# Shorter pieces of a DSN appear in messages by chance, and are not passwords.
_SECRET_CHARS = 4


@dataclass(frozen=True, slots=True)
class Script:
    """One file. text: its content, with Unix line ends."""

    name: str
    text: str


def scripts(optional: Sequence[str] = ()) -> tuple[Script, ...]:
    """Return the files in the order in which they apply, `optional` last. Raises InvalidRequest: no such file."""
    home = folder("supabase_sql")
    extra = {file.name.removesuffix(".sql"): file for file in sql_files(home / "optional")}
    for name in optional:
        if name not in extra:
            raise InvalidRequest(f"{name!r} is none of {', '.join(extra)}", field="optional")
    files = [*sql_files(home), *(extra[name] for name in optional)]
    return tuple(Script(file.name, file.read_text(encoding="utf-8")) for file in files)


def apply(dsn: str, files: Sequence[Script], *, lock_timeout_s: float, told: Callable[[Script, float], None]) -> None:
    """Apply `files`, each in its own transaction. told: called with each one applied, and its seconds.

    lock_timeout_s: how long a file keeps trying to lock a table; bots wait behind it for a second at most
    (0001_tables.sql, outbox_lock). Raises SchemaError: no connection, or a file was refused and is rolled back; those
    before it stay.
    """
    with _connected(dsn) as connection:
        for script in files:
            started_s = time.monotonic()
            with _explained(dsn, script.name), connection.transaction():
                # A project's own limit (Supabase: 2 minutes) would abort a long rewrite.
                connection.execute("set local statement_timeout = 0")
                connection.execute(f"set local outbox.lock_wait_s = {lock_timeout_s:f}")
                connection.execute("set local lock_timeout = '1s'")  # for any other lock that a file waits for
                connection.execute(script.text.encode(), prepare=False)
            told(script, time.monotonic() - started_s)


def statement_timeout(dsn: str, role: str) -> str | None:
    """Return the statement timeout of a request as `role`; None: no limit.

    PostgREST signs in as `authenticator` and applies the role's own setting. Raises SchemaError: no connection.
    """
    with _connected(dsn) as connection, _explained(dsn, "statement_timeout"):
        found = connection.execute(
            "select split_part(setting, '=', 2) from pg_catalog.pg_db_role_setting"
            " join pg_catalog.pg_roles on pg_roles.oid = setrole cross join unnest(setconfig) as setting"
            " where rolname in (%(role)s, 'authenticator') and setting like 'statement_timeout=%%'"
            " order by rolname = %(role)s desc limit 1",
            {"role": role},
        ).fetchone()
    return None if found is None or found[0] == "0" else str(found[0])


@contextmanager
def _connected(dsn: str) -> Iterator[Connection[Any]]:
    try:
        import psycopg
    except ImportError:
        message = "this needs the extra `schema`: python3 -m pip install 'psycopg[binary]'; nothing was changed"
        raise SchemaError(message) from None
    with _explained(dsn, None):
        # prepare_threshold: a pooler in transaction mode has no prepared statements.
        connection = psycopg.connect(dsn, autocommit=True, connect_timeout=_CONNECT_S, prepare_threshold=None)
    with connection:
        yield connection


@contextmanager
def _explained(dsn: str, file: str | None) -> Iterator[None]:
    """Translate psycopg's errors. Without their cause: libpq quotes a DSN that it cannot read."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        said = without_secrets(str(error).strip().partition("\n")[0], dsn)
        if file is None:
            raise SchemaError(f"no connection to the database: {said}; nothing was changed") from None
        hint = "; somebody holds a lock, try again" if error.sqlstate == "55P03" else ""
        message = f"{file}: {said}{hint}; this file was rolled back, those before it stay applied"
        raise SchemaError(message, file=file, code=error.sqlstate) from None


def without_secrets(message: str, dsn: str) -> str:
    """Return `message` with every piece of `dsn` that may be a password redacted, in each of its forms."""
    for piece in sorted(_secrets(dsn), key=len, reverse=True):
        message = message.replace(piece, "***")
    return message


def _secrets(dsn: str) -> set[str]:
    """All that could be a password, even where a missing percent-encoding makes libpq read it as something else."""
    found = set(re.findall(r"password\s*=\s*'?([^'&]*)", dsn, re.IGNORECASE))
    if "://" in dsn:
        user_info = dsn.split("://", 1)[1].rpartition("@")[0]
        found.add(user_info.partition(":")[2])
    elif "=" not in dsn:
        found.add(dsn)  # not a DSN: perhaps just the password
    pieces = {piece for whole in found for piece in (whole, unquote(whole), *re.split(r"[\s@:/?#]", whole))}
    return {piece for piece in pieces if len(piece) >= _SECRET_CHARS}
