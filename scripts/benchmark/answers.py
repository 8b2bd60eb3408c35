"""A server that stores nothing: it answers every POST as PostgREST does a batch that it has taken, some time later.

`python -m benchmark.answers SECONDS` prints the port that it listens on, and runs until its input is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import Iterator

from benchmark.beside import running, serve

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ANSWER = (
    b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n"
    b"preference-applied: resolution=ignore-duplicates, missing=default, return=minimal\r\n\r\n"
)


@contextlib.contextmanager
def answering(answer_s: float) -> Iterator[int]:
    """Run the server; yield its port. answer_s: seconds from a request to its answer."""
    with running("benchmark.answers", answer_s) as port:
        yield port


async def run(answer_s: float) -> None:
    """Serve until the input is closed."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                await reader.readexactly(int(length[1]) if length else 0)
                await asyncio.sleep(answer_s)
                writer.write(_ANSWER)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", limit=2**20)
    await serve(server)


if __name__ == "__main__":
    asyncio.run(run(float(sys.argv[1])))
