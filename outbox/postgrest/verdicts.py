"""What a reply means for the entries of its batch; no I/O, no clock, no randomness.

The server's own code (SQLSTATE or PGRST…) decides first, the HTTP status second; unknown errors are retried and
never given up. Only PostgREST's own words about a row end it (see `replies`). The rules follow PostgREST 13's
documentation (errors) and its `Error.hs`, PostgreSQL's appendix A (error codes) and Supabase's list of status codes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import Self

from outbox.entry import Operation
from outbox.postgrest.replies import Failure, Refusal, Reply, Silence, belongs, read_refusal

__all__ = ["Failure", "Refusal", "Reply", "Silence", "judge", "read_refusal", "stored_rows"]


class Scope(StrEnum):
    """How far a pause reaches."""

    EVERYTHING = "everything"
    DESTINATION = "destination"
    LANE = "lane"


class Reason(StrEnum):
    """Why a pause sends nothing for now; `words`: as a sentence, for a log.

    needs_operator: it lasts until somebody changes a setting or the remote end: waiting does not help.
    """

    words: str
    needs_operator: bool

    def __new__(cls, value: str, words: str = "", needs_operator: bool = False) -> Self:
        reason = str.__new__(cls, value)
        reason._value_, reason.words, reason.needs_operator = value, words, needs_operator
        return reason

    UNREACHABLE = "unreachable", "the server cannot be reached"
    TIMEOUT = "timeout", "the server does not answer in time"
    OVERLOADED = "overloaded", "the server is overloaded"
    RATE_LIMITED = "rate_limited", "the server wants fewer requests"
    UNAUTHORIZED = "unauthorized", "the server refuses the key", True
    FORBIDDEN = "forbidden", "the key may not write there", True
    SUSPENDED = "suspended", "the project is paused, over its quota or read-only", True
    MISCONFIGURED = "misconfigured", "the URL or the key cannot be used", True
    SCHEMA = "schema", "a table, a column or a unique index is missing", True
    NOT_POSTGREST = "not_postgrest", "something other than PostgREST answers"  # a captive portal, a proxy
    REFUSED = "refused", "row after row is refused with one cause", True  # the table is at fault, not the rows
    OTHER_PROJECT = "other_project", "the URL names another project", True  # than the file's own
    UNKNOWN = "unknown", "the server's answer is unknown"


@dataclass(frozen=True, slots=True)
class Delivered:
    """Every entry of the batch is at its destination."""


@dataclass(frozen=True, slots=True)
class Retry:
    """This one entry cannot go yet for a reason of its own (its parent row is not there)."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Split:
    """One of several rows was refused and the statement rolled back: none was delivered; halve and send again.

    shrink: the number of rows was refused, not one of them; the next batches should be smaller too.
    """

    refusal: Refusal
    shrink: bool


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
    """The kind of a failure that is the row's own."""

    ROW = auto()
    PARENT = auto()  # a referenced row is not there yet
    DUPLICATE = auto()  # a unique index holds the value already
    SIZE = auto()  # too large: several rows are too many, a lone one is too large for good


@dataclass(frozen=True, slots=True)
class _Rest:
    """A pause without its refusal. note: our interpretation, added to the server's words."""

    scope: Scope
    reason: Reason
    slow: bool = False
    shrink: bool = False
    note: str = ""

    def pause(self, refusal: Refusal) -> Pause:
        return Pause(self.scope, self.reason, _noted(refusal, self.note), slow=self.slow, shrink=self.shrink)


