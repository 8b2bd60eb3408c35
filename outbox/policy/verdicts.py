"""Floor 2 · policy. What a reply means for the entries of its batch; no I/O, no clock, no dice.

The server's own code (SQLSTATE or PGRST…) decides first, the HTTP status second; what is unknown is tried
again and never given up. The rules follow PostgREST 13's documentation (errors) and its `Error.hs`,
PostgreSQL's appendix A (error codes) and Supabase's list of status codes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from outbox.entry import Operation

# ------------------------------------------------------------------------------------------ what is judged


class Failure(StrEnum):
    """Why there is no reply."""

    UNREACHABLE = "unreachable"  # refused, no such host, TLS: nothing was sent
    TIMEOUT = "timeout"  # the deadline passed: may have been carried out
    CUT = "cut"  # the connection broke: may have been carried out


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP reply. headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server's own words about a request; what it did not say is None."""

    status: int | None
    code: str | None
    message: str
    details: str | None = None
    hint: str | None = None


# ------------------------------------------------------------------------------------------ the verdicts


class Scope(StrEnum):
    """How far a pause reaches."""

    EVERYTHING = "everything"
    DESTINATION = "destination"
    LANE = "lane"


class Reason(StrEnum):
    """Why nothing is sent for now."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limited"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    SUSPENDED = "suspended"  # project paused, over quota or read-only
    MISCONFIGURED = "misconfigured"
    SCHEMA = "schema"  # a table, column or unique index is missing
    NOT_POSTGREST = "not_postgrest"  # a captive portal or a proxy answered
    UNKNOWN = "unknown"
    WRONG_PROJECT = "wrong_project"


@dataclass(frozen=True, slots=True)
class Delivered:
    """Every entry of the batch is at its destination."""


@dataclass(frozen=True, slots=True)
class Retry:
    """This one entry cannot go yet for a reason of its own (its parent row is not there)."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Split:
    """One of several rows was refused and the statement rolled back: nobody was delivered; halve and send."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Reject:
    """The server refused this one entry for good."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Pause:
    """The failure is not a row's: nothing in `scope` is sent for a while, and no entry is touched.

    slow: an operator is needed; probe rarely. shrink: the size of the batch may be the cause.
    """

    scope: Scope
    reason: Reason
    refusal: Refusal
    slow: bool = False
    shrink: bool = False


Verdict = Delivered | Retry | Split | Reject | Pause


# ------------------------------------------------------------------------------------------ the rules


class Cause(Enum):
    """Whose failure it is when it is a row's."""

    ROW = auto()
    PARENT = auto()  # a referenced row is not there yet
    DUPLICATE = auto()  # a unique index holds the value already


@dataclass(frozen=True, slots=True)
class _Rest:
    """A pause in the making: everything but the refusal."""

    scope: Scope
    reason: Reason
    slow: bool = False
    shrink: bool = False


_ALL, _TABLE, _LANE = Scope.EVERYTHING, Scope.DESTINATION, Scope.LANE
_DOWN = _Rest(_ALL, Reason.OVERLOADED)
_TOO_MUCH = _Rest(_TABLE, Reason.TIMEOUT, shrink=True)
_CONTENDED = _Rest(_TABLE, Reason.OVERLOADED)
_BAD_KEY = _Rest(_ALL, Reason.UNAUTHORIZED, slow=True)
_BAD_SERVER = _Rest(_ALL, Reason.MISCONFIGURED, slow=True)
_BAD_REQUEST = _Rest(_TABLE, Reason.MISCONFIGURED, slow=True)
_SUSPENDED = _Rest(_ALL, Reason.SUSPENDED, slow=True)
_NO_TABLE = _Rest(_TABLE, Reason.SCHEMA, slow=True)
_NO_COLUMN = _Rest(_LANE, Reason.SCHEMA, slow=True)
_NO_GRANT = _Rest(_TABLE, Reason.FORBIDDEN, slow=True)
_UNKNOWN = _Rest(_TABLE, Reason.UNKNOWN, shrink=True)

