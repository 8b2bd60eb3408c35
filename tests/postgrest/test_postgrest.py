"""The PostgREST transport against a real server on loopback, which misbehaves in every way a network has."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import re
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import httpx
import pytest

from outbox.postgrest.client import USER_AGENT, PostgrestTransport, Request
from outbox.postgrest.verdicts import Failure, Reply
from tests.support import run_async

SECRET = "sb_secret_canary0123456789"
JWT = "eyJcanary.eyJwayload.signature0123456789"
REQUEST = Request(
    "POST", "t?on_conflict=id&columns=id", (("content-type", "application/json"), ("prefer", "p")), b"[1]"
)
OK = b"HTTP/1.1 201 Created\r\nPreference-Applied: resolution=ignore-duplicates\r\nContent-Length: 0\r\n\r\n"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """What it heard: the head and body of each request; and on how many connections."""

    url: str = ""
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def hear(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        self.heads.append(head)
        self.bodies.append(await reader.readexactly(int(length[1]) if length else 0))
        self.heard.set()

    def header(self, name: str) -> str | None:
        found = re.search(rf"^{name}: (.*)\r$", self.heads[-1], re.IGNORECASE | re.MULTILINE)
        return found[1] if found else None


@contextlib.asynccontextmanager
async def serving(*scripts: Handler) -> AsyncIterator[Server]:
    """Serve; the n-th connection follows the n-th script, later ones the last."""
    heard = Server()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        script = scripts[min(heard.connections, len(scripts) - 1)]
        heard.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await script(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    heard.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/rest/v1"
    scripts = tuple(bound(script, heard) for script in scripts)
    try:
        yield heard
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def bound(script: Handler, heard: Server) -> Handler:
    """Hear the request before the script begins."""

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if script is not refuse_to_hear:
            await heard.hear(reader)
        await script(reader, writer)
        while script is keep_alive:
            await heard.hear(reader)
            await script(reader, writer)

    return run


def say(answer: bytes) -> Handler:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return script


async def keep_alive(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)
    await writer.drain()


async def refuse_to_hear(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


def dripping(pause_s: float) -> Handler:
    """One byte at a time, for ever: no single read takes long."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(pause_s)

    return script


drip = dripping(0.005)


async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        await writer.drain()


async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@contextlib.asynccontextmanager
async def connected(url: str, key: str = SECRET) -> AsyncIterator[PostgrestTransport]:
    transport = PostgrestTransport(url, key)
    try:
        yield transport
    finally:
        await transport.aclose()


async def send(url: str, *, deadline_s: float = 60.0, key: str = SECRET, request: Request = REQUEST) -> Reply | Failure:
    async with connected(url, key) as transport:
        return await transport.send(request, deadline_s=deadline_s)


# ---------------------------------------------------------------------------------------------- what arrives


@run_async
async def test_a_request_arrives_as_it_was_built() -> None:
    async with serving(say(OK)) as server:
        reply = await send(server.url)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (201, b"")
    assert reply.headers["preference-applied"] == "resolution=ignore-duplicates"  # names in lower case
    assert server.heads[0].startswith("POST /rest/v1/t?on_conflict=id&columns=id HTTP/1.1\r\n")
    assert server.bodies == [b"[1]"]
    assert (server.header("prefer"), server.header("content-type")) == ("p", "application/json")
    assert server.header("user-agent") == USER_AGENT
    assert USER_AGENT.startswith("durable-outbox")


@run_async
async def test_an_encoded_filter_is_not_encoded_again_or_decoded() -> None:
    path = "t?a=eq.a%26b%3Dc%25%2C%C3%A9%28%22&b=is.null&columns=x"
    async with serving(say(OK)) as server:
        await send(server.url, request=Request("PATCH", path, (), b"{}"))
    assert server.heads[0].startswith(f"PATCH /rest/v1/{path} HTTP/1.1\r\n")


@run_async
async def test_a_secret_key_stands_only_in_apikey_and_a_legacy_key_in_both_headers() -> None:
    async with serving(say(OK)) as server:
        await send(server.url, key=SECRET)
        assert (server.header("apikey"), server.header("authorization")) == (SECRET, None)
        await send(server.url, key=JWT)
        assert (server.header("apikey"), server.header("authorization")) == (JWT, f"Bearer {JWT}")


