"""What must not leak: the key in replies, a row's values in what httpx logs."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from contextvars import ContextVar

import httpx

_LONGEST_WORDS = 2000
_LONGEST_ERROR = 1 << 20
# True during our own requests.
ours: ContextVar[bool] = ContextVar("outbox_request", default=False)


class _Discreet(logging.Filter):
    """Limits what httpx and httpcore log of our requests: a URL without its query, and no line that shows headers.

    Nor a line for each request, unless somebody has set httpx's own level: it would flood a bot's log at INFO. The
    filters of an update are values of its row, and a reply's headers may repeat them; httpx logs each URL at INFO,
    httpcore all headers at DEBUG. A bot's own requests are logged as usual.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not ours.get():
            return True
        if isinstance(record.args, tuple):
            record.args = tuple(
                value.copy_with(query=None) if isinstance(value, httpx.URL) else value for value in record.args
            )
        loud = record.levelno >= logging.WARNING or logging.getLogger("httpx").level != logging.NOTSET
        return record.name == "httpx" and loud


_DISCREET = _Discreet()
# A filter applies to one logger, not to its children.
_LOGGERS = ("httpx", *(f"httpcore.{name}" for name in ("connection", "http11", "http2", "proxy", "socks")))


def be_discreet() -> None:
    """Install the filter on the loggers of httpx and httpcore."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_DISCREET)  # added only once


class Scrubber:
    """Removes key and token from replies: a gateway may quote them."""

    def __init__(self, *secrets: str | None) -> None:
        self._secrets = [secret for secret in secrets if secret]
        self._lowered = [secret.lower().encode() for secret in self._secrets]
        self._pattern = re.compile("|".join(map(re.escape, self._secrets)).encode() or b"(?!)", re.IGNORECASE)

    def also(self, *secrets: str) -> Scrubber:
        """Return a Scrubber that also removes `secrets`."""
        return Scrubber(*self._secrets, *secrets)

    def body(self, raw: bytes, limit: int) -> bytes:
        """Return a reply's body, cut to `limit` bytes; a key that the cut splits is removed as well."""
        if b"\\u" in raw and len(raw) < _LONGEST_ERROR:  # JSON may escape every letter
            with contextlib.suppress(ValueError, RecursionError):
                raw = self._spelled_out(raw)
        clean = self._pattern.sub(b"<key>", raw) if self._quoted(raw) else raw
        for secret in map(str.encode, self._secrets if len(raw) > limit else ()):
            for length in range(len(secret) - 1, 7, -1):
                if clean.endswith(secret[:length]):
                    clean = clean[:-length]
        return clean[:limit]

    def _spelled_out(self, raw: bytes) -> bytes:
        plain = json.dumps(json.loads(raw), ensure_ascii=False).encode(errors="surrogatepass")
        return plain if self._quoted(plain) else raw  # else unchanged, byte for byte

    def _quoted(self, raw: bytes) -> bool:
        lowered = raw.lower()  # a hundred times faster than the pattern, and a read may have 64 MiB
        return any(secret in lowered for secret in self._lowered)

    def text(self, text: str) -> str:
        """Return `text` without them, on one line."""
        line = "".join(sign if sign.isprintable() else " " for sign in text)
        return self._pattern.sub(b"<key>", line.encode(errors="replace")).decode()[:_LONGEST_WORDS]
