"""How a connection is made: names resolved in threads of our own, the addresses of a host tried side by side.

Loaded with the first client: httpcore takes as long to load as a dozen of this library's modules.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import httpcore

from outbox.threads import in_thread

# RFC 8305, section 5: how long an address has to answer before the next one is tried beside it.
_NEXT_S = 0.25

_SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


async def addresses(host: str, port: int) -> list[str]:
    """Return the addresses of `host`, alternating IPv6 and IPv4. Raises OSError: mostly socket.gaierror."""
    found = await in_thread(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    kinds: dict[int, list[str]] = {}
    for family, _, _, _, place in found:
        kinds.setdefault(family, []).append(str(place[0]))
    rows = list(kinds.values())
    longest = max(map(len, rows), default=0)
    return list(dict.fromkeys(row[turn] for turn in range(longest) for row in rows if turn < len(row)))


class Backend(httpcore.AsyncNetworkBackend):
    """httpcore's own way to connect, with names resolved in threads that nobody waits for.

    httpx resolves in asyncio's default executor, whose threads asyncio and Python join at exit: a dead name server
    would hold up the exit of the process.
    """

    def __init__(self) -> None:
        self._plain = httpcore.AnyIOBackend()
        self._asked: dict[tuple[str, int], asyncio.Task[list[str]]] = {}

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[_SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of `host` that answers. Raises httpcore's own errors."""
        try:
            places = await self._resolved(host, port)
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            raise httpcore.ConnectError(str(error)) from error

        async def attempt(place: str) -> httpcore.AsyncNetworkStream:
            return await self._plain.connect_tcp(place, port, timeout, local_address, socket_options)

        return await _first(attempt, places)

    async def _resolved(self, host: str, port: int) -> list[str]:
        """Return the addresses; concurrent calls for the same host share one answer and one thread."""
        asked = self._asked.get((host, port))
        if asked is None:
            asked = self._asked[host, port] = asyncio.create_task(addresses(host, port), name="outbox-resolve")
            asked.add_done_callback(lambda task: self._forget((host, port), task))
        return await asyncio.shield(asked)

    def _forget(self, question: tuple[str, int], task: asyncio.Task[list[str]]) -> None:
        del self._asked[question]
        if not task.cancelled():
            task.exception()  # the caller may be gone


async def _first(
    attempt: Callable[[str], Coroutine[Any, Any, httpcore.AsyncNetworkStream]], places: list[str]
) -> httpcore.AsyncNetworkStream:
    """Return the first connection that is made; try the next address once one has failed or is late.

    If all fail, raises the error of the first.
    """
    running: set[asyncio.Task[httpcore.AsyncNetworkStream]] = set()
    failed: list[BaseException] = []
    try:
        while places or running:
            if places:
                running.add(asyncio.create_task(attempt(places[0]), name="outbox-connect"))
            places = places[1:]
            wait_s = _NEXT_S if places else None
            done, running = await asyncio.wait(running, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if (error := task.exception()) is not None:
                    failed.append(error)
                else:
                    running |= done - {task}
                    return task.result()
        raise failed[0] if failed else httpcore.ConnectError("the name has no address")
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_close_late)


def _close_late(task: asyncio.Task[httpcore.AsyncNetworkStream]) -> None:
    """Close a connection that lost the race."""
    if not task.cancelled() and task.exception() is None:
        asyncio.get_running_loop().create_task(task.result().aclose())