_ALL, _TABLE, _LANE = Scope.EVERYTHING, Scope.DESTINATION, Scope.LANE
_DOWN = _Rest(_ALL, Reason.OVERLOADED)
_TOO_MUCH = _Rest(_TABLE, Reason.TIMEOUT, shrink=True)
# The server's or a gateway's own time limit: a smaller batch may fit.
_TOO_SLOW = _Rest(_ALL, Reason.OVERLOADED, shrink=True)
_CONTENDED = _Rest(_TABLE, Reason.OVERLOADED)
# One row may be the cause (XX000 also means "invalid memory alloc request size"): others must pass.
_BROKEN = _Rest(_TABLE, Reason.OVERLOADED, shrink=True)
_BAD_KEY = _Rest(_ALL, Reason.UNAUTHORIZED, slow=True)
_BAD_SERVER = _Rest(_ALL, Reason.MISCONFIGURED, slow=True)
_BAD_REQUEST = _Rest(_TABLE, Reason.MISCONFIGURED, slow=True)
_SUSPENDED = _Rest(_ALL, Reason.SUSPENDED, slow=True)
_NO_TABLE = _Rest(_TABLE, Reason.SCHEMA, slow=True)
_NO_COLUMN = _Rest(_LANE, Reason.SCHEMA, slow=True)  # or what the operation needs of the table
_LONG_URL = _Rest(_LANE, Reason.MISCONFIGURED, slow=True)  # it holds the lane's columns
_NO_GRANT = _Rest(_LANE, Reason.FORBIDDEN, slow=True)  # an insert may be granted where an upsert is not
_UNKNOWN = _Rest(_TABLE, Reason.UNKNOWN, shrink=True)
# What was sent is valid; the server saw something else, or never saw the row. A row may still be the cause.
_CHANGED_BODY = _Rest(
    _TABLE, Reason.NOT_POSTGREST, shrink=True, note="the row is valid JSON: a proxy on the way has changed the request"
)
_SMALL_LIMIT = _Rest(
    _TABLE, Reason.NOT_POSTGREST, shrink=True, note="the row is small: a proxy on the way refuses what it should pass"
)
_IGNORED_PREFER = _Rest(
    _ALL, Reason.NOT_POSTGREST, note="an upsert meets no duplicate: a proxy on the way removes the header Prefer"
)
_NO_DATABASE = _Rest(_ALL, Reason.OVERLOADED, note="PostgREST has lost its database")

SILENT = {
    Silence.UNREACHABLE: _Rest(_ALL, Reason.UNREACHABLE),
    Silence.TIMEOUT: _Rest(_ALL, Reason.TIMEOUT, shrink=True),
    Silence.CUT: _Rest(_ALL, Reason.UNREACHABLE, shrink=True),
    Silence.MISCONFIGURED: _BAD_SERVER,
}

# The longest prefix that matches wins.
CODES: dict[str, Cause | _Rest] = {
    # PostgREST
    "PGRST00": _DOWN,  # no connection, schema cache not built yet
    "PGRST003": _TOO_SLOW,  # no pooled connection in time
    "PGRST1": _BAD_REQUEST,
    "PGRST102": _CHANGED_BODY,  # the body is not JSON
    "PGRST106": _BAD_SERVER,  # schema not exposed
    "PGRST111": _BAD_SERVER,
    "PGRST112": _BAD_SERVER,
    "PGRST121": _BAD_SERVER,
    "PGRST125": _BAD_SERVER,  # wrong base URL
    "PGRST126": _BAD_SERVER,
    "PGRST2": _NO_TABLE,
    "PGRST204": _NO_COLUMN,
    "PGRST3": _BAD_KEY,
    "PGRSTX": _BROKEN,
    # PostgreSQL
    "08": _DOWN,
    "09": Cause.ROW,
    "0A": _CONTENDED,  # "cached plan must not change result type": after a migration, until the pool has reconnected
    "0L": _BAD_KEY,
    "0P": _BAD_KEY,
    "21": Cause.ROW,
    "22": Cause.ROW,
    "23": Cause.ROW,
    "23503": Cause.PARENT,
    "23505": Cause.DUPLICATE,
    "25": _CONTENDED,
    "25006": _SUSPENDED,  # read-only: disk full, over quota, or a replica
    "26": _CONTENDED,  # a prepared statement is missing: a pooler between PostgREST and PostgreSQL
    "28": _BAD_KEY,
    "2D": _CONTENDED,
    "38": Cause.ROW,
    "39": Cause.ROW,
    "3B": Cause.ROW,
    "3D": _BAD_SERVER,  # no such database
    "3F": _NO_TABLE,  # no such schema
    "40": _CONTENDED,
    "42": _NO_COLUMN,  # the statement or the server's own SQL is wrong, not the row
    "428C9": _NO_COLUMN,  # the key column is "generated always"
    "42501": _NO_GRANT,
    "42703": _NO_COLUMN,
    "42804": Cause.ROW,
    "42883": _NO_TABLE,
    "42P01": _NO_TABLE,
    "42P05": _CONTENDED,  # a prepared statement exists already: see 26
    "42P10": _NO_COLUMN,  # no unique index for on_conflict
    "42P17": _NO_TABLE,
    "53": _DOWN,
    "53400": _BAD_SERVER,
    "54": Cause.ROW,  # an index row larger than a third of a page: permanent, although a 500
    "55": _CONTENDED,
    "55000": _NO_COLUMN,  # a view that takes no inserts; a unique key that is deferrable
    "57": _DOWN,
    "57014": _TOO_MUCH,  # statement timeout
    "58": _DOWN,
    "72": _CONTENDED,  # snapshot too old
    "F0": _BAD_SERVER,
    "HV": _BAD_SERVER,
    "P0": Cause.ROW,
    "XX": _BROKEN,
}

