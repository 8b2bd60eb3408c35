"""A line of a certain length: forwards connections to a port of this machine, each byte later by a fixed time.

`python -m benchmark.delay PORT SECONDS` prints the port that it listens on, and runs until its input is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Iterator

from benchmark.beside import running, serve

_CHUNK = 65_536


@contextlib.contextmanager
def line(port: int, delay_s: float) -> Iterator[int]:
    """Run the line to `port`; yield its near end."""
    with running("benchmark.delay", port, delay_s) as near:
        yield near


async def run(port: int, delay_s: float) -> None:
    """Serve until the input is closed."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(asyncio.CancelledError):  # the end of this process, of which nobody needs to hear
            await asyncio.gather(_forward(reader, far_writer, delay_s), _forward(far_reader, writer, delay_s))
        for end in (writer, far_writer):
            end.close()

    server = await asyncio.start_server(connected, "127.0.0.1")
    await serve(server)


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Write what is read `delay_s` later, however much is under way; an end of file travels as the rest does."""
    loop = asyncio.get_running_loop()
    under_way: deque[tuple[float, bytes]] = deque()
    more = asyncio.Event()

    async def receive() -> None:
        while chunk := await reader.read(_CHUNK):
            under_way.append((loop.time() + delay_s, chunk))
            more.set()
        under_way.append((loop.time() + delay_s, b""))
        more.set()

    receiving = asyncio.create_task(receive())
    with contextlib.suppress(OSError):  # an end that is gone: the other direction will notice too
        while True:
            await more.wait()
            due_s, chunk = under_way.popleft()
            if not under_way:
                more.clear()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            if not chunk:
                writer.write_eof()
                break
            writer.write(chunk)
            await writer.drain()
    receiving.cancel()


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), float(sys.argv[2])))
