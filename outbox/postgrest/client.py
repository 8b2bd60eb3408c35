"""How a batch becomes a request, and a request a reply: PostgREST over httpx."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import zlib
from collections.abc import AsyncIterator, Generator, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import NamedTuple, Protocol
from urllib.parse import quote

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from outbox import __version__
from outbox.entry import LaneSpec, Operation, Outgoing
from outbox.postgrest import network, project
from outbox.postgrest.batch import insert_body
from outbox.postgrest.scrub import Scrubber, be_discreet, ours
from outbox.postgrest.verdicts import RESOLUTIONS, Failure, Reply, Silence
from outbox.threads import in_thread

# The library's name: Supabase refuses secret keys from what looks like a browser.
USER_AGENT = f"durable-outbox/{__version__}"
# For the flusher's requests and the bot's reads; above requests_in_flight: cancelled requests can starve the pool.
_POOL = 64
# The most that is read of a reply; PostgREST's errors have a few hundred bytes, a hostile page may be endless.
_LONGEST_REPLY = 256 * 1024
# httpx refuses a URL of more than 65,536 characters; the rest is for the host.
_LONGEST_PATH = 65_000
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# Includes the percent sign: what a person has written stays as it is.
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


class Request(NamedTuple):
    """An HTTP request without the key. path: below the REST endpoint, with its query.

    reply_bytes: how much of the reply is read at most; a read needs room for its rows.
    """

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    reply_bytes: int = _LONGEST_REPLY


class Transport(Protocol):
    """The one seam to the network."""

    async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
        """Send `request` and return the reply, or why there is none. Never raises a network error."""

    async def aclose(self) -> None:
        """Close what is open."""


def project_of(transport: Transport) -> str | None:
    """Return the project that `transport` leads to; None: not known, or this machine's own."""
    named: str | None = getattr(transport, "project", None)
    return named


def build(spec: LaneSpec, entries: Sequence[Outgoing]) -> Request:
    """Return the one request that carries `entries`, all of `spec`. An update carries one entry."""
    match spec.operation:
        case Operation.INSERT:
            rows = [insert_body(spec, entry.id, entry.payload) for entry in entries]
            # An insert with an ordering key may have its caller's id: the count of stored rows tells whether to check.
            return _post(spec, rows, Operation.INSERT, ",count=exact" if spec.ordered else "")
        case Operation.UPSERT:
            return merge(spec, [entry.payload for entry in entries])
        case Operation.UPDATE:
            (entry,) = entries
            return _patch(spec, entry)


def merge(spec: LaneSpec, rows: Sequence[str]) -> Request:
    """Return the upsert of `rows`, which are JSON objects."""
    return _post(spec, rows, Operation.UPSERT)


def _post(spec: LaneSpec, rows: Sequence[str], operation: Operation, more: str = "") -> Request:
    path = f"{spec.destination}?on_conflict={spec.on_conflict}&columns={spec.columns}"
    # missing=default: PostgREST fills a column that a row lacks with its default instead of NULL.
    prefer = f"return=minimal,resolution={RESOLUTIONS[operation]},missing=default{more}"
    return Request("POST", path, _headers(prefer), f"[{','.join(rows)}]".encode())


def _patch(spec: LaneSpec, entry: Outgoing) -> Request:
    # Numbers stay text: a float would change a Decimal's digits.
    wanted = json.loads(entry.match or "{}", parse_float=str, parse_int=str)
    filters = "&".join(f"{column}={_filter(value)}" for column, value in sorted(wanted.items()))
    path = f"{spec.destination}?{filters}&columns={spec.columns}"
    return Request("PATCH", path, _headers("return=minimal,count=exact"), entry.payload.encode())


def _filter(value: object) -> str:
    if value is None or isinstance(value, bool):
        return f"is.{json.dumps(value)}"
    return f"eq.{quote(str(value), safe='')}"


def _headers(prefer: str) -> tuple[tuple[str, str], ...]:
    return (("content-type", "application/json"), ("prefer", prefer))


