"""What comes back from the server, and how PostgREST refuses; no I/O, no clock, no randomness.

Gateways and proxies have error codes of their own, some of which read like PostgreSQL's. A row dies only by an answer
in PostgREST's form, with the status that PostgREST gives to the code (`pgErrorStatus` in its `Error.hs`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, NamedTuple

from outbox.columns import repaired


class Silence(StrEnum):
    """Why there is no reply."""

    UNREACHABLE = "unreachable"  # refused, no such host, TLS: nothing was sent
    TIMEOUT = "timeout"  # the deadline passed: may have been carried out
    CUT = "cut"  # the connection broke: may have been carried out
    MISCONFIGURED = "misconfigured"  # a proxy or certificate setting cannot be used: nothing was sent


@dataclass(frozen=True, slots=True)
class Failure:
    """No reply. words: what the network said, for people; two failures of one kind are equal."""

    kind: Silence
    words: str = field(default="", compare=False)

    UNREACHABLE: ClassVar[Failure]
    TIMEOUT: ClassVar[Failure]
    CUT: ClassVar[Failure]
    MISCONFIGURED: ClassVar[Failure]

    @property
    def value(self) -> str:
        """The kind in one word."""
        return self.kind.value

    @property
    def said(self) -> str:
        """The kind, and the words if there are any."""
        return f"{self.kind.value}: {self.words}" if self.words else self.kind.value


Failure.UNREACHABLE = Failure(Silence.UNREACHABLE)
Failure.TIMEOUT = Failure(Silence.TIMEOUT)
Failure.CUT = Failure(Silence.CUT)
Failure.MISCONFIGURED = Failure(Silence.MISCONFIGURED)


class Reply(NamedTuple):
    """An HTTP reply. headers: names in lower case. via: the proxy it came through, which may have written it itself."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    via: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server's own words about a request, as they can be stored; what it did not say is None.

    genuine: PostgREST's own words, not a gateway's that look like them.
    """

    status: int | None
    code: str | None
    message: str
    details: str | None = None
    hint: str | None = None
    request_id: str | None = None  # the gateway's id of the request, which its support asks for
    genuine: bool = False

    def __post_init__(self) -> None:
        for name in ("code", "message", "details", "hint", "request_id"):  # JSON may hold half an emoji
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, repaired(text))


# Supabase's gateway, most others, Cloudflare.
_REQUEST_IDS = ("sb-request-id", "x-request-id", "cf-ray")


def read_refusal(reply: Reply) -> Refusal:
    """Return what the body says about the error; gateways send HTML, cut JSON or nothing at all.

    code: empty if the server gave an empty one: PostgREST's sign that PostgreSQL died during the request.
    """
    try:
        body = json.loads(reply.body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        body = None
    request_id = next((reply.headers[name][:200] for name in _REQUEST_IDS if reply.headers.get(name)), None)
    if not isinstance(body, dict):
        message = f"HTTP {reply.status} without a PostgREST error"
        if reply.via is not None:
            message += f", through {reply.via}"
        return Refusal(reply.status, None, message, request_id=request_id)

    def text(*names: str) -> str | None:
        return next((str(body[name])[:2000] for name in names if body.get(name) not in (None, "")), None)

    code = "" if body.get("code") == "" == body.get("message") else text("code", "error_code")
    message = text("message", "error", "msg") or f"HTTP {reply.status}"
    genuine = is_postgrests(body, reply.status)
    return Refusal(reply.status, code, message, text("details"), text("hint"), request_id, genuine)


# ------------------------------------------------------------------------------------------ what is PostgREST's own

_KEYS = frozenset({"code", "details", "hint", "message"})

# The longest prefix that matches wins; a code that none matches is answered with 400.
STATUSES_OF: dict[str, frozenset[int]] = {
    prefix: frozenset(statuses)
    for prefix, statuses in {
        "08": {503},
        "09": {500},
        "0L": {403},
        "0P": {403},
        "21000": {400, 500},  # 400 says pg-safeupdate
        "22023": {400, 401},  # 401: the role that the token names does not exist
        "23503": {409},
        "23505": {409},
        "25": {500},
        "25006": {405},
        "28": {403},
        "2D": {500},
        "38": {500},
        "39": {500},
        "3B": {500},
        "40": {500},
        "42501": {401, 403},  # 401: as the anonymous role
        "42883": {404, 406},
        "42P01": {404},
        "42P17": {500},
        "53": {503},
        "53400": {500},
        "54": {413, 500},  # 413 until PostgREST 11
        "55": {500},
        "57": {500},
        "57P01": {503},
        "58": {500},
        "F0": {500},
        "HV": {500},
        "P0": {500},
        "P0001": {400},
        "XX": {500},
    }.items()
}
_ELSE = frozenset({400})
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_RAISED = re.compile(r"PT([1-9][0-9]{2})")  # RAISE … SQLSTATE 'PT402': the status that the database requests


def is_postgrests(body: object, status: int) -> bool:
    """Return whether an error's body, as read from JSON, is PostgREST's own: its four keys, and a code of `status`."""
    if not isinstance(body, Mapping) or body.keys() != _KEYS or not isinstance(body["message"], str):
        return False
    code, hint = body["code"], body["hint"]
    return isinstance(code, str) and (hint is None or isinstance(hint, str)) and belongs(code, status)


def belongs(code: str, status: int) -> bool:
    """Return whether PostgREST may answer with `code` under `status`."""
    if code.startswith("PGRST"):
        return status >= 300
    if raised := _RAISED.fullmatch(code):
        return status == int(raised[1])
    return _SQLSTATE.fullmatch(code) is not None and status in statuses_of(code)


def statuses_of(sqlstate: str) -> frozenset[int]:
    """Return the statuses under which PostgREST answers with `sqlstate`."""
    prefixes = (sqlstate[:length] for length in range(len(sqlstate), 1, -1))
    return next((STATUSES_OF[prefix] for prefix in prefixes if prefix in STATUSES_OF), _ELSE)