# ---------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param(refuse_to_hear, Failure.CUT, id="closes at once"),
        pytest.param(cut, Failure.CUT, id="resets before the reply"),
        pytest.param(say(b""), Failure.CUT, id="closes before the reply"),
        pytest.param(say(b"HTTP/1.1 201 Cre"), Failure.CUT, id="closes within the status line"),
        pytest.param(say(b"HTTP/1.1 201 Created\r\nContent-Le"), Failure.CUT, id="closes within the headers"),
        pytest.param(say(b"HTTP/1.1 201 C\r\nContent-Length: 9\r\n\r\nabc"), Failure.CUT, id="closes within the body"),
        pytest.param(
            say(b"HTTP/1.1 201 C\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc"), Failure.CUT, id="cuts a chunk"
        ),
        pytest.param(say(b"\x00\x01garbage\r\n\r\n"), Failure.CUT, id="garbage"),
        pytest.param(say(b"SSH-2.0-OpenSSH_9.2\r\n"), Failure.CUT, id="another protocol"),
        pytest.param(say(b"HTTP/1.1 abc\r\n\r\n"), Failure.CUT, id="a status that is no number"),
        pytest.param(
            say(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"),
            Failure.CUT,
            id="claims to be gzip",
        ),
        pytest.param(say(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 200_000), Failure.CUT, id="headers without end"),
    ],
)
@run_async
async def test_a_reply_that_breaks_off_is_a_failure_and_no_exception(script: Handler, expected: Failure) -> None:
    async with serving(script) as server:
        assert await send(server.url) == expected


@pytest.mark.parametrize("script", [pytest.param(hang, id="hangs"), pytest.param(drip, id="drips")])
@run_async
async def test_the_deadline_bounds_the_whole_request(script: Handler) -> None:
    async with serving(script) as server:
        assert await send(server.url, deadline_s=0.15) == Failure.TIMEOUT


@run_async
async def test_control_httpx_own_timeout_does_not_end_a_drip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's clock moves by a second with each byte that has come, and by nothing else."""
    bytes_s = 0.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: bytes_s)

    async with (
        serving(dripping(0)) as server,
        httpx.AsyncClient(timeout=3) as client,
        client.stream("POST", f"{server.url}/t") as response,
    ):
        async for _ in response.aiter_raw():
            bytes_s += 1.0
            if bytes_s > 3 * 3:
                break


@run_async
async def test_a_reply_without_end_is_cut_off() -> None:
    async with serving(flood) as server:
        reply = await send(server.url)
    assert isinstance(reply, Reply)
    assert (reply.status, len(reply.body)) == (500, 256 * 1024)


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        pytest.param(
            b'HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n',
            400,
            b'{"a":1}',
            id="in chunks",
        ),
        pytest.param(
            b"HTTP/1.1 503 Busy\r\nConnection: close\r\n\r\nuntil the end", 503, b"until the end", id="no length"
        ),
        pytest.param(
            b"HTTP/1.1 400 Bad\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n" + gzip.compress(b"{}"),
            400,
            b"{}",
            id="gzip",
        ),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 201, b"", id="after 100 Continue"),
        pytest.param(b"HTTP/1.0 502 Bad Gateway\r\n\r\n<html>", 502, b"<html>", id="HTTP/1.0"),
    ],
)
@run_async
async def test_a_reply_is_read_whatever_its_form(answer: bytes, status: int, body: bytes) -> None:
    async with serving(say(answer)) as server:
        reply = await send(server.url)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (status, body)


@run_async
async def test_a_redirect_is_not_followed() -> None:
    async with serving(say(OK)) as elsewhere:
        moved = f"HTTP/1.1 307 Moved\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n".encode()
        async with serving(say(moved)) as server:
            reply = await send(server.url)
        assert isinstance(reply, Reply)
        assert reply.status == 307
        assert elsewhere.heads == []


@run_async
async def test_a_refused_connection_is_tried_twice_and_reported() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        assert await send(f"http://127.0.0.1:{port}/rest/v1") == Failure.UNREACHABLE  # it is held, and nobody listens


@pytest.mark.parametrize(
    ("url", "request_"),
    [
        pytest.param("https://127.0.0.1:1/rest/v1", REQUEST, id="nobody there"),
        pytest.param("ftp://127.0.0.1/rest/v1", REQUEST, id="another scheme"),
    ],
)
@run_async
async def test_what_cannot_be_sent_is_unreachable_and_no_exception(url: str, request_: Request) -> None:
    assert await send(url, request=request_) == Failure.UNREACHABLE


