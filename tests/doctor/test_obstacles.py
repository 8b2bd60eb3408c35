"""Why a project cannot be reached, found on real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from outbox.doctor.remote import obstacle
from outbox.doctor.remote_findings import Obstacle
from tests.support import run_async


@run_async
async def test_a_port_without_a_listener() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody else gets it, and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert (await obstacle(url, deadline_s=200))[0] is Obstacle.REFUSED


@run_async
async def test_a_host_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)  # some networks answer every name with a page of their own
    assert await obstacle("https://nobody.invalid", deadline_s=200) == (Obstacle.NO_HOST, "name or service not known")


@run_async
async def test_a_server_that_speaks_no_tls_and_one_that_never_answers() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert (await obstacle(f"https://127.0.0.1:{port}", deadline_s=200))[0] is Obstacle.TLS
        assert (await obstacle(f"http://127.0.0.1:{port}", deadline_s=200))[0] is Obstacle.OTHER
        server.shutdown()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # the connection is made, and no word of TLS comes
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        assert (await obstacle(url, deadline_s=0.2))[0] is Obstacle.TIMEOUT


@run_async
async def test_a_certificate_that_is_not_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: object, **__: object) -> None:
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "certificate has expired"
        raise error

    monkeypatch.setattr(asyncio, "open_connection", refused)  # a real one needs a certificate that is made for it
    assert await obstacle("https://127.0.0.1", deadline_s=200) == (Obstacle.CERTIFICATE, "certificate has expired")