# The longest prefix that matches wins.
CODES: dict[str, Cause | _Rest] = {
    # PostgREST
    "PGRST00": _DOWN,  # no connection, schema cache not built yet
    "PGRST003": _Rest(_ALL, Reason.OVERLOADED, shrink=True),  # no pooled connection in time
    "PGRST1": _BAD_REQUEST,
    "PGRST102": Cause.ROW,  # the body is no JSON
    "PGRST106": _BAD_SERVER,  # schema not exposed
    "PGRST111": _BAD_SERVER,
    "PGRST112": _BAD_SERVER,
    "PGRST121": _BAD_SERVER,
    "PGRST125": _BAD_SERVER,  # wrong base URL
    "PGRST126": _BAD_SERVER,
    "PGRST2": _NO_TABLE,
    "PGRST204": _NO_COLUMN,
    "PGRST3": _BAD_KEY,
    "PGRSTX": _DOWN,
    # PostgreSQL
    "08": _DOWN,
    "09": Cause.ROW,
    "0L": _BAD_KEY,
    "0P": _BAD_KEY,
    "21": Cause.ROW,
    "22": Cause.ROW,
    "23": Cause.ROW,
    "23503": Cause.PARENT,
    "23505": Cause.DUPLICATE,
    "25": _CONTENDED,
    "25006": _SUSPENDED,  # read-only: disk full, over quota, or a replica
    "28": _BAD_KEY,
    "2D": _CONTENDED,
    "38": Cause.ROW,
    "39": Cause.ROW,
    "3B": Cause.ROW,
    "40": _CONTENDED,
    "42501": _NO_GRANT,
    "42703": _NO_COLUMN,
    "42804": Cause.ROW,
    "42883": _NO_TABLE,
    "42P01": _NO_TABLE,
    "42P10": _NO_TABLE,  # no unique index for on_conflict
    "42P17": _NO_TABLE,
    "53": _DOWN,
    "53400": _BAD_SERVER,
    "54": Cause.ROW,  # an index row larger than a third of a page: permanent, although a 500
    "55": _CONTENDED,
    "57": _DOWN,
    "57014": _TOO_MUCH,  # statement timeout
    "58": _DOWN,
    "F0": _BAD_SERVER,
    "HV": _BAD_SERVER,
    "P0": Cause.ROW,
    "XX": _DOWN,
}

STATUSES: dict[int, _Rest] = {
    401: _BAD_KEY,
    402: _SUSPENDED,
    # A gateway's or firewall's own page; what trips a firewall may be one body.
    403: _Rest(_ALL, Reason.FORBIDDEN, slow=True, shrink=True),
    404: _BAD_SERVER,
    408: _Rest(_ALL, Reason.TIMEOUT),
    414: _BAD_REQUEST,
    429: _Rest(_ALL, Reason.RATE_LIMITED),
    431: _BAD_REQUEST,
    502: _DOWN,
    503: _DOWN,
    504: _DOWN,
    540: _SUSPENDED,
    544: _TOO_MUCH,
    546: _DOWN,
} | dict.fromkeys((*range(520, 528), 530), _DOWN)

_SQLSTATE = re.compile(r"[0-9A-Z]{5}")


def judge(operation: Operation, rows: int, outcome: Reply | Failure, *, own: str | None = None) -> Verdict:
    """Return what `outcome` means for a batch of `rows` entries.

    own: `(column)=(id)` of an insert that travelled alone: it tells our own duplicate from a stranger's.
    Raises ValueError: `rows` below 1.
    """
    if rows < 1:
        raise ValueError(f"rows is {rows}, must be 1 or more")
    if isinstance(outcome, Failure):
        return _no_reply(outcome)
    if 200 <= outcome.status < 300:
        return _accepted(operation, outcome)
    return _refused(operation, rows, outcome, own)


