"""Whether the remote end holds what was sent: the rows are read back by their ids, and compared.

An insert whose id the caller chose may meet another row with that id, which the server keeps silently. PostgreSQL
writes values in its own way, so they are compared as it may have read them; columns that were not sent do not count.
Where the texts do not tell, PostgreSQL is asked whether the column equals what was sent (an interval, money, bytes, an
array); a rounded value is compared to its column's precision: other rows show how many digits it keeps.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any
from urllib.parse import quote

from outbox.encoding import decode
from outbox.entry import Destination, LaneSpec, Outgoing
from outbox.ordering import ordering_key
from outbox.postgrest.batch import remote_id
from outbox.postgrest.client import Request, Transport
from outbox.postgrest.replies import Failure, Refusal, Reply, read_refusal

Row = dict[str, Any]

# The bytes of rows read back at once; PostgREST gives at most 1,000 rows.
_LONGEST_READING = 16 * 1024 * 1024
# Bytes of the list of ids in a URL; Supabase's gateway takes 16 kB of URL and headers together.
_LONGEST_LIST = 6000
_TIMELIKE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.]+)?([+-][0-9:]+|Z)?")
_CLOCK = re.compile(r"[0-9]{2}:[0-9]{2}(:[0-9.]+)?([+-][0-9:]+|Z)?")
_SECOND = re.compile(
    r"(?:(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})[T ])?(?P<clock>[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.(?P<fraction>[0-9]+))?"
    r"(?P<zone>[+-][0-9:]+|Z)?"
)
_BOOLEANS = {  # as PostgreSQL reads them
    True: frozenset({"true", "t", "yes", "y", "on", "1"}),
    False: frozenset({"false", "f", "no", "n", "off", "0"}),
}
_ZONE = re.compile(r"(?<=:[0-9]{2})(?:\.[0-9]+)?(?P<zone>[+-][0-9:]+|Z)$")


async def read_back(
    transport: Transport, spec: LaneSpec, ids: Sequence[str], *, deadline_s: float
) -> dict[str, Row] | Reply | Failure:
    """Return those rows of `ids` that are there, by their ids' texts; or what was answered instead of rows."""
    left, held, at_once = list(ids), dict[str, Row](), len(ids)
    while left:
        path, asked = read_back_path(spec, left[:at_once])
        answer = await transport.send(Request("GET", path, (), b"", _LONGEST_READING), deadline_s=deadline_s)
        rows = rows_read(answer)
        if rows is None:
            return answer
        found = {str(row[spec.on_conflict]): row for row in rows if spec.on_conflict in row}
        if asked == 1 and len(found) == 1:  # however it is written: nothing else was asked for
            found = dict.fromkeys(left[:1], *found.values())
        held |= found
        # The server may give fewer rows than it has (max-rows): only where it gives none are the others missing.
        rest = [each for each in left[:asked] if find(found, each) is None] if found else []
        if len(rest) == asked:  # `citext`, say, or a trigger: only one by one shows whose rows these are
            rest, at_once = (rest, 1) if at_once > 1 else (rest[1:], 1)
        left = rest + left[asked:]
    return held


async def conflicts(
    transport: Transport,
    spec: LaneSpec,
    sent: Sequence[Outgoing],
    status: int,
    *,
    kept: Collection[int],
    deadline_s: float,
) -> dict[int, Refusal] | Reply | Failure:
    """Return which of `sent`, by their places, are not at their destination, and why; or what was answered instead.

    status: of the answer to their insert. kept: those that accept whatever row is there.
    """
    ids = {entry.seq: remote_id(spec, entry) for entry in sent}
    held = await read_back(transport, spec, list(ids.values()), deadline_s=deadline_s)
    if not isinstance(held, dict):
        return held
    found = dict[int, Refusal]()
    for entry in sent:
        row = find(held, ids[entry.seq])
        columns = list[str]()
        if row is not None and entry.seq not in kept:
            named = {spec.on_conflict: ids[entry.seq]}
            unlike = await _unlike(transport, spec, named, entry.payload, row, deadline_s=deadline_s)
            if not isinstance(unlike, list):
                return unlike
            columns = unlike
        if row is None or columns:
            found[entry.seq] = conflict(spec, entry, row, status, columns)
    return found


async def _unlike(
    transport: Transport, spec: LaneSpec, named: Mapping[str, str], payload: str, row: Row, *, deadline_s: float
) -> list[str] | Reply | Failure:
    """Return the columns in which `row`, which has the values `named`, is not what was sent; or what was answered.

    A column differs if the texts do and PostgreSQL does not call them equal.
    """
    sent, unlike = decode(payload), list[str]()
    for column in differing(payload, row):
        among = is_rounded(sent[column], row.get(column))
        path = neighbours_path(spec, column) if among else equal_path(spec, named, column, payload, row.get(column))
        if path is None:
            unlike.append(column)
            continue
        answer = await transport.send(Request("GET", path, (), b"", _LONGEST_READING), deadline_s=deadline_s)
        rows = rows_read(answer)
        if rows is None:
            if not isinstance(answer, Reply) or answer.status >= 500 or not read_refusal(answer).genuine:
                return answer
            rows = []  # it cannot be compared: `json` and `point` have no equality
        if not rows or (among and not is_rounded(sent[column], row.get(column), [each.get(column) for each in rows])):
            unlike.append(column)
    return unlike


