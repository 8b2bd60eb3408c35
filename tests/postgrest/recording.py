"""Every request that the library sends, taken from the wire: what recorded_requests.txt pins.

    python -m tests.postgrest.recording            # say whether the file is what is sent
    python -m tests.postgrest.recording --write    # write it anew: read the difference before you commit it

Each scene is a real outbox on a real file; a socket on this machine hears what it sends. Headers that differ from
machine to machine are left open in the file ({host}, {version}), and content-length is checked here.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from outbox import Outbox, Settings, SupabaseClient
from outbox.postgrest.client import USER_AGENT
from outbox.stats import FlusherState
from outbox.testing import ManualClock

FILE = Path(__file__).with_name("recorded_requests.txt")
HEAD = """\
# Every request that the library sends, as it goes over the wire: one for each operation, batch shape, kind of key,
# read filter, and the health row. tests/postgrest/test_recorded.py compares it with what the code sends.
#
# {host} and {version} stand for what differs from machine to machine; content-length is left out. No key is real.
# tests/postgrest/replay.py sends these requests to any PostgREST. "orders" is a table of somebody's own:
#
#   create table public.orders (order_id text primary key, account text, day date, lots int, unique (account, day));
"""

SECRET = "sb_secret_recorded"
PUBLISHABLE = "sb_publishable_recorded"
# {"alg":"HS256","typ":"JWT"} . {"role":"…"} . a signature that fits nothing
LEGACY = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.recorded"
TOKEN = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb2xlIjoib3V0Ym94X2JvdCJ9.recorded"

TRADE = {"session_id": "s-1", "symbol": "EURUSD", "timestamp": "2026-01-02T10:00:00Z"}
SESSION = {"session_id": "s-1", "start_time": "2026-01-02T09:00:00Z", "status": "RUNNING", "version": 1}

Scene = Callable[[Outbox], Awaitable[object]]


def id_of(number: int) -> str:
    return f"019b7d00-0000-7000-8000-{number:012d}"


def inserts(*rows: Mapping[str, object], table: str = "trades", first: int = 1) -> Scene:
    async def scene(outbox: Outbox) -> None:
        for number, row in enumerate(rows, first):
            await outbox.put(table, row, id=id_of(number))
        await outbox.drain(timeout=200)

    return scene


def puts(table: str, *rows: Mapping[str, object], **more: Any) -> Scene:
    async def scene(outbox: Outbox) -> None:
        outbox.register("orders", key="order_id")
        for row in rows:
            await outbox.put(table, row, **more)
        await outbox.drain(timeout=200)

    return scene


def reads(**arguments: Any) -> Scene:
    return lambda outbox: SupabaseClient(outbox).query(**arguments)


def reports(*, stopped: bool) -> Scene:
    async def scene(outbox: Outbox) -> None:
        # Only who sends reports; a real one would add reports of its own.
        outbox._flusher.state.now = FlusherState(running=True)
        await outbox._reporter._report(stopped=stopped, deadline_s=200)

    return scene


VALUES = {
    "direction": 1.0, "pnl": Decimal("0.10000000000000000001"), "volume": float("nan"), "is_paper": True,
    "comment": 'é 😀 "\\ \n', "exit_price": None,
}  # fmt: skip

SCENES: dict[str, tuple[Scene, Mapping[str, Any]]] = {
    "insert, one row": (inserts(TRADE), {}),
    "insert, three rows in one request": (inserts(*(TRADE | {"trade_id": str(n)} for n in range(3)), first=2), {}),
    "insert, every kind of value": (inserts(TRADE | VALUES, first=5), {}),
    "insert, an object and a list inside the row": (
        inserts({"event_type": "X", "timestamp": "2026-01-02T10:00:00Z", "data": {"n": [1, None]}}, table="events"),
        {},
    ),
    "insert, the row has its id": (puts("trades", TRADE | {"id": id_of(6)}), {}),
    "insert, a key column of one's own": (puts("orders", {"lots": 2}, id="o-1"), {}),
    "upsert, one row": (puts("sessions", SESSION, operation="upsert"), {}),
    "upsert, two rows in one request": (
        puts("sessions", SESSION | {"version": 2}, SESSION | {"session_id": "s-2"}, operation="upsert"),
        {},
    ),
    "upsert, decided by two columns": (
        puts(
            "orders",
            {"order_id": "o-2", "account": "a", "day": "2026-01-02", "lots": 3},
            operation="upsert",
            on_conflict=("account", "day"),
        ),
        {},
    ),
    "update": (puts("sessions", {"status": "STOPPED"}, operation="update", match={"session_id": "s-1"}), {}),
    "update, what a URL is cut by": (
        puts(
            "trades",
            {"pnl": Decimal("1.50")},
            operation="update",
            match={"comment": "a&b=c,(d) é%", "exit_price": None, "is_paper": False, "direction": 1},
        ),
        {},
    ),
    "key: a legacy service_role key, in both headers": (inserts(TRADE, first=7), {"supabase_key": LEGACY}),
    "key: a publishable key, with a token beside it": (
        inserts(TRADE, first=8),
        {"supabase_key": PUBLISHABLE, "access_token": TOKEN},
    ),
    "source: beyond ASCII": (inserts(TRADE, first=9), {"source": "tendência ↑"}),
    "source: none": (inserts(TRADE, first=10), {"source": None}),
    "read: the newest trades": (lambda outbox: SupabaseClient(outbox).get_trades(), {}),
    "read: every filter of get_trades": (
        lambda outbox: SupabaseClient(outbox).get_trades("s-1", is_paper=False, symbol="EUR/USD", limit=5),
        {},
    ),
    "read: every operator": (
        reads(
            table="trades",
            select="symbol, pnl",
            filters={
                "pnl": ("gt", 0), "volume": ("gte", 0.1), "direction": ("lt", 2), "commission": ("lte", 1),
                "symbol": ("eq", "EURUSD"), "exit_price": None, "is_paper": True,
            },
            order="-pnl",
            limit=10,
        ),
        {},
    ),
    "read: lists, patterns, what is not": (
        reads(
            table="trades",
            filters={
                "symbol": ("in", ["EURUSD", 'A,B"(']), "action": ("neq", "SELL"), "comment": ("like", "stop%"),
                "session_id": ("ilike", "eur%"), "exit_price": ("is", None),
            },
            order=("-timestamp", "id"),
            limit=20,
            offset=40,
        ),
        {},
    ),
    "read: inside a JSON column": (
        reads(table="events", select="why:data->>reason", filters={"data->>reason": "a b&c"}, limit=1),
        {},
    ),
    "read: everything, page by page": (reads(table="sessions", order="start_time"), {}),
    "read: a path as it stands": (lambda outbox: outbox.fetch("trades?select=id&limit=1"), {}),
    "health: a report": (reports(stopped=False), {}),
    "health: the last report": (reports(stopped=True), {}),
}  # fmt: skip


@dataclass(frozen=True)
class Recorded:
    """One request. headers: in the order of the wire, names in lower case."""

    title: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: str

    def text(self) -> str:
        head = "".join(f"{name}: {value}\n" for name, value in self.headers)
        body = f"\n{self.body}\n" if self.body else ""
        return f"=== {self.title}\n{self.method} {self.target} HTTP/1.1\n{head}{body}"


def read(text: str) -> list[Recorded]:
    """Return what a file holds."""
    found = []
    for part in re.split(r"^=== ", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n\n")
        title, line, *headers = head.strip("\n").split("\n")
        method, target, _ = line.split(" ")
        pairs = tuple((name, value) for name, _, value in (header.partition(": ") for header in headers))
        found.append(Recorded(title, method, target, pairs, body.strip("\n")))
    return found


ANSWERS = {
    "POST": b"HTTP/1.1 201 Created\r\npreference-applied: %s\r\ncontent-length: 0\r\n\r\n",
    "PATCH": b"HTTP/1.1 204 No Content\r\ncontent-range: 0-0/1\r\n\r\n",
    "GET": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]",
}


@contextlib.asynccontextmanager
async def listening(heard: list[bytes]) -> AsyncIterator[str]:
    """Answer whatever comes as PostgREST does, and keep its bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                heard.append(head + await reader.readexactly(int(length[1]) if length else 0))
                asked = re.search(rb"\nprefer: ([^\r]*)", head, re.IGNORECASE)
                answer = ANSWERS[head.split(b" ", 1)[0].decode()]
                writer.write(answer.replace(b"%s", asked[1] if asked else b""))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def taken(title: str, raw: bytes, url: str) -> Recorded:
    """Return what `raw` is, with what differs from machine to machine left open."""
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *headers = head.decode("ascii").split("\r\n")
    method, target, _ = line.split(" ")
    pairs = [(name.lower(), value) for name, _, value in (header.partition(": ") for header in headers)]
    assert dict(pairs).get("content-length", "0") == str(len(body))
    version = USER_AGENT.partition("/")[2]
    open_values = {"host": "{host}", "user-agent": "durable-outbox/{version}"}
    kept = tuple((name, open_values.get(name, value)) for name, value in pairs if name != "content-length")
    assert dict(pairs)["host"] in url and dict(pairs)["user-agent"] == USER_AGENT
    return Recorded(
        title, method, target, kept, body.decode().replace(f'"version":"{version}"', '"version":"{version}"')
    )


async def record() -> list[Recorded]:
    """Play every scene and return what was sent."""
    found: list[Recorded] = []
    for title, (scene, changes) in SCENES.items():
        heard: list[bytes] = []
        async with listening(heard) as url:
            with tempfile.TemporaryDirectory() as folder:
                values = {"supabase_url": url, "supabase_key": SECRET, "source": "trend@desk", **changes}
                settings = Settings(path=Path(folder) / "bot.db", _env_file=None, **values)
                async with Outbox.open(settings, clock=ManualClock()) as outbox:
                    await scene(outbox)
            (raw,) = heard
            found.append(taken(title, raw, url))
    return found


def text_of(requests: list[Recorded]) -> str:
    return "\n".join([HEAD, *(request.text() for request in requests)])


if __name__ == "__main__":
    sent = text_of(asyncio.run(record()))
    if "--write" in sys.argv:
        FILE.write_text(sent, encoding="utf-8", newline="\n")
    sys.exit(0 if FILE.read_text(encoding="utf-8") == sent else f"{FILE.name} is not what is sent")
