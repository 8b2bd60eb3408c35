"""The remote end that the settings name now: its transport, and how new settings replace it."""

from __future__ import annotations

import json
import re
from typing import Any

from outbox import logs
from outbox.clock import Clock
from outbox.columns import NAME
from outbox.errors import ConfigError, InvalidQuery, RemoteError, Unreachable
from outbox.postgrest.client import PostgrestTransport, Request, Transport
from outbox.postgrest.verdicts import Failure, Reply, read_refusal
from outbox.settings import Settings
from outbox.threads import in_thread

logger: logs.Logger = logs.named("outbox")

# What one answer to a read may take in memory; a page of 1,000 rows has some hundred kilobytes.
_LONGEST_READ = 64 * 1024 * 1024


class Remote:
    """Owns the transport. transport: None while no URL and key are set; rows then stay pending.

    fixed: the caller's own transport, for tests: no setting replaces it, and nothing unexpected is sent through it.
    """

    def __init__(self, settings: Settings, fixed: Transport | None, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._repeating = logs.Repeating(clock)
        self._reread_s = clock.monotonic_s() + settings.pause_probe_s
        self.fixed: bool = fixed is not None
        self.transport = fixed if fixed is not None else _connected(settings)

    @property
    def url(self) -> str | None:
        """The project's URL, or None: none is set."""
        return self._settings.supabase_url

    @property
    def warnings(self) -> tuple[str, ...]:
        """What in the settings keeps entries from arriving."""
        return () if self.fixed else self._settings.warnings

    async def current(self, probing: bool) -> Transport | None:
        """The transport for the flusher; before a pause is probed, new settings are tried.

        So they are without a URL or a key: the file that had them may come back.
        """
        if not self.fixed and (probing or (self.transport is None and self._clock.monotonic_s() >= self._reread_s)):
            self._reread_s = self._clock.monotonic_s() + self._settings.pause_probe_s
            try:
                await self.refresh()
            except ConfigError as error:
                if (news := self._repeating.news("unusable", str(error))) is not None:
                    facts = {"error": str(error), **news}
                    logger.warning("new settings are invalid, keeping the old ones", extra=facts)
        return self.transport

    async def refresh(self) -> None:
        """Read environment and `.env` again. Raises ConfigError: the old URL and key stay.

        Nothing else can fail: the next request reads the environment's proxies and certificates.
        """
        fresh = await in_thread(self._settings.reread)
        changed = _access(fresh) != _access(self._settings)
        if changed and not self.fixed:
            old = self.transport
            self._settings = self._settings.model_copy(update=_access(fresh))
            self.transport = _connected(self._settings)
            logger.info("new URL or key in use")
            if old is not None:
                await old.aclose()

    async def fetch(self, path: str) -> list[dict[str, Any]]:
        """GET `path` and return the rows; errors as `Outbox.fetch`."""
        request = Request("GET", checked_path(path), (), b"", reply_bytes=_LONGEST_READ)
        if self.transport is None:
            raise ConfigError("SUPABASE_URL and SUPABASE_SECRET_KEY are needed to read", field="supabase_url")
        outcome = await self.transport.send(request, deadline_s=self._settings.request_deadline_s)
        return rows_of(path, outcome)

    async def close(self) -> None:
        """Close the connections."""
        if self.transport is not None:
            await self.transport.aclose()


def _connected(settings: Settings) -> Transport | None:
    if settings.rest_url is None or settings.supabase_key is None:
        return None
    token = None if settings.access_token is None else settings.access_token.get_secret_value()
    key = settings.supabase_key.get_secret_value()
    return PostgrestTransport(
        settings.rest_url, key, token=token, source=settings.source, allow_insecure=settings.allow_insecure
    )


def _access(settings: Settings) -> dict[str, Any]:
    """What a reload may change."""
    return {name: getattr(settings, name) for name in ("supabase_url", "supabase_key", "access_token")}


_PATH_RE = re.compile(rf"(?:rpc/)?{NAME}(?:\?[!\"$-~]*)?")  # no "#": what follows it is never sent


def checked_path(path: str) -> str:
    """Return `path` if it names a table or a function and, after a "?", printable ASCII. Raises InvalidQuery."""
    if not isinstance(path, str) or not _PATH_RE.fullmatch(path):
        raise InvalidQuery("must be table?parameters or rpc/function?parameters, percent-encoded", field="path")
    return path


def rows_of(path: str, outcome: Reply | Failure) -> list[dict[str, Any]]:
    """Return the rows that the answer to `path` holds. Raises Unreachable, RemoteError: never [] on failure."""
    table = path.partition("?")[0]
    if isinstance(outcome, Failure):
        raise Unreachable(f"{table}: no answer ({outcome.said}); nothing was read")
    if not 200 <= outcome.status < 300:
        refusal = read_refusal(outcome)
        said = " ".join(word for word in (refusal.code, refusal.message) if word)
        raise RemoteError(
            f"{table}: HTTP {outcome.status}, {said}; nothing was read", status=outcome.status, code=refusal.code
        )
    try:
        rows = json.loads(outcome.body)
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        problem = "the answer does not come from PostgREST; nothing was read"
        raise RemoteError(f"{table}: HTTP {outcome.status}, {problem}", status=outcome.status)
    return rows
