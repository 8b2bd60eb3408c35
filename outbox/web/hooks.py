"""The hooks that Datasette calls on its plugins; this module is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from datasette import hookimpl
from datasette.app import Datasette
from datasette.utils.asgi import Response

from outbox.web.actions import DEAD, ROUTES, operations_of
from outbox.web.picture import SPANS, picture
from outbox.web.questions import QUESTIONS

# How often the first page may reload itself, in seconds, and in words.
REFRESH = {"0": "off", "5": "5 s", "60": "1 min"}
# The end of the year 9999; anything larger is not a time.
_LAST_MS = 253_402_300_799_999


def moment(value: object) -> str | None:
    """Return Unix milliseconds as a time in UTC, or None if it is not a time."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LAST_MS:
        return None
    return datetime.fromtimestamp(value / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


@hookimpl
def extra_template_vars(template: str, request: Any, datasette: Datasette) -> Any:
    """The first page's figures."""
    if template != "index.html":
        return {}

    async def variables() -> dict[str, Any]:
        asked = request.args.get("hours") or "0"
        hours = int(asked) if asked.isdecimal() and int(asked) in SPANS else 0
        every_s = request.args.get("refresh")
        return {
            "outbox": await picture(datasette, hours), "spans": SPANS, "questions": QUESTIONS,
            "standing": await operations_of(datasette).standing(), "dead_page": DEAD,
            "refresh": every_s if every_s in REFRESH else "0", "paces": REFRESH,
        }  # fmt: skip

    return variables


@hookimpl
def render_cell(value: object, column: str) -> str | None:
    """Append the time to each number that is one."""
    return f"{value} · {moment(value)}" if column.endswith("_ms") and moment(value) else None


# Datasette's own pages contain scripts and styles; nothing may be loaded from, sent to or shown in another site.
_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline';"
    b" img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"same-origin"),  # "no-referrer" would hide from this site, too, whose form it is
    (b"x-content-type-options", b"nosniff"),
)
_DARK = """@media (prefers-color-scheme: dark) {
  :root { color-scheme: dark; }
  body, .dropdown-menu, .rows-and-columns td, .rows-and-columns th, input, textarea, select {
    background: #14171c; color: #e4e7ec;
  }
  a:link, a:visited { color: #7db7dd; }
  pre, code, .CodeMirror { background: #1f242c; color: #e4e7ec; }
  .backlog .area { fill: #7db7dd; stroke: #7db7dd; }
}
"""


@hookimpl
def register_routes() -> list[tuple[str, Callable[..., Any]]]:
    """Keep robots from payloads, should somebody publish the page after all; serve colours for a dark screen."""
    return [
        (r"^/robots\.txt$", lambda: Response.text("User-agent: *\nDisallow: /\n")),
        (r"^/-/outbox-dark\.css$", lambda: Response(_DARK, content_type="text/css; charset=utf-8")),
        *ROUTES,
    ]


@hookimpl
def extra_css_urls() -> list[str]:
    """Give every page the colours."""
    return ["/-/outbox-dark.css"]


@hookimpl
def asgi_wrapper() -> Callable[[Any], Any]:
    """Answer only requests whose Host names this machine's loopback.

    A foreign web page may point its own domain name at 127.0.0.1 (DNS rebinding), and would then read every payload.
    """
    return _only_loopback


def _only_loopback(app: Any) -> Any:
    async def guarded(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        if scope["type"] == "http" and not came_by_loopback(dict(scope["headers"]).get(b"host", b"")):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"Come by 127.0.0.1 or localhost.\n"})
            return
        await app(scope, receive, with_headers)

    return guarded


def came_by_loopback(host: bytes) -> bool:
    """Return whether a request's Host header names this machine's loopback."""
    return host.rpartition(b":")[0] in (b"127.0.0.1", b"localhost") or host in (b"127.0.0.1", b"localhost")