STATUSES: dict[int, Cause | _Rest] = {
    401: _BAD_KEY,
    402: _SUSPENDED,
    # A gateway's or firewall's own page; what trips a firewall may be one body.
    403: _Rest(_ALL, Reason.FORBIDDEN, slow=True, shrink=True),
    404: _BAD_SERVER,
    407: _BAD_SERVER,  # a proxy that wants a password
    408: _Rest(_ALL, Reason.TIMEOUT, shrink=True),
    413: Cause.SIZE,
    414: _LONG_URL,
    429: _Rest(_ALL, Reason.RATE_LIMITED),
    431: _LONG_URL,
    502: _DOWN,
    503: _DOWN,
    504: _TOO_SLOW,
    **dict.fromkeys((*range(520, 528), 530), _DOWN),
    524: _TOO_SLOW,  # Cloudflare's 504
    540: _SUSPENDED,
    544: _TOO_MUCH,
    546: _DOWN,
}

# What refuses a smaller row with 413 refuses nearly all rows; nginx's limit is 1 MB, others' 100 kB.
SMALL_BYTES = 65_536
# What PostgREST says of a write that it has done (its documentation, "Tables and Views").
_ACCEPTED = (200, 201, 204)
# What becomes of a row that is there already, as the request asks for it; an update names its rows itself.
RESOLUTIONS = {Operation.INSERT: "ignore-duplicates", Operation.UPSERT: "merge-duplicates"}
# The preferences that decide what is stored; the others change only the answer.
_DECIDING = ("resolution=", "missing=", "tx=")
_ASKED = ("missing=default", "tx=commit")
# PostgREST's form; a file server says "bytes 0-99/100".
_RANGE = re.compile(r"(?:\*|[0-9]{1,18}-[0-9]{1,18})/(\*|[0-9]{1,18})")


def judge(
    operation: Operation, rows: int, outcome: Reply | Failure, *, own: str | None = None, sent_bytes: int = 0
) -> Verdict:
    """Return what `outcome` means for a batch of `rows` entries, whose request had a body of `sent_bytes`.

    own: how a duplicate's details begin if the entry itself is already stored: `(column)=(id)` for an insert that
    travelled alone, `(column, column)=` for an upsert. Raises ValueError: `rows` below 1.
    """
    if rows < 1:
        raise ValueError(f"rows is {rows}, must be 1 or more")
    if isinstance(outcome, Failure):
        return SILENT[outcome.kind].pause(Refusal(None, None, outcome.words or outcome.value))
    if 200 <= outcome.status < 300:
        return _accepted(operation, outcome)
    return _refused(operation, rows, outcome, own, sent_bytes)


def stored_rows(reply: Reply) -> int | None:
    """Return how many rows an accepted request has stored or changed; None: the server does not say."""
    told = _RANGE.fullmatch(reply.headers.get("content-range", ""))
    return int(told[1]) if told is not None and told[1] != "*" else None