async def is_applied(
    transport: Transport, spec: LaneSpec, entry: Outgoing, destination: Destination, *, deadline_s: float
) -> bool | Reply | Failure:
    """Return whether the row that the update `entry` names shows its values; or what was answered instead of a row.

    False too if it names none by the unique columns of `destination`. Nobody needs to remember which try had no known
    outcome: whether the row has the values is what counts.
    """
    for unique in (destination.on_conflict, (destination.key,)):
        named = named_row(entry.match or "{}", unique) if unique else None
        if named is None:
            continue
        path = updated_path(spec, named)
        answer = await transport.send(Request("GET", path, (), b"", _LONGEST_READING), deadline_s=deadline_s)
        rows = rows_read(answer)
        if rows is None:
            return answer
        if len(rows) != 1:
            return False
        unlike = await _unlike(transport, spec, named, entry.payload, rows[0], deadline_s=deadline_s)
        return not unlike if isinstance(unlike, list) else unlike
    return False


# ------------------------------------------------------------------------------------------ what is asked


def read_back_path(spec: LaneSpec, ids: Sequence[str]) -> tuple[str, int]:
    """Return the path that reads the rows of the first of `ids`, and how many of them fit into the URL."""
    texts, size = list[str](), 0
    for each in ids:
        text = quote(_quoted(each), safe="")
        if texts and size + len(text) > _LONGEST_LIST:
            break
        texts.append(text)
        size += len(text) + 1
    column = spec.on_conflict
    return f"{spec.destination}?{column}=in.({','.join(texts)})&select={spec.columns}", len(texts)


def named_row(match: str, unique: Sequence[str]) -> dict[str, str] | None:
    """Return the values by which an update names its row; None: `match` does not hold the `unique` columns."""
    wanted = json.loads(match, parse_float=str, parse_int=str)
    values = [wanted.get(column) for column in unique]
    return dict(zip(unique, values, strict=True)) if all(isinstance(value, str) for value in values) else None


def updated_path(spec: LaneSpec, named: Mapping[str, str]) -> str:
    """Return the path that reads the row that an update names."""
    filters = [f"{column}=eq.{quote(value, safe='')}" for column, value in named.items()]
    return f"{spec.destination}?{'&'.join(filters)}&select={spec.columns}"


def rows_read(outcome: Reply | Failure) -> list[Row] | None:
    """Return the rows of an answer, numbers with all their digits; None: not a list of rows."""
    if isinstance(outcome, Failure) or not 200 <= outcome.status < 300:
        return None
    try:
        rows = decode(outcome.body)
    except (ValueError, RecursionError):
        return None
    return rows if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else None


def differing(payload: str, held: Row) -> list[str]:
    """Return the columns in which `held` differs from what was sent, as far as the texts tell."""
    return sorted(column for column, value in decode(payload).items() if not same(value, held.get(column)))


def conflict(spec: LaneSpec, entry: Outgoing, held: Row | None, status: int, columns: Sequence[str]) -> Refusal:
    """Return why `entry` is not at its destination, which holds `held` under its id: a row with other `columns`."""
    place = f"{spec.destination}.{spec.on_conflict} = {remote_id(spec, entry)}"
    sent = decode(entry.payload)
    if held is None:
        words = f"the server took it, but there is no row with {place}: a trigger swallowed it, or a policy hides it"
        return Refusal(status, "CONFLICT", words, details=_text({"sent": sent, "stored": None}))
    both = {column: {"sent": sent[column], "stored": held.get(column)} for column in columns}
    words = f"another row is there with {place}; it differs in {', '.join(columns)}"
    return Refusal(status, "CONFLICT", words, details=_text(both))


def equal_path(spec: LaneSpec, named: Mapping[str, str], column: str, payload: str, held: object) -> str | None:
    """Return the path that reads the row `named` if its `column` equals what was sent: PostgreSQL decides.

    It reads the value as the column's type, in any spelling. None: `held` is another value, or PostgreSQL cannot tell.
    """
    sent = decode(payload)[column]
    literal = _literal(sent)
    if literal is None or held is None or (isinstance(held, int | Decimal) and isinstance(sent, int | Decimal)):
        return None
    asked = ",".join(f"{name}.eq.{_quoted(value)}" for name, value in (*named.items(), (column, literal)))
    return f"{spec.destination}?and=({quote(asked, safe=',.()')})&select={','.join(named)}"


def neighbours_path(spec: LaneSpec, column: str) -> str:
    """Return the path that reads the `column` of some rows."""
    return f"{spec.destination}?select={column}&limit=100"


