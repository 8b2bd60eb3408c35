"""Which proxy, whose certificates, and what of the outside is kept: against real sockets on loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import tracemalloc
from pathlib import Path

import certifi
import httpx
import pytest

from outbox.postgrest.client import PostgrestTransport, Request
from outbox.postgrest.network import Misconfigured, proxy_for
from outbox.postgrest.scrub import Scrubber
from outbox.postgrest.verdicts import Failure, Pause, Reason, Reply, judge, read_refusal
from tests.postgrest.test_postgrest import OK, REQUEST, connected, keep_alive, say, send, serving
from tests.support import run_async

CERTIFICATES = Path(certifi.where()).read_bytes()
FAR = "https://project.example"
KEY = "canary-key-0123456789"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)


# ---------------------------------------------------------------------------------------------- which proxy

P = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("url", "environ", "place"),
    [
        pytest.param(FAR, {}, None, id="none named"),
        pytest.param(FAR, {"HTTPS_PROXY": P}, P, id="https"),
        pytest.param(FAR, {"HTTPS_PROXY": "proxy.example:3128"}, P, id="without a scheme"),
        pytest.param(FAR, {"HTTPS_PROXY": "http://me:word@proxy.example:3128/"}, P, id="its password is not shown"),
        pytest.param(FAR, {"HTTPS_PROXY": "  "}, None, id="empty is none"),
        pytest.param(FAR, {"https_proxy": P, "HTTPS_PROXY": "http://b.example"}, P, id="small letters win"),
        pytest.param(FAR, {"ALL_PROXY": P}, P, id="all"),
        pytest.param(FAR, {"ALL_PROXY": "socks://x", "HTTPS_PROXY": P}, P, id="what is not in force does no harm"),
        pytest.param(FAR, {"HTTP_PROXY": P}, None, id="for the other scheme"),
        pytest.param(FAR, {"HTTPS_PROXY": P, "NO_PROXY": "project.example"}, None, id="excepted"),
        pytest.param(FAR, {"HTTPS_PROXY": P, "NO_PROXY": "a, .example"}, None, id="its domain is"),
        pytest.param(FAR, {"HTTPS_PROXY": P, "NO_PROXY": "*.example"}, None, id="with a star"),
        pytest.param(FAR, {"HTTPS_PROXY": P, "NO_PROXY": "project.example:443"}, None, id="with its port"),
        pytest.param(FAR, {"HTTPS_PROXY": P, "NO_PROXY": "project.example:444"}, P, id="with another port"),
        pytest.param(FAR, {"HTTPS_PROXY": P, "NO_PROXY": "ject.example"}, P, id="the end of a name is no domain"),
        pytest.param(FAR, {"HTTPS_PROXY": P, "NO_PROXY": "*"}, None, id="everything is"),
        pytest.param(FAR, {"HTTPS_PROXY": P, "NO_PROXY": "[::1],::1,[,:,;,10.0.0.0/99"}, P, id="garbage excepts none"),
        pytest.param("https://10.1.2.3", {"HTTPS_PROXY": P, "NO_PROXY": "10.0.0.0/8"}, None, id="a network is"),
        pytest.param("https://[fd00::1]", {"HTTPS_PROXY": P, "NO_PROXY": "[fd00::1]"}, None, id="an IPv6 address is"),
        pytest.param("http://localhost:54321", {"HTTP_PROXY": P, "ALL_PROXY": P}, None, id="localhost"),
        pytest.param("http://127.0.0.1:54321", {"http_proxy": P}, None, id="127.0.0.1"),
        pytest.param("http://[::1]:54321", {"http_proxy": P}, None, id="::1"),
        pytest.param("http://[::ffff:127.0.0.1]", {"http_proxy": P}, None, id="127.0.0.1 as IPv6"),
        pytest.param("http://localhost.", {"http_proxy": "socks://x"}, None, id="garbage does no harm here"),
        pytest.param("http://10.0.0.5", {"http_proxy": "http://localhost:1"}, "http://localhost:1", id="a proxy here"),
    ],
)  # fmt: skip
def test_the_proxy_is_the_one_that_the_environment_names(url: str, environ: dict[str, str], place: str | None) -> None:
    found = proxy_for(url, environ, allow_insecure=False)
    assert (found and found.place) == place


@pytest.mark.parametrize(
    ("url", "environ", "variable"),
    [
        pytest.param(FAR, {"ALL_PROXY": "socks://127.0.0.1:1080"}, "ALL_PROXY", id="socks"),
        pytest.param(FAR, {"https_proxy": "http://[::1"}, "https_proxy", id="half an address"),
        pytest.param(FAR, {"HTTPS_PROXY": "http://p:99999"}, "HTTPS_PROXY", id="no port"),
        pytest.param(FAR, {"HTTPS_PROXY": "http://pr\u00f6xy"}, "HTTPS_PROXY", id="no ASCII"),
        pytest.param(FAR, {"HTTPS_PROXY": "http://"}, "HTTPS_PROXY", id="no host"),
        pytest.param(FAR, {"HTTPS_PROXY": "http://a b"}, "HTTPS_PROXY", id="a space"),
        pytest.param(FAR, {"HTTPS_PROXY": "socks5://p:1"}, "HTTPS_PROXY", id="a package is missing"),
        pytest.param("http://10.0.0.5", {"HTTP_PROXY": P}, "HTTP_PROXY", id="the key in the clear"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(url: str, environ: dict[str, str], variable: str) -> None:
    with pytest.raises(Misconfigured, match=f"^{variable}: "):
        proxy_for(url, environ, allow_insecure=False)


def test_what_allow_insecure_allows_to_a_server_it_allows_to_its_proxy() -> None:
    assert proxy_for("http://10.0.0.5", {"HTTP_PROXY": P}, allow_insecure=True) is not None


@run_async
async def test_a_request_to_this_machine_never_meets_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(keep_alive) as server, serving(keep_alive) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/rest/v1"))
        assert isinstance(await send(server.url), Reply)
        assert (len(server.heads), proxy.heads) == (1, [])
        # Control: httpx by itself brings the key there.
        async with httpx.AsyncClient() as client:
            await client.post(server.url, headers={"apikey": "x"})
        assert "apikey" in proxy.heads[0].lower()


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        pytest.param(b"407 Proxy Authentication Required", Failure.MISCONFIGURED, "407", id="wants a password"),
        pytest.param(
            b"407 Not me:password, Basic bWU6cGFzc3dvcmQ=", Failure.MISCONFIGURED, "407 Not <key>", id="quotes it"
        ),
        pytest.param(b"403 Forbidden", Failure.MISCONFIGURED, "403", id="forbids"),
        pytest.param(b"502 Bad Gateway", Failure.UNREACHABLE, "502", id="finds nobody"),
    ],
)
@run_async
async def test_what_a_proxy_answers_is_said_with_its_name(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, kind: Failure, said: str
) -> None:
    async with serving(say(b"HTTP/1.1 " + answer + b"\r\nContent-Length: 0\r\n\r\n")) as proxy:
        place = proxy.url.removesuffix("/rest/v1")
        monkeypatch.setenv("HTTPS_PROXY", place.replace("//", "//me:password@"))
        failure = await send(f"{FAR}/rest/v1")
    assert failure == kind
    assert isinstance(failure, Failure)
    assert place in failure.words and "HTTPS_PROXY" in failure.words and said in failure.words
    assert "password" not in failure.words.lower()
    assert "bWU6" not in failure.words
    assert proxy.heads[0].startswith("CONNECT project.example:443")


@run_async
async def test_a_dead_proxy_is_named_and_a_corrected_variable_takes_effect_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    async with connected(f"{FAR}/rest/v1") as transport:
        failure = await transport.send(REQUEST, deadline_s=60)
        assert failure == Failure.UNREACHABLE
        assert isinstance(failure, Failure)
        assert "the proxy http://127.0.0.1:1 (HTTPS_PROXY) cannot be reached" in failure.words
        async with serving(say(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url.removesuffix("/rest/v1"))
            assert await transport.send(REQUEST, deadline_s=60) == Failure.MISCONFIGURED


@run_async
async def test_a_proxys_own_page_in_a_replys_place_is_told_with_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(say(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/rest/v1"))
        transport = PostgrestTransport("http://10.9.8.7/rest/v1", KEY, allow_insecure=True)
        reply = await transport.send(REQUEST, deadline_s=60)
        await transport.aclose()
    assert isinstance(reply, Reply)
    verdict = judge("insert", 1, reply)  # type: ignore[arg-type]
    assert isinstance(verdict, Pause)
    assert (verdict.reason, verdict.slow) == (Reason.MISCONFIGURED, True)
    assert "HTTP_PROXY" in verdict.refusal.message


# ---------------------------------------------------------------------------------------------- certificates


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"])
@run_async
async def test_a_certificates_variable_with_a_wrong_path_is_named_until_it_is_corrected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    place = tmp_path / "not" / "there"
    monkeypatch.setenv(variable, str(place))
    async with connected("https://127.0.0.1:1/rest/v1") as transport:
        failure = await transport.send(REQUEST, deadline_s=60)
        assert failure == Failure.MISCONFIGURED
        assert isinstance(failure, Failure)
        assert failure.words.startswith(f"{variable}: {place}")
        place.parent.mkdir()
        if variable == "SSL_CERT_DIR":
            place.mkdir()
        else:
            place.write_bytes(CERTIFICATES if variable == "SSL_CERT_FILE" else b"")
        assert await transport.send(REQUEST, deadline_s=60) == Failure.UNREACHABLE  # nobody is there, that is all


@run_async
async def test_a_file_that_holds_no_certificate_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "garbage.pem").write_bytes(b"\x00garbage")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "garbage.pem"))
    failure = await send("https://127.0.0.1:1/rest/v1")
    assert isinstance(failure, Failure)
    assert failure == Failure.MISCONFIGURED
    assert "SSL_CERT_FILE" in failure.words
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("SSL_CERT_FILE", "")  # empty is not set
    assert await send("https://127.0.0.1:1/rest/v1") == Failure.UNREACHABLE


@run_async
@pytest.mark.parametrize("host", ["project..example", f"{'a' * 64}.example", ".example", "xn--a.example"])
async def test_a_host_name_that_cannot_be_one_is_told_as_the_urls(host: str) -> None:
    outcome = await send(f"https://{host}/rest/v1")
    assert isinstance(outcome, Failure)
    assert outcome == Failure.MISCONFIGURED
    assert outcome.words.startswith("the host name of the URL cannot be used: ")


@run_async
async def test_control_httpx_by_itself_raises_for_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("ALL_PROXY", "socks://x"),
        ("NO_PROXY", "[::1]"),
        ("SSL_CERT_FILE", "/not/there"),
        ("SSLKEYLOGFILE", "/not/there"),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            with pytest.raises((ValueError, ImportError, httpx.InvalidURL, OSError)):
                httpx.AsyncClient()


# ---------------------------------------------------------------------------------------------- what is kept


def refusing(body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 401 No", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(refusing(json.dumps({"message": f"Invalid API key: {KEY}"}).encode()), id="in a message"),
        pytest.param(refusing(json.dumps({"hint": f"Bearer {KEY.upper()}"}).encode()), id="in capitals"),
        pytest.param(
            refusing(b'{"message":"' + "".join(f"\\u{ord(sign):04x}" for sign in KEY).encode() + b'"}'), id="in numbers"
        ),
        pytest.param(refusing(b"{}", b"X-Request-Id: " + KEY.encode()), id="in a header"),
        pytest.param(refusing(b"<html>" + KEY.encode()), id="in a page"),
        pytest.param(
            b"HTTP/1.1 401 No\r\nConnection: close\r\n\r\n" + b"x" * (256 * 1024 - 12) + KEY.encode(), id="cut in two"
        ),
        pytest.param(
            refusing(gzip.compress(json.dumps({"code": KEY}).encode()), b"Content-Encoding: gzip"), id="compressed"
        ),
        pytest.param(
            refusing(b'{"message": "' + "".join(f"\\u{ord(sign):04x}" for sign in KEY).encode() + b' \\ud83d"}'),
            id="escaped, beside half an emoji",
        ),
    ],
)
@run_async
async def test_a_key_that_the_other_end_quotes_is_taken_out_where_the_reply_enters(answer: bytes) -> None:
    async with serving(say(answer)) as server:
        reply = await send(server.url, key=KEY)
    assert isinstance(reply, Reply)
    shown = (str(read_refusal(reply)) + str(reply.headers)).lower() + reply.body.decode(errors="replace").lower()
    assert KEY[:10] not in shown
    assert KEY[:10] in gzip.decompress(answer.partition(b"\r\n\r\n")[2]).decode() if b"gzip" in answer else True


@run_async
async def test_a_token_is_taken_out_too_and_a_clean_body_stays_byte_for_byte() -> None:
    clean = b'{"message": "\\u00e9t\\u00e9",  "code": "X"}'
    async with serving(say(refusing(b"Bearer tok-abcdefgh")), say(refusing(clean))) as server:
        transport = PostgrestTransport(server.url, KEY, token="tok-abcdefgh")
        first = await transport.send(REQUEST, deadline_s=60)
        await transport.aclose()
        second = await send(server.url)
    assert isinstance(first, Reply)
    assert first.body == b"Bearer <key>"
    assert isinstance(second, Reply)
    assert second.body == clean


def test_control_without_the_scrubber_a_quoted_key_is_kept() -> None:
    reply = Reply(401, {}, json.dumps({"message": KEY}).encode())
    assert KEY in str(read_refusal(reply))
    assert KEY not in Scrubber(KEY).body(reply.body, 1000).decode()


@run_async
async def test_no_cookie_is_kept() -> None:
    async with (
        serving(say(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b; Path=/\r\n\r\n")), keep_alive) as server,
        connected(server.url) as transport,
    ):
        for _ in range(2):
            assert isinstance(await transport.send(REQUEST, deadline_s=60), Reply)
        assert server.header("cookie") is None


@run_async
async def test_headers_that_repeat_an_updates_filters_are_in_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "httpcore.http11", "httpcore.connection"):
        caplog.set_level(logging.DEBUG, logger=name)
    answer = OK.replace(b"\r\n\r\n", b"\r\nContent-Location: /t?a=eq.canary\r\n\r\n")
    async with serving(say(answer)) as server:
        await send(server.url, request=Request("PATCH", "t?a=eq.canary&columns=x", (), b"{}"))
        assert "canary" not in caplog.text
        assert re.search(r"PATCH .*/rest/v1/t ", caplog.text)
    async with serving(say(answer)) as server, httpx.AsyncClient() as client:  # control: a bot's own are logged
        await client.get(f"{server.url}/t")
    assert "canary" in caplog.text


# ---------------------------------------------------------------------------------------------- bounded


@pytest.mark.parametrize(
    "encoding", [pytest.param("gzip", id="once"), pytest.param("gzip, gzip", id="twice"), pytest.param("br", id="else")]
)
@run_async
async def test_a_reply_that_would_unpack_to_a_gigabyte_takes_no_memory_and_no_time(encoding: str) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    body = gzip.compress(bomb) if "," in encoding else bomb
    answer = refusing(body, f"Content-Encoding: {encoding}".encode())
    async with serving(keep_alive, say(answer)) as server, connected(server.url) as transport:
        await transport.send(REQUEST, deadline_s=60)
        assert server.header("accept-encoding") == "identity"
        await transport._drop(transport._client)  # type: ignore[arg-type]
        tracemalloc.start()
        try:
            reply = await transport.send(REQUEST, deadline_s=60)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert isinstance(reply, Reply)
    assert (reply.status, len(reply.body) <= 256 * 1024) == (401, True)
    assert peak < 8_000_000


@run_async
async def test_what_breaks_off_while_it_is_unpacked_is_cut() -> None:
    packed = gzip.compress(b"x" * 1000)
    async with serving(say(refusing(packed[:-9], b"Content-Encoding: gzip"))) as server:
        assert await send(server.url) == Failure.CUT


@run_async
async def test_a_client_is_made_once_for_many_at_once() -> None:
    async with serving(keep_alive) as server, connected(server.url) as transport:
        await asyncio.gather(*(transport.send(REQUEST, deadline_s=60) for _ in range(8)))
        first = transport._client
        await transport.send(REQUEST, deadline_s=60)
        assert transport._client is first