class _KeyAuth(httpx.Auth):
    """Adds the key at the last moment, so that none of our clients, requests or header lists holds it before."""

    def __init__(self, key: str, token: str | None) -> None:
        self._key = key
        # A legacy key is a JWT and must be in both headers; an sb_secret_ key as a bearer token is refused.
        self._token = token or (key if key.startswith("eyJ") else None)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["apikey"] = self._key
        if self._token is not None:
            request.headers["authorization"] = f"Bearer {self._token}"
        yield request

    def __repr__(self) -> str:
        return "<key>"


def source_header(source: str | None) -> dict[str, str]:
    """Return the header that names the bot. PostgREST exposes it to SQL: the default of the column `source` reads it.

    All but printable ASCII is percent-encoded: servers disagree about other bytes in a header.
    """
    name = quote((source or "").strip(), safe=_PRINTABLE)
    return {"x-outbox-source": name} if name else {}


class _Stale(Exception):
    """A kept-alive connection broke before an answer: most likely the other side had closed it."""


class _Trace:
    """What httpcore reports of one request: whether its connection is new, and whether an answer has begun."""

    def __init__(self) -> None:
        self.reused, self.answered = True, False

    async def __call__(self, event: str, _: object) -> None:
        if event.startswith("connection.connect"):
            self.reused = False
        elif event.endswith("receive_response_headers.complete"):
            self.answered = True