def _accepted(operation: Operation, reply: Reply) -> Verdict:
    """A proxy's or captive portal's page says 200 too: only PostgREST's own marks count, under its own statuses.

    A gateway that has put the request into a queue may say 202 and repeat the headers. Who has changed our preferences
    on the way may have had a row ignored that should be merged, or the whole request rolled back.
    """
    applied = re.split(r"\s*,\s*", reply.headers.get("preference-applied", "").strip().lower())
    resolution = f"resolution={RESOLUTIONS.get(operation)}"
    contrary = [told for told in applied if told.startswith(_DECIDING) and told not in (*_ASKED, resolution)]
    if reply.status in _ACCEPTED and not contrary:
        changed = stored_rows(reply)
        if operation is not Operation.UPDATE and resolution in applied:
            return Delivered()
        if operation is Operation.UPDATE and changed is not None:
            none_yet = Retry(Refusal(reply.status, None, "no row matched: it is not there yet"))
            return Delivered() if changed else none_yet
    if contrary:
        words = f"the answer says {', '.join(contrary)}, which nobody asked for: a proxy on the way changes Prefer"
    elif _RANGE.fullmatch(reply.headers.get("content-range", "")):
        words = "a proxy on the way removes the header Prefer, or Preference-Applied from PostgREST's answer"
    else:
        words = "the answer does not come from PostgREST, or a proxy on the way removes its headers"
    return Pause(_ALL, Reason.NOT_POSTGREST, Refusal(reply.status, None, words))


def _refused(operation: Operation, rows: int, reply: Reply, own: str | None, sent_bytes: int) -> Verdict:
    refusal = read_refusal(reply)
    rule = _rule(refusal, reply.status)
    if rows > 1 and not isinstance(rule, _Rest):
        return Split(refusal, shrink=rule is Cause.SIZE)
    if rule is Cause.SIZE and sent_bytes < SMALL_BYTES and not refusal.genuine:
        rule = _SMALL_LIMIT
    elif rule is Cause.DUPLICATE and _is_ours(refusal, own):
        if operation is Operation.INSERT:
            return Delivered()
        rule = _IGNORED_PREFER if operation is Operation.UPSERT else rule
    match rule:
        case _Rest():
            return rule.pause(refusal)
        case Cause.PARENT:
            return Retry(refusal)
        case _:
            return Reject(refusal)


def _noted(refusal: Refusal, note: str) -> Refusal:
    """Add our interpretation to the server's words."""
    if not note and refusal.code is not None and not refusal.genuine:
        note = "not PostgREST's own words: a gateway or a proxy on the way said so"
    return replace(refusal, message=f"{refusal.message} ({note})") if note else refusal


def _rule(refusal: Refusal, status: int) -> Cause | _Rest:
    if status == 400 and refusal.code == "":
        return _NO_DATABASE
    rule = _rule_of_code(refusal, status)
    if rule is not None and (refusal.genuine or isinstance(rule, _Rest)):
        return rule
    if 300 <= status < 400:
        return _BAD_SERVER
    return STATUSES.get(status, _UNKNOWN)


def _rule_of_code(refusal: Refusal, status: int) -> Cause | _Rest | None:
    code = refusal.code or ""
    if code.startswith("PT") or not belongs(code, status):  # PT…: raised on purpose, with a status of its own
        return None
    if (special := _special(refusal, status)) is not None:
        return special
    for length in range(len(code), 1, -1):
        if (rule := CODES.get(code[:length])) is not None:
            return rule
    return None if code.startswith("PGRST") else Cause.ROW


def _special(refusal: Refusal, status: int) -> Cause | _Rest | None:
    """The codes whose meaning depends on the status or the message."""
    match refusal.code:
        case "42501" if status == 401:
            return _BAD_KEY  # a publishable key
        case "42501" if "row-level security" in refusal.message:
            return Cause.ROW
        case "22023" if status == 401:
            return _BAD_KEY  # the key's role does not exist
        case "21000" if status == 400:
            return _BAD_REQUEST
        case "22P02" if refusal.message == "invalid input syntax for type json":
            return _CHANGED_BODY  # the request's own body: PostgREST passes it to PostgreSQL unchanged
        case "PGRST102" if "Content-Type" in refusal.message:
            return _BAD_REQUEST  # something in between has changed our headers
        case _:
            return None


def _is_ours(refusal: Refusal, own: str | None) -> bool:
    """Whether the duplicate is the entry itself, stored by an earlier sending: `Key (id)=(…) already exists`."""
    # The first parenthesis names the columns; a value after it may hold any text. A uuid is shown in lower case.
    details = (refusal.details or "").casefold()
    names, _, values = details[details.find("(") :].partition("=")
    told = names.replace('"', "") + "=" + values  # PostgreSQL quotes a name with capitals
    return own is not None and told.startswith(own.casefold())
