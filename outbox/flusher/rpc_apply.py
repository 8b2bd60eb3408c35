"""A mixed batch for the optional server function, and its answer as verdicts; no I/O, no clock.

`supabase_sql/optional/outbox_apply.sql` takes entries of any tables and operations in one request, applies them in the
order of their puts, and says of each row what became of it. A row's verdict is the one that the plain path would have
given it alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from outbox.entry import LaneSpec, Operation
from outbox.postgrest.batch import Ready, insert_body
from outbox.postgrest.verdicts import Delivered, Failure, Pause, Reason, Refusal, Reply, Retry, Scope, Verdict, judge


class Rpc(StrEnum):
    """Whether entries of several tables share a request. auto: where the server has the function."""

    AUTO = "auto"
    OFF = "off"


FUNCTION = "rpc/outbox_apply"
# What PostgREST says of a function that is not there.
ABSENT = "PGRST202"

_HELD, _NO_ROW = "HELD", "NOROW"


@dataclass(frozen=True, slots=True)
class Mixed:
    """An entry with its spec: a mixed batch has no shape of its own."""

    spec: LaneSpec
    entry: Ready


def body(batch: Sequence[Mixed], *, strict: bool = False) -> bytes:
    """Return what is sent for `batch`, whose entries stand in the order of their puts."""
    entries = ",".join(map(_entry, batch))
    return f'{{"entries":[{entries}],"strict":{json.dumps(strict)}}}'.encode()


def verdicts(batch: Sequence[Mixed], outcome: Reply | Failure) -> list[Verdict | None] | Verdict:
    """Return one verdict for each entry, or one for the request as a whole: then nothing was applied, as far as known.

    None: the entry was held back behind another one of its key, and is sent again with it.
    """
    if isinstance(outcome, Failure) or not 200 <= outcome.status < 300:
        return _whole(outcome)
    told = _told(outcome.body)
    if told is None or [line.get("n") for line in told] != list(range(1, len(batch) + 1)):
        refusal = Refusal(outcome.status, None, "the answer does not come from outbox_apply")
        # About this one path only: a portal that answers for everything tells the tables' own requests so.
        return Pause(Scope.DESTINATION, Reason.NOT_POSTGREST, refusal)
    return [_single(mixed, line) for mixed, line in zip(batch, told, strict=True)]


def is_absent(outcome: Reply | Failure) -> bool:
    """Return whether the server has no such function: the plain tables it is, then."""
    if isinstance(outcome, Failure) or outcome.status != 404:
        return False
    try:
        return bool(json.loads(outcome.body).get("code") == ABSENT)
    except (ValueError, AttributeError, RecursionError):
        return False


def _entry(mixed: Mixed) -> str:
    spec, entry = mixed.spec, mixed.entry
    parts = [f'"operation":"{spec.operation}"', f'"table":"{spec.destination}"']
    if spec.operation is Operation.UPDATE:
        parts.append(f'"match":{entry.match or "{}"}')
    else:
        parts.append(f'"conflict":{json.dumps(spec.on_conflict.split(","))}')
    if entry.key is not None:
        parts.append(f'"key":{json.dumps(entry.key)}')
    # The payload as it is stored: no number is read and written again.
    row = insert_body(spec, entry.id, entry.payload) if spec.operation is Operation.INSERT else entry.payload
    parts.append(f'"row":{row}')
    return f"{{{','.join(parts)}}}"


def _whole(outcome: Reply | Failure) -> Verdict:
    # As an update, whose success no header of these could be mistaken for; two rows, so that none is blamed alone.
    return judge(Operation.UPDATE, 2, outcome)


def _told(text: bytes) -> list[dict[str, object]] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    good = isinstance(found, list) and all(isinstance(line, dict) for line in found)
    return found if good else None


def _single(mixed: Mixed, line: dict[str, object]) -> Verdict | None:
    if line.get("applied") is True:
        return Delivered()
    code = line.get("code")
    if code == _HELD:
        return None
    if code == _NO_ROW:
        return Retry(Refusal(200, None, str(line.get("message"))))
    said = {name: line.get(name) for name in ("code", "message", "details", "hint")}
    own = f"({mixed.spec.on_conflict})=({mixed.entry.id})"
    return judge(mixed.spec.operation, 1, Reply(400, {}, json.dumps(said).encode()), own=own)
