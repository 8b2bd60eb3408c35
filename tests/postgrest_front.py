"""In front of Supabase Lite: answers an insert of no rows as PostgREST does, by asking PostgreSQL.

Supabase Lite says 200 to `[]` without a word to its database. PostgREST runs its one statement all the same, and so
PostgreSQL looks at privileges and unique index before it finds that there is nothing to insert. That statement runs
here, as `service_role`, and is committed, as PostgREST would; everything else goes through to Supabase Lite.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg

STATUSES = {"42501": 403, "42P10": 400, "42703": 400}
PASSED_BACK = ("content-range", "preference-applied", "content-type")


@contextmanager
def front(behind: str, dsn: str) -> Iterator[str]:
    """Yield the URL of a server in front of `behind`, whose rows are in `dsn`."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.command == "POST" and body == b"[]":
                self._send(*planned(dsn, self.path))
                return
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
            }
            reply = httpx.request(self.command, behind + self.path, content=body, headers=headers, trust_env=False)
            passed = {name: reply.headers[name] for name in PASSED_BACK if name in reply.headers}
            self._send(reply.status_code, passed, reply.content)

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_PATCH(self) -> None:
            self._answer()

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def planned(dsn: str, path: str) -> tuple[int, dict[str, str], bytes]:
    """Return PostgREST's status, headers and body for an insert of `[]` into what `path` names."""
    parts = urlsplit(path)
    table, asked = parts.path.rsplit("/", 1)[1], parse_qs(parts.query)
    columns = asked["columns"][0].split(",")
    try:
        with psycopg.connect(dsn) as connection:
            types: dict[str, str] = dict(
                connection.execute(
                    "select attname, format_type(atttypid, atttypmod) from pg_attribute where attrelid = %s::regclass",
                    (f"public.{table}",),
                ).fetchall()
            )
            connection.execute("set local role service_role")
            named = ", ".join(columns)
            record = ", ".join(f"{column} {types[column]}" for column in columns)
            connection.execute(
                f"insert into public.{table} ({named}) select {named} from json_to_recordset('[]') as _ ({record})"
                f" on conflict ({asked['on_conflict'][0]}) do nothing".encode()
            )
    except psycopg.Error as error:
        facts: dict[str, Any] = {"code": error.sqlstate, "message": error.diag.message_primary}
        return STATUSES[error.sqlstate or ""], {"content-type": "application/json"}, json.dumps(facts).encode()
    return 201, {"preference-applied": "return=minimal, resolution=ignore-duplicates", "content-range": "*/*"}, b""
