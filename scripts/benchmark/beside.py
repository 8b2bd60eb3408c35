"""Servers that run beside a measurement, each in a process of its own, so that they cost the measured one nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def running(module: str, *arguments: float) -> Iterator[int]:
    """Run `module`, which calls `serve`, for the length of the block; yield its port."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    # Started from wherever the caller is: it need not be where modules are looked for.
    env = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


async def serve(server: asyncio.Server) -> None:
    """Print the port of `server` and serve until the input is closed."""
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()
