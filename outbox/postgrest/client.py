"""How a batch becomes a request, and a request a reply: PostgREST over httpx."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, runtime_checkable
from urllib.parse import quote

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from outbox.entry import LaneSpec, Operation
from outbox.postgrest import project
from outbox.postgrest.batch import insert_body
from outbox.postgrest.verdicts import Failure, Reply

# Of the flusher's requests and the bot's reads; above requests_in_flight, or cancelled requests can starve the pool.
_POOL = 64
# What is read of a reply at the most; PostgREST's errors have a few hundred bytes, a hostile page may have no end.
_LONGEST_REPLY = 256 * 1024
# A percent sign too: what a person has written stays as it is.
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request without the key. path: below the REST endpoint, with its query.

    reply_bytes: how much of the reply is read at the most; a read needs room for its rows.
    """

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    reply_bytes: int = _LONGEST_REPLY


class Transport(Protocol):
    """The one seam to the network."""

    async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
        """Send `request` and return the reply, or why there is none. Never raises for what the network does."""

    async def aclose(self) -> None:
        """Close what is open."""


@runtime_checkable
class Placed(Protocol):
    """A transport that knows which project it leads to; one that does not is never checked."""

    @property
    def project(self) -> str | None:
        """As `policy.project.identity`."""


def project_of(transport: Transport) -> str | None:
    """Return the project that `transport` leads to; None: it does not say, or it is this machine's own."""
    return transport.project if isinstance(transport, Placed) else None


class Sendable(Protocol):
    """What a request needs to know of an entry."""

    @property
    def id(self) -> str: ...
    @property
    def payload(self) -> str: ...
    @property
    def match(self) -> str | None: ...


def build(spec: LaneSpec, entries: Sequence[Sendable]) -> Request:
    """Return the one request that carries `entries`, all of `spec`. An update carries one entry."""
    match spec.operation:
        case Operation.INSERT:
            return _post(spec, [insert_body(spec, entry.id, entry.payload) for entry in entries], "ignore-duplicates")
        case Operation.UPSERT:
            return _post(spec, [entry.payload for entry in entries], "merge-duplicates")
        case Operation.UPDATE:
            (entry,) = entries
            return _patch(spec, entry)


def _post(spec: LaneSpec, rows: Sequence[str], resolution: str) -> Request:
    path = f"{spec.destination}?on_conflict={spec.on_conflict}&columns={spec.columns}"
    # PostgREST fills a column that a row does not have with its default instead of NULL (missing=default).
    prefer = f"return=minimal,resolution={resolution},missing=default"
    return Request("POST", path, _headers(prefer), f"[{','.join(rows)}]".encode())


def _patch(spec: LaneSpec, entry: Sendable) -> Request:
    # Numbers stay the texts they are: a float would change a Decimal's digits.
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
    """Adds the key at the last moment, so that no client, request or header list of ours holds it before."""

    def __init__(self, key: str, token: str | None) -> None:
        self._key = key
        # A legacy key is a JWT and must stand in both headers; an sb_secret_ key as a bearer token is refused.
        self._token = token or (key if key.startswith("eyJ") else None)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["apikey"] = self._key
        if self._token is not None:
            request.headers["authorization"] = f"Bearer {self._token}"
        yield request

    def __repr__(self) -> str:
        return "<key>"


class _WithoutQuery(logging.Filter):
    """httpx logs each URL at INFO, and the filters of an update are values of its row: they stay out of the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                value.copy_with(query=None) if isinstance(value, httpx.URL) and "/rest/v1/" in value.path else value
                for value in record.args
            )
        return True


_WITHOUT_QUERY = _WithoutQuery()


def user_agent() -> str:
    """Return our own name: Supabase refuses secret keys from what looks like a browser."""
    try:
        return f"durable-outbox/{version('durable-outbox')}"
    except PackageNotFoundError:
        return "durable-outbox"


def source_header(source: str | None) -> dict[str, str]:
    """Return the header that names the bot. PostgREST shows it to SQL: the default of the column `source` reads it.

    What is not printable ASCII goes percent-encoded: no two servers read other bytes of a header alike.
    """
    name = quote((source or "").strip(), safe=_PRINTABLE)
    return {"x-outbox-source": name} if name else {}


class PostgrestTransport:
    """PostgREST behind `rest_url`, for example https://<project>.supabase.co/rest/v1.

    token: a JWT whose role the server is to take, beside a key that only opens the gateway. source: which bot this is.
    """

    def __init__(self, rest_url: str, key: str, *, token: str | None = None, source: str | None = None) -> None:
        self._rest_url = rest_url
        self.project = project.identity(rest_url)
        self._auth = _KeyAuth(key, token)
        self._named = source_header(source)
        self._client = self._new_client()
        logging.getLogger("httpx").addFilter(_WITHOUT_QUERY)  # the same one is added once
        self._connect = AsyncRetrying(
            # Nothing was sent yet: once more at once often saves a whole pause (a listener that restarts).
            retry=retry_if_exception_type(httpx.ConnectError),
            stop=stop_after_attempt(2),
            wait=wait_random_exponential(multiplier=0.02, max=0.1),
            reraise=True,
        )

    def _new_client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=_POOL, max_keepalive_connections=_POOL, keepalive_expiry=30)
        return httpx.AsyncClient(
            limits=limits,
            timeout=httpx.Timeout(None, pool=5.0),  # the deadline of `send` bounds a whole request
            follow_redirects=False,  # a POST must not wander
            headers={"user-agent": user_agent(), "accept": "application/json", **self._named},
        )

    async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
        """Send `request`; `deadline_s` bounds all of it, also a reply that drips."""
        client = self._client
        try:
            async with asyncio.timeout(deadline_s):
                return await self._connect(self._once, client, request)
        except TimeoutError:
            return Failure.TIMEOUT
        except httpx.PoolTimeout:
            if self._client is client:  # the first of them
                # Cancelled requests can leak places in the pool: a new client has them all again.
                self._client = self._new_client()
                await client.aclose()
            return Failure.UNREACHABLE
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL, ssl.SSLError):
            return Failure.UNREACHABLE
        except httpx.TimeoutException:
            return Failure.TIMEOUT
        except (httpx.TransportError, httpx.DecodingError, httpx.StreamError):
            return Failure.CUT
        except RuntimeError:
            if client.is_closed:  # new settings, or a new pool, in the same moment
                return Failure.CUT
            raise

    async def _once(self, client: httpx.AsyncClient, request: Request) -> Reply:
        sent = client.stream(
            request.method,
            f"{self._rest_url}/{request.path}",
            content=request.body,
            headers=list(request.headers),
            auth=self._auth,
        )
        body = bytearray()
        async with sent as response:
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > request.reply_bytes:
                    break
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status_code, headers, bytes(body[: request.reply_bytes]))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
