"""`outbox_apply` on the tests' own server, and gone again afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from benchmark.mixed import FUNCTION
from psycopg.rows import TupleRow
from supabase_lite import EmbeddedPostgres, SupabaseLite

_SIGNATURES = ("(json, boolean)", "_target(text)", "_one(json, text)")


@contextmanager
def function_installed(
    remote: SupabaseLite, postgres: EmbeddedPostgres, *, before: Sequence[str] = (), after: Sequence[str] = ()
) -> Iterator[psycopg.Connection[TupleRow]]:
    """Install the function, then run `before`; at the end run `after` and drop the function."""
    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as sql:
        sql.execute(FUNCTION.read_bytes())
        for statement in before:
            sql.execute(statement.encode())
        remote.stop()
        remote.start()  # Lite reads functions and tables when it starts
        yield sql
        for statement in after:
            sql.execute(statement.encode())
        for signature in _SIGNATURES:
            sql.execute(f"drop function public.outbox_apply{signature}".encode())