def _no_reply(failure: Failure) -> Verdict:
    refusal = Refusal(None, None, failure.value)
    match failure:
        case Failure.UNREACHABLE:
            return Pause(_ALL, Reason.UNREACHABLE, refusal)
        case Failure.TIMEOUT:
            return Pause(_ALL, Reason.TIMEOUT, refusal, shrink=True)
        case Failure.CUT:
            return Pause(_ALL, Reason.UNREACHABLE, refusal, shrink=True)


def _accepted(operation: Operation, reply: Reply) -> Verdict:
    """A proxy's or captive portal's page says 200 too: only PostgREST's own marks count."""
    if operation is Operation.UPDATE:
        changed = reply.headers.get("content-range", "").rpartition("/")[2]
        if changed.isascii() and changed.isdigit():
            if int(changed) > 0:
                return Delivered()
            return Retry(Refusal(reply.status, None, "no row matched: it is not there yet"))
    elif "resolution=" in reply.headers.get("preference-applied", ""):
        return Delivered()
    refusal = Refusal(reply.status, None, "the answer does not come from PostgREST")
    return Pause(_ALL, Reason.NOT_POSTGREST, refusal)


def _refused(operation: Operation, rows: int, reply: Reply, own: str | None) -> Verdict:
    refusal = read_refusal(reply)
    rule = _rule(refusal, reply.status)
    if isinstance(rule, _Rest):
        return Pause(rule.scope, rule.reason, refusal, slow=rule.slow, shrink=rule.shrink)
    if rows > 1:
        return Split(refusal)
    match rule:
        case Cause.ROW:
            return Reject(refusal)
        case Cause.PARENT:
            return Retry(refusal)
        case Cause.DUPLICATE:
            return Delivered() if operation is Operation.INSERT and _is_ours(refusal, own) else Reject(refusal)


def _rule(refusal: Refusal, status: int) -> Cause | _Rest:
    special = _special(refusal, status)
    if special is not None:
        return special
    code = refusal.code or ""
    if not code.startswith("PT"):  # raised on purpose, with a status of its own
        for length in range(min(len(code), 8), 1, -1):
            if (rule := CODES.get(code[:length])) is not None:
                return rule
        if status == 400 and _SQLSTATE.fullmatch(code):
            return Cause.ROW
    if 300 <= status < 400:
        return _BAD_SERVER
    return STATUSES.get(status, _UNKNOWN)


def _special(refusal: Refusal, status: int) -> Cause | _Rest | None:
    """The codes whose meaning hangs on the status or the message."""
    match refusal.code:
        case "42501" if status == 401:
            return _BAD_KEY  # a publishable key
        case "42501" if "row-level security" in refusal.message:
            return Cause.ROW
        case "22023" if status == 401:
            return _BAD_KEY  # the key's role does not exist
        case "21000" if "WHERE clause" in refusal.message:
            return _BAD_REQUEST
        case None if status == 413:
            return Cause.ROW  # several rows: halve; one row: too large for good
        case _:
            return None


def _is_ours(refusal: Refusal, own: str | None) -> bool:
    """Whether the duplicate is the entry itself, there since an earlier sending: `Key (id)=(…) already exists`."""
    return own is not None and own in (refusal.details or "")


def read_refusal(reply: Reply) -> Refusal:
    """Return what the body says of the error; gateways send HTML, cut JSON or nothing at all."""
    try:
        body = json.loads(reply.body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        body = None
    if not isinstance(body, dict):
        return Refusal(reply.status, None, f"HTTP {reply.status} without a PostgREST error")

    def text(*names: str) -> str | None:
        return next((str(body[name])[:2000] for name in names if body.get(name) not in (None, "")), None)

    message = text("message", "error", "msg") or f"HTTP {reply.status}"
    return Refusal(reply.status, text("code", "error_code"), message, text("details"), text("hint"))
