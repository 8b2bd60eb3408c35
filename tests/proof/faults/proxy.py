"""A proxy between the flusher and the real remote end that breaks what it is told to break.

Each connection carries one request. The next fault in the queue is done to it; with none left it passes unharmed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter, deque
from collections.abc import Coroutine
from enum import Enum
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")


class Fault(Enum):
    """What to do to one request. The name says whether the remote end got it."""

    CUT_BEFORE = "the connection ends before the remote end has seen anything"
    CUT_DURING_REPLY = "carried out; half of the reply arrives"
    CUT_INSTEAD_OF_REPLY = "carried out; nothing of the reply arrives"
    DRIP = "carried out; the reply drips, a byte at a time, past any deadline"
    HANG = "carried out; nothing arrives, and the connection stays open"
    GARBAGE = "carried out; the reply is no HTTP"
    ERROR_PAGE_AFTER = "carried out; a gateway answers 502 with HTML all the same"
    BARE_500_AFTER = "carried out; 500 with an empty body"
    ERROR_PAGE = "not carried out; 503 with HTML"
    CAPTIVE_PORTAL = "not carried out; 200 with a login page"
    NOT_JSON_400 = "not carried out; 400 with text that is no JSON"
    RATE_LIMITED = "not carried out; 429 with Retry-After: 0"
    UNAUTHORIZED = "not carried out; 401 as PostgREST says it"
    LATE = "carried out only when `release` is called; the connection ends at once"


_NOT_SENT = {
    Fault.ERROR_PAGE: b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/html\r\n\r\n<html>busy</html>",
    Fault.CAPTIVE_PORTAL: b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>please log in</html>",
    Fault.NOT_JSON_400: b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n\r\n{oops",
    Fault.RATE_LIMITED: b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\n\r\n",
    Fault.UNAUTHORIZED: b'HTTP/1.1 401 Unauthorized\r\n\r\n{"code":"PGRST301","message":"JWSError"}',
}
_INSTEAD = {
    Fault.GARBAGE: b"\x00\x01\x02 this is not HTTP\r\n\r\n",
    Fault.ERROR_PAGE_AFTER: b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\n\r\n<html>bad gateway</html>",
    Fault.BARE_500_AFTER: b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
}


class Proxy:
    """Runs in a thread of its own, so that it outlives the event loops of the tests and the processes they kill."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._faults: deque[Fault] = deque()
        self._late: list[bytes] = []
        self.seen: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def break_next(self, *faults: Fault) -> None:
        """Do these to the next requests, in this order."""
        self._loop.call_soon_threadsafe(self._faults.extend, faults)

    def heal(self) -> None:
        """Let everything pass from here on."""
        self._loop.call_soon_threadsafe(self._faults.clear)

    def release(self) -> int:
        """Carry out now what was held back as LATE; return how many requests that were."""
        return self._call(self._release())

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(200)

    async def _close(self) -> None:
        self._server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    async def _release(self) -> int:
        late, self._late = self._late, []
        for request in late:
            await self._forward(request)
        return len(late)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            request = await _whole_request(reader)
            fault = self._faults.popleft() if self._faults else None
            self.seen[fault.name if fault else "PASSED"] += 1
            await self._answer(fault, request, reader, writer)
        writer.close()

    async def _answer(
        self, fault: Fault | None, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if fault is Fault.CUT_BEFORE:
            return
        if fault is Fault.LATE:
            self._late.append(request)
            return
        if fault in _NOT_SENT:
            await _send(writer, _NOT_SENT[fault])
            return
        reply = await self._forward(request)
        if fault is Fault.HANG:
            await reader.read()  # until the client gives up
        elif fault is Fault.DRIP:
            for byte in reply:
                await _send(writer, bytes([byte]))
                await asyncio.sleep(0.05)
        elif fault is Fault.CUT_DURING_REPLY:
            await _send(writer, reply[: len(reply) // 2])
        elif fault is not Fault.CUT_INSTEAD_OF_REPLY:
            await _send(writer, _INSTEAD[fault] if fault else reply)

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            await _send(writer, request)
            return await reader.read()
        finally:
            writer.close()


async def _send(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(content)
    await writer.drain()


async def _whole_request(reader: asyncio.StreamReader) -> bytes:
    """Return one request; it asks the remote end to close, so that the reply ends where the connection does."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(b"connection:")]
    length = next((int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), 0)
    body = await reader.readexactly(length)
    return b"\r\n".join([*lines, b"connection: close", b"", body])