def is_rounded(sent: object, held: object, others: Iterable[object] = ()) -> bool:
    """Return whether `held` is `sent` as its column rounds it: to the digits that `held` and `others` show.

    A `numeric(10, 2)` shows two for each number. A `timestamptz(3)` shows up to three, without zeros at the end.
    """
    if sent is None or held is None:
        return False
    if isinstance(sent, str) and isinstance(held, str):
        zone = _ZONE.search(held)
        one, other = (_instant(text, zoned=zone is not None) for text in (sent, held))
        shown = [_fraction(each) for each in (held, *others)]
        digits = max(each for each in shown if each is not None) if one is not None else 0
    else:
        one, other = _number(_plain(sent)), _number(_plain(held))
        all_digits = {_decimals(each) for each in (held, *others) if each is not None}
        digits = all_digits.pop()
        if all_digits or not digits:  # no fixed number of digits
            return False
    if one is None or other is None:
        return False
    return abs(one - other) * 2 <= Decimal(1).scaleb(-digits)


def find(held: Mapping[str, Row], its_id: str) -> Row | None:
    """Return the row of `its_id` among the rows read, keyed by their ids as text."""
    if (row := held.get(its_id)) is not None:
        return row
    return next((row for text, row in held.items() if same(its_id, text)), None)


def same(sent: object, held: object) -> bool:
    """Return whether PostgreSQL may write `sent` as `held`: numbers, times, UUIDs, and JSON in its own order."""
    if sent is None or held is None:
        return sent is held
    if isinstance(sent, Mapping) or isinstance(held, Mapping):
        return _same_json(_parsed(sent), _parsed(held))
    if isinstance(sent, list) or isinstance(held, list):
        sent, held = _parsed(sent), _parsed(held)
        if not isinstance(sent, list) or not isinstance(held, list) or len(sent) != len(held):
            return False
        return all(map(same, sent, held))
    one, other = _plain(sent), _plain(held)
    if isinstance(held, bool):
        return one.strip().casefold() in _BOOLEANS[held]
    if one.rstrip() == other.rstrip():  # char(n) is padded with spaces
        return True
    numbers = _number(one), _number(other)
    if numbers[0] is not None and numbers[1] is not None:
        # Two texts: a text column is not read as numbers, "007" and "7" differ.
        texts = isinstance(sent, str) and isinstance(held, str)
        return not texts and _same_number(numbers[0], numbers[1], other)
    return _same_time(one, other) or (numbers == (None, None) and ordering_key([one]) == ordering_key([other]))


def _same_json(one: object, other: object) -> bool:
    """JSON is stored unchanged but for the order of its keys and the spelling of its numbers."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same_json(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same_json, one, other))
    return isinstance(one, bool) is isinstance(other, bool) and one == other  # in Python 1 is True


def _same_number(sent: Decimal, held: Decimal, text: str) -> bool:
    if sent == held or float(sent) == float(held):
        return True
    try:
        if struct.pack("f", sent) == struct.pack("f", held):  # a `real`
            return True
        # A trailing zero shows that the column has a fixed number of decimals, to which PostgreSQL rounds.
        fixed = "." in text and text.endswith("0")
        return fixed and sent.quantize(held, rounding=ROUND_HALF_UP) == held
    except (OverflowError, InvalidOperation):
        return False


def _same_time(sent: str, held: str) -> bool:
    if _CLOCK.fullmatch(sent) and _CLOCK.fullmatch(held):  # a time of day
        sent, held = f"2000-01-01T{sent}", f"2000-01-01T{held}"
    if not _TIMELIKE.fullmatch(sent) or not _TIMELIKE.fullmatch(held):
        return False
    if len(held) == 10:  # a date
        return sent[:10] == held
    if not _ZONE.search(held):  # a timestamp without a zone: PostgreSQL drops the offset
        sent = _ZONE.sub(lambda found: found[0].removesuffix(found["zone"]), sent)
    return ordering_key([sent]) == ordering_key([held])


def _decimals(value: object) -> int:
    number = _number(_plain(value))
    exponent = 0 if number is None else number.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def _fraction(value: object) -> int | None:
    """Return how many fractional digits a time shows; None: it is not a time."""
    found = _SECOND.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else len(found["fraction"] or "")


def _instant(text: str, *, zoned: bool) -> Decimal | None:
    """Return a time in seconds, with all its digits. zoned: its zone counts; without one it is UTC."""
    found = _SECOND.fullmatch(text)
    if found is None:
        return None
    day = found["day"] or "2000-01-01"
    try:
        whole = datetime.fromisoformat(f"{day}T{found['clock']}{(found['zone'] if zoned else None) or '+00:00'}")
    except ValueError:
        return None
    return Decimal(int(whole.timestamp())) + Decimal(f"0.{found['fraction'] or 0}")


def _literal(value: object) -> str | None:
    """Return the text that PostgreSQL reads as `value`; None: no text that it would compare."""
    if isinstance(value, list):
        return "{" + ",".join(map(_element, value)) + "}"
    return None if value is None or isinstance(value, Mapping) else _plain(value)


def _element(value: object) -> str:
    if value is None:
        return "NULL"
    return (_literal(value) or "") if isinstance(value, list) else _quoted(_plain(value))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _plain(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _parsed(value: object) -> object:
    """A text may hold JSON, on either side."""
    if not isinstance(value, str):
        return value
    try:
        return decode(value)
    except (ValueError, RecursionError):
        return value


def _text(value: object) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)[:2000]
