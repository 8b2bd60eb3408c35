"""Requests to the remote end that cannot create a row, and what blocks the way if it does not answer.

They leave nothing behind there: no row, no table, no sequence number used. What a project's own statement triggers do
for a statement without rows is up to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urlsplit

from outbox.clock import Clock
from outbox.doctor.complaints import Complaint, Outcome, complaint
from outbox.doctor.remote_findings import Obstacle, TableFacts, Target, meant
from outbox.encoding import decode
from outbox.postgrest.client import Request, Transport
from outbox.postgrest.connecting import addresses
from outbox.postgrest.network import Misconfigured, tls_context
from outbox.postgrest.verdicts import Reply
from outbox.threads import in_thread

_JSON = ("content-type", "application/json")


class Questions:
    """Asks one project, one question after the other. deadline_s: for each of them."""

    def __init__(self, transport: Transport, clock: Clock, *, deadline_s: float) -> None:
        self._transport = transport
        self._clock = clock
        self._deadline_s = deadline_s

    async def first(self, target: Target) -> tuple[Outcome, float | None]:
        """Read no rows of one table; whether the table exists does not matter yet.

        Returns the answer, and how far this machine's clock is ahead of its Date header; None: it has none.
        """
        before_ms = self._clock.now_ms()
        outcome = await self._read(target.name, ())
        middle_ms = (before_ms + self._clock.now_ms()) / 2
        return outcome, _ahead_s(outcome, middle_ms)

    async def table(self, target: Target, delivered: tuple[str, str] | None) -> TableFacts:
        """Ask everything about one table. delivered: id and payload of an insert that should be there."""
        read = await self._read(target.name, target.columns)
        missing: dict[str, str | None] = {}
        if complaint(read) is Complaint.COLUMN:
            missing = await self._missing(target.name, target.columns)
        elif complaint(read) is not Complaint.NOTHING:
            return TableFacts(target, read)
        there = tuple(column for column in target.columns if column not in missing)
        return TableFacts(
            target,
            read,
            missing,
            {columns: await self._insert(target, columns, there) for columns in target.conflicts},
            await self._update(target.name, there) if target.updates and there else None,
            await self._sighted(target, delivered),
        )

    async def _read(self, table: str, columns: Sequence[str]) -> Outcome:
        return await self._ask("GET", f"{table}?select={','.join(columns) or '*'}&limit=0")

    async def _missing(self, table: str, columns: Sequence[str]) -> dict[str, str | None]:
        """Return the columns that the table lacks, each with the one that PostgreSQL thinks was meant.

        By bisection: PostgreSQL names one at a time.
        """
        outcome = await self._read(table, columns)
        if complaint(outcome) is not Complaint.COLUMN:
            return {}
        if len(columns) == 1:
            return {columns[0]: meant(outcome)}
        middle = len(columns) // 2
        return await self._missing(table, columns[:middle]) | await self._missing(table, columns[middle:])

    async def _insert(self, target: Target, deciding: str, there: Sequence[str]) -> Outcome:
        # No `missing=default`: no default must be evaluated, not even for a row that does not exist.
        columns = ",".join(there) or deciding
        prefer = ("prefer", "return=minimal,resolution=ignore-duplicates")
        return await self._ask("POST", f"{target.name}?on_conflict={deciding}&columns={columns}", b"[]", _JSON, prefer)

    async def _update(self, table: str, there: Sequence[str]) -> Outcome:
        column = there[0]
        path = f"{table}?and=({column}.is.null,{column}.not.is.null)&columns={column}"
        body = json.dumps({column: None}).encode()
        return await self._ask("PATCH", path, body, _JSON, ("prefer", "return=minimal,count=exact"))

    async def _sighted(self, target: Target, delivered: tuple[str, str] | None) -> tuple[str, Outcome] | None:
        if delivered is None:
            return None
        its_id, payload = delivered
        wanted = str(decode(payload).get(target.key) or its_id)
        path = f"{target.name}?select={target.key}&{target.key}=eq.{quote(wanted, safe='')}&limit=1"
        outcome = await self._ask("GET", path)
        # The key column is not the one asked for: the answer means nothing.
        return None if complaint(outcome) in (Complaint.COLUMN, Complaint.OTHER) else (its_id, outcome)

    async def _ask(self, method: str, path: str, body: bytes = b"", *headers: tuple[str, str]) -> Outcome:
        return await self._transport.send(Request(method, path, headers, body), deadline_s=self._deadline_s)


def _ahead_s(outcome: Outcome, now_ms: float) -> float | None:
    date = outcome.headers.get("date") if isinstance(outcome, Reply) else None
    try:
        # The header truncates to whole seconds: half a second is the best guess at the rest.
        return None if date is None else now_ms / 1000 - parsedate_to_datetime(date).timestamp() - 0.5
    except ValueError:
        return None


async def obstacle(url: str, *, deadline_s: float) -> tuple[Obstacle, str]:
    """Return what a plain connection to `url` meets, and the system's words for it."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    try:
        async with asyncio.timeout(deadline_s):
            host, port = parts.hostname or "", parts.port or (443 if secure else 80)
            place = (await addresses(host, port))[0]
            trusted = await in_thread(tls_context) if secure else None
            _, writer = await asyncio.open_connection(
                place, port, ssl=trusted, server_hostname=host if secure else None
            )
            writer.close()
            with contextlib.suppress(OSError):  # the connection was only a test
                await writer.wait_closed()
    except (OSError, TimeoutError, Misconfigured) as error:  # ssl.SSLError and socket.gaierror are OSErrors
        return _kind(error), _words(error)
    return Obstacle.OTHER, "a connection can be made, but the request gets no answer"


def _kind(error: Exception) -> Obstacle:
    for kind, found in (
        (ssl.SSLCertVerificationError, Obstacle.CERTIFICATE),
        (ssl.SSLError, Obstacle.TLS),
        (TimeoutError, Obstacle.TIMEOUT),
        (ConnectionRefusedError, Obstacle.REFUSED),
        (socket.gaierror, Obstacle.NO_HOST),
    ):
        if isinstance(error, kind):
            return found
    # Several addresses were tried: asyncio joins their errors into one of no specific type.
    return Obstacle.REFUSED if "refused" in str(error).lower() else Obstacle.OTHER


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
