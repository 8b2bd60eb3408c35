"""Serves the site on a port of this machine's loopback until interrupted."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from outbox.errors import ConfigError
from outbox.web.actions import ENTER
from outbox.web.operations import Operations
from outbox.web.site import make_site

_HOST = "127.0.0.1"


def serve(path: Path, port: int, operations: Operations, ready: Callable[[str], None]) -> None:
    """Serve `path` until Ctrl-C. port: 0 is any free one. ready: called with the address once it answers.

    Raises ConfigError: the port is taken.
    """
    with listening(port) as listener:
        address = (
            f"http://{_HOST}:{listener.getsockname()[1]}{f'{ENTER}?key={operations.key}' if operations.key else '/'}"
        )
        config = uvicorn.Config(
            make_site(path, operations).app(),
            lifespan="on",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn shuts down cleanly, then raises it again
            _Server(config, lambda: ready(address)).run([listener])


class _Server(uvicorn.Server):
    """Reports when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and report it."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def listening(port: int) -> socket.socket:
    """Return a socket bound to `port` of this machine's loopback; 0: a free one. Raises ConfigError: it is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere the option would let another program take the port over
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"port {port} of {_HOST} cannot be used: {error.strerror}", field="--port") from error
    return listener