class PostgrestTransport:
    """PostgREST behind `rest_url`, for example https://<project>.supabase.co/rest/v1.

    token: a JWT whose role the server uses, beside a key that only opens the gateway. source: which bot this is.
    The constructor never fails: proxies and certificates are read from the environment at the first request, and again
    after each request that failed because of them.
    """

    def __init__(
        self,
        rest_url: str,
        key: str,
        *,
        token: str | None = None,
        source: str | None = None,
        allow_insecure: bool = False,
    ) -> None:
        from outbox.postgrest.connecting import Backend  # httpcore with it: not for a bot that only keeps rows

        self._rest_url = rest_url
        self._backend: type[Backend] = Backend
        self.project: str | None = project.identity(rest_url)
        self._auth = _KeyAuth(key, token)
        self._scrub = self._own_scrub = Scrubber(key, token)
        self._named = source_header(source)
        self._allow_insecure = allow_insecure
        self._proxy: network.Proxy | None = None
        self._client: httpx.AsyncClient | None = None
        self._making = asyncio.Lock()
        self._closed = False
        be_discreet()
        self._connect = AsyncRetrying(
            # Nothing was sent yet: an immediate retry often saves a whole pause (a listener that restarts).
            retry=retry_if_exception_type(httpx.ConnectError),
            stop=stop_after_attempt(2),
            wait=wait_random_exponential(multiplier=0.02, max=0.1),
            reraise=True,
        )

    async def _connected(self) -> httpx.AsyncClient:
        """Return the client; if there is none, make one from the current environment. Raises Misconfigured."""
        async with self._making:
            if self._client is None:
                self._proxy = network.proxy_for(self._rest_url, os.environ, allow_insecure=self._allow_insecure)
                self._scrub = self._own_scrub.also(*(self._proxy.secrets if self._proxy else ()))
                encrypted = "https:" in (self._rest_url[:6], self._proxy.url[:6] if self._proxy else "")
                # Without TLS an empty context will do: reading the certificates takes some 20 ms.
                trusted = await in_thread(network.tls_context) if encrypted else _NO_TLS
                self._client = self._new_client(trusted)
            return self._client

    def _new_client(self, trusted: ssl.SSLContext) -> httpx.AsyncClient:
        network_transport = httpx.AsyncHTTPTransport(
            limits=httpx.Limits(max_connections=_POOL, max_keepalive_connections=_POOL, keepalive_expiry=30),
            trust_env=False,  # `network` has read it
            verify=trusted,
            proxy=None if self._proxy is None else self._proxy.as_httpx(trusted),
        )
        network_transport._pool._network_backend = self._backend()  # httpcore takes one, but httpx passes none on
        return httpx.AsyncClient(
            transport=network_transport,
            timeout=httpx.Timeout(None, pool=5.0),  # the deadline of `send` bounds a whole request
            follow_redirects=False,  # a POST must not wander
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # no cookie is kept
            headers={
                "user-agent": USER_AGENT,
                "accept": "application/json",
                "accept-encoding": "identity",  # a kilobyte of gzip may hold a gigabyte
                **self._named,
            },
        )

    async def _drop(self, client: httpx.AsyncClient) -> None:
        """Let the next request make a new client."""
        if self._client is client:  # only the first to fail
            self._client = None
            await client.aclose()

    async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
        """Send `request`; `deadline_s` bounds all of it, even a reply that trickles in."""
        if len(request.path) > _LONGEST_PATH:
            return Reply(414, {}, b"")  # as a server would answer: this request is at fault, not the connection
        client = None
        within = ours.set(True)
        try:
            async with asyncio.timeout(deadline_s):
                if self._closed:
                    return Failure.CUT  # new settings, in the same moment
                client = await self._connected()
                return await self._through(client, request)
        except network.Misconfigured as error:
            return Failure(Silence.MISCONFIGURED, self._scrub.text(str(error)))
        except TimeoutError:
            return Failure(Silence.TIMEOUT, f"no answer within {deadline_s:g} s")
        except Exception as error:
            failure = await self._failed(error, client)
            if failure is None:
                raise
            return failure
        finally:
            ours.reset(within)

    async def _failed(self, error: Exception, client: httpx.AsyncClient | None) -> Failure | None:
        """Return what a request's `error` means; None: it is not a network error."""
        said = self._scrub.text(network.words(error, self._proxy))
        if client is not None and (
            # Cancelled requests can leak slots of the pool: a new client has them all again. And after a proxy or
            # a certificate is fixed, the bot need not be restarted.
            isinstance(error, httpx.PoolTimeout | httpx.ProxyError)
            or network.is_tls(error)
            or (self._proxy is not None and isinstance(error, httpx.ConnectError | httpx.ConnectTimeout))
        ):
            await self._drop(client)
        if (silence := network.silence(error)) is not None:
            return Failure(silence, said)
        if isinstance(error, RuntimeError) and client is not None and client.is_closed:
            return Failure.CUT  # new settings, or a new client, in the same moment
        return None

    async def _through(self, client: httpx.AsyncClient, request: Request) -> Reply:
        """Send `request`, again at once if a connection turns out to be stale: the ids make that harmless."""
        for _ in range(_POOL):  # each time one kept-alive connection is gone
            with contextlib.suppress(_Stale):
                return await self._connect(self._once, client, request)
        raise httpx.ReadError("no connection lasts")

    async def _once(self, client: httpx.AsyncClient, request: Request) -> Reply:
        trace = _Trace()
        sent = client.stream(
            request.method,
            f"{self._rest_url}/{request.path}",
            content=request.body,
            headers=list(request.headers),
            auth=self._auth,
            extensions={"trace": trace},
        )
        try:
            async with sent as response:
                raw = await _read(response, request.reply_bytes)
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            if trace.reused and not trace.answered and not isinstance(error, httpx.ConnectError):
                raise _Stale from error
            raise
        headers = {name.lower(): self._scrub.text(value) for name, value in response.headers.items()}
        via = None if self._proxy is None else str(self._proxy)
        return Reply(response.status_code, headers, self._scrub.body(raw, request.reply_bytes), via)

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        if self._client is not None:
            await self._client.aclose()


async def _read(response: httpx.Response, limit: int) -> bytes:
    """Return the body of `response`, at most a little more than `limit` bytes, decompressed if need be.

    The request asked for no compression. Empty if compressed twice, or other than by gzip.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    pieces: AsyncIterator[bytes] = response.aiter_raw()
    unpack = zlib.decompressobj(wbits=47) if encoding in ("gzip", "x-gzip", "deflate") else None
    if unpack is None and encoding not in ("identity", ""):
        return b""
    body = bytearray()
    async for piece in pieces:
        body += piece if unpack is None else unpack.decompress(piece, limit + 1 - len(body))
        if len(body) > limit:
            return bytes(body)
    if unpack is not None and body and not unpack.eof:
        raise zlib.error("the reply was cut off")
    return bytes(body)
