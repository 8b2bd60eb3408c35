"""What an answer of the remote end complains of; no I/O, no clock, no dice."""

from __future__ import annotations

from enum import Enum, auto

from outbox.entry import Operation
from outbox.postgrest.verdicts import Failure, Pause, Reason, Reply, Split, judge, read_refusal

Outcome = Reply | Failure


class Complaint(Enum):
    """What an answer complains of."""

    NOTHING = auto()
    TABLE = auto()
    COLUMN = auto()
    INDEX = auto()
    GRANT = auto()
    ROW_SECURITY = auto()
    POLICY = auto()
    KEY = auto()
    SUSPENDED = auto()
    WRONG_URL = auto()
    NOT_POSTGREST = auto()
    DOWN = auto()
    OTHER = auto()


_BY_CODE = {
    "42P10": Complaint.INDEX,
    "42703": Complaint.COLUMN,
    "PGRST204": Complaint.COLUMN,
    "42P17": Complaint.POLICY,  # one that reads its own table
    "42501": Complaint.GRANT,
    "42P01": Complaint.TABLE,
    "PGRST205": Complaint.TABLE,
}


_BY_REASON: dict[str, Complaint] = {
    Reason.UNAUTHORIZED: Complaint.KEY,
    Reason.SUSPENDED: Complaint.SUSPENDED,
    Reason.UNREACHABLE: Complaint.DOWN,
    Reason.TIMEOUT: Complaint.DOWN,
    Reason.OVERLOADED: Complaint.DOWN,
    Reason.RATE_LIMITED: Complaint.DOWN,
    Reason.NOT_POSTGREST: Complaint.NOT_POSTGREST,
    Reason.MISCONFIGURED: Complaint.WRONG_URL,
}


def complaint(outcome: Outcome) -> Complaint:
    """Return what `outcome` complains of. Judged as the flusher would judge it (`verdicts`)."""
    if isinstance(outcome, Reply) and 200 <= outcome.status < 300:
        # A proxy's or captive portal's page says 200 too: only PostgREST's own marks count.
        marks = {"content-range", "preference-applied"}
        return Complaint.NOTHING if marks & outcome.headers.keys() else Complaint.NOT_POSTGREST
    verdict = judge(Operation.UPSERT, 2, outcome)
    if isinstance(verdict, Split):
        return Complaint.ROW_SECURITY if "row-level security" in verdict.refusal.message else Complaint.OTHER
    assert isinstance(verdict, Pause)
    return complaint_of(verdict.reason, verdict.refusal.code)


def complaint_of(reason: str, code: str | None) -> Complaint:
    """Return what a pause complains of."""
    if reason in (Reason.SCHEMA, Reason.FORBIDDEN) and code in _BY_CODE:
        return _BY_CODE[code]
    return _BY_REASON.get(reason, Complaint.OTHER)


def said(outcome: Outcome) -> str:
    """Return the other end's words on one line, never a header or a key."""
    if isinstance(outcome, Failure):
        return outcome.said
    refusal = read_refusal(outcome)
    return " ".join(str(part) for part in (refusal.status, refusal.code, refusal.message) if part is not None)