@run_async
async def test_tls_to_a_server_without_it_is_unreachable() -> None:
    async with serving(refuse_to_hear) as server:
        assert await send(server.url.replace("http:", "https:")) == Failure.UNREACHABLE


@run_async
async def test_many_concurrent_requests_to_a_closed_port_are_all_unreachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        async with connected(f"http://127.0.0.1:{port}/rest/v1") as transport:
            outcomes = await asyncio.gather(*(transport.send(REQUEST, deadline_s=60) for _ in range(20)))
    assert set(outcomes) == {Failure.UNREACHABLE}


# ---------------------------------------------------------------------------------------------- connections


@run_async
async def test_a_connection_is_used_again() -> None:
    async with serving(keep_alive) as server, connected(server.url) as transport:
        for _ in range(5):
            assert isinstance(await transport.send(REQUEST, deadline_s=60), Reply)
        assert (server.connections, len(server.heads)) == (1, 5)


@run_async
async def test_a_connection_that_the_server_closed_meanwhile_does_no_harm() -> None:
    async with serving(say(OK), keep_alive) as server, connected(server.url) as transport:
        assert isinstance(await transport.send(REQUEST, deadline_s=60), Reply)
        for _ in range(20):  # let the close arrive
            await asyncio.sleep(0)
        assert isinstance(await transport.send(REQUEST, deadline_s=60), Reply)
        assert server.connections == 2


async def once_then_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer, hear the next request too, and close as a gateway does whose patience is over: without a word."""
    writer.write(OK)
    await writer.drain()
    await reader.readuntil(b"\r\n\r\n")


@run_async
async def test_a_stale_connection_is_not_taken_for_an_outage() -> None:
    """It looked open when the request was sent: the close came in between."""
    async with serving(once_then_close, keep_alive) as server, connected(server.url) as transport:
        assert isinstance(await transport.send(REQUEST, deadline_s=60), Reply)
        assert isinstance(await transport.send(REQUEST, deadline_s=60), Reply)
        assert server.connections == 2


@run_async
async def test_many_stale_connections_are_not_either() -> None:
    async with serving(*[once_then_close] * 8, keep_alive) as server, connected(server.url) as transport:
        for _ in range(2):
            outcomes = await asyncio.gather(*(transport.send(REQUEST, deadline_s=60) for _ in range(8)))
            assert all(isinstance(outcome, Reply) for outcome in outcomes)
        assert server.connections > 8


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(cut, id="a new connection that breaks"),
        pytest.param(say(b"HTTP/1.1 201 C\r\nContent-Length: 9\r\n\r\nabc"), id="an answer that had begun"),
    ],
)
@run_async
async def test_control_what_is_no_stale_connection_is_not_sent_again_by_itself(script: Handler) -> None:
    async with serving(script) as server:
        assert await send(server.url) == Failure.CUT
        assert len(server.heads) == 1


async def once_then_half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)
    await writer.drain()
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 201 C\r\nContent-Length: 9\r\n\r\nabc")
    await writer.drain()


@run_async
async def test_control_nor_is_an_answer_that_breaks_off_on_a_connection_kept_open() -> None:
    async with serving(once_then_half, keep_alive) as server, connected(server.url) as transport:
        assert isinstance(await transport.send(REQUEST, deadline_s=60), Reply)
        assert await transport.send(REQUEST, deadline_s=60) == Failure.CUT
        assert server.connections == 1


@run_async
async def test_a_missed_deadline_leaves_the_transport_usable() -> None:
    async with serving(*[hang] * 100, keep_alive) as server, connected(server.url) as transport:
        outcomes = await asyncio.gather(*(transport.send(REQUEST, deadline_s=0.3) for _ in range(32)))
        assert set(outcomes) == {Failure.TIMEOUT}
        outcomes = await asyncio.gather(*(transport.send(REQUEST, deadline_s=0.3) for _ in range(32)))
        assert set(outcomes) == {Failure.TIMEOUT}
        server.connections = 100
        assert isinstance(await transport.send(REQUEST, deadline_s=60), Reply)


@run_async
async def test_a_full_pool_makes_a_new_client_and_the_old_one_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(keep_alive) as server, connected(server.url) as transport:
        assert isinstance(await transport.send(REQUEST, deadline_s=60), Reply)
        old = transport._client
        assert old is not None

        async def full(*_: object, **__: object) -> None:
            raise httpx.PoolTimeout("no connection in time")

        monkeypatch.setattr(transport, "_once", full)
        outcomes = await asyncio.gather(*(transport.send(REQUEST, deadline_s=60) for _ in range(3)))
        assert set(outcomes) == {Failure.UNREACHABLE}
        monkeypatch.undo()
        assert old.is_closed
        assert transport._client is not old
        assert isinstance(await transport.send(REQUEST, deadline_s=60), Reply)


@run_async
async def test_sending_through_a_closed_transport_is_a_failure_and_no_exception() -> None:
    async with serving(keep_alive) as server, connected(server.url) as transport:
        await transport.aclose()
        assert await transport.send(REQUEST, deadline_s=60) == Failure.CUT


@run_async
async def test_a_transport_that_is_closed_while_it_sends_reports_a_failure() -> None:
    async with serving(hang) as server, connected(server.url) as transport:
        sending = asyncio.create_task(transport.send(REQUEST, deadline_s=60))
        await server.heard.wait()
        await transport.aclose()
        assert await sending in (Failure.CUT, Failure.UNREACHABLE, Failure.TIMEOUT)


@run_async
async def test_cancelling_a_request_cancels_it() -> None:
    async with serving(hang) as server, connected(server.url) as transport:
        sending = asyncio.create_task(transport.send(REQUEST, deadline_s=50))
        await server.heard.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


# ---------------------------------------------------------------------------------------------- the key


@pytest.mark.parametrize("key", [SECRET, JWT])
@run_async
async def test_the_key_is_in_no_log_line_and_no_repr(key: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "httpcore.http11", "httpcore.connection", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    async with (
        serving(say(OK), cut, say(b"garbage\r\n\r\n"), keep_alive) as server,
        connected(server.url, key) as transport,
    ):
        for _ in range(4):
            await transport.send(REQUEST, deadline_s=60)
        shown = [repr(transport), repr(transport._client), repr(transport._auth), str(vars(transport._client).keys())]
    await send("http://127.0.0.1:1/rest/v1", key=key)
    assert any("127.0.0.1" in record.getMessage() for record in caplog.records)  # control: they were listened to
    canary = "canary"
    for record in caplog.records:
        shown.append(logging.Formatter("%(message)s").format(record) + str(record.args) + str(vars(record)))
    assert not [text for text in shown if canary in text]


@run_async
async def test_the_values_of_an_updates_filters_are_in_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="httpx")
    path = "t?account=eq.canary&columns=x"
    async with serving(keep_alive) as server:
        await send(server.url, request=Request("PATCH", path, (), b"{}"))
        assert "canary" in server.heads[0]
        ours = [record.getMessage() for record in caplog.records if record.name.startswith(("httpx", "httpcore"))]
        assert any("PATCH" in line for line in ours)
        assert not [line for line in ours if "canary" in line]
        # Control: another URL of the bot's own is left as it is.
        async with httpx.AsyncClient() as client:
            await client.get(f"{server.url.replace('/rest/v1', '')}/mine?a=visible")
        assert any("visible" in record.getMessage() for record in caplog.records)


@run_async
async def test_a_bot_that_logs_at_info_has_no_line_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)  # of the root, as basicConfig does
    async with serving(keep_alive) as server, httpx.AsyncClient() as client:
        await send(server.url, request=REQUEST)
        assert not [record for record in caplog.records if record.name.startswith(("httpx", "httpcore"))]
        await client.get(server.url)  # control: a bot's own request is logged
    assert [record for record in caplog.records if record.name == "httpx"]


@run_async
async def test_the_key_is_in_no_traceback() -> None:
    """A key that no header can hold: httpx quotes the header in what it raises."""
    async with serving(keep_alive) as server, connected(server.url, "canary\nX-Evil: 1") as transport:
        try:
            outcome: object = await transport.send(REQUEST, deadline_s=60)
        except Exception:  # noqa: BLE001 - whatever it is, it must not tell
            outcome = traceback.format_exc()
        assert "canary" not in str(outcome)
        assert not server.heads


@run_async
async def test_a_url_that_no_client_sends_is_about_its_request_and_no_outage() -> None:
    transport = PostgrestTransport("http://127.0.0.1:9/rest/v1", SECRET)
    request = Request("POST", f"t?on_conflict=id&columns={'c' * 70_000}", (), b"[1]")
    assert await transport.send(request, deadline_s=60) == Reply(414, {}, b"")
    short = Request("POST", "t?on_conflict=id&columns=c", (), b"[1]")  # the control: nobody listens
    assert await transport.send(short, deadline_s=60) == Failure.UNREACHABLE
    await transport.aclose()
