"""What a put becomes: its id, its canonical text, its digest; no I/O, no clock, no randomness."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, TypeVar
from uuid import UUID, uuid5

from outbox.columns import Kind
from outbox.encoding import decode, encode_alike, encode_row
from outbox.entry import Destination, Entry, IfExists, Operation, OperationName
from outbox.errors import InvalidEntry
from outbox.ordering import Intent, intend

_LONGEST_ID = 200
_NO_ID = (bool, float, bytes, bytearray, dict, list, tuple, set)
E = TypeVar("E", bound=Enum)
_KEYS = frozenset({Kind.UUID, Kind.INTEGER})
_INTEGER = re.compile(r"-?[0-9]{1,19}")
# The namespace of this library (RFC 9562, section 6.6): it must never change.
_NAMED = UUID("6f7b6f78-6f75-5462-8f78-6f7574626f78")
# The digit after the third dash: its two highest bits are the variant, the others are random.
_VARIANTS = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


class Written(NamedTuple):  # a tuple, as `Encoded`: one for every put
    """A write that is ready for the store, but for its time and, where `id` is None, its id."""

    id: str | None
    intent: Intent
    payload: str
    digest: str
    repaired: tuple[str, ...]
    if_exists: str | None = None

    def entry(self, id: str, *, created_at_ms: int, source: str | None, lane: int | None) -> Entry:
        """Return the entry to store."""
        spec = self.intent.spec
        return Entry(
            id, spec.destination, spec.operation, self.intent.key, self.payload, self.intent.on_conflict,
            self.intent.match, lane, created_at_ms, source, self.digest, self.if_exists,
        )  # fmt: skip


def written(
    destination: Destination,
    row: object,
    *,
    operation: OperationName | Operation | None = None,
    key: object = None,
    id: object = None,
    on_conflict: Sequence[str] | None = None,
    match: Mapping[str, object] | None = None,
    if_exists: IfExists | None = None,
) -> Written:
    """Return what to store for one put. Raises InvalidEntry, which names the field."""
    name = destination.name
    chosen = destination.operation if operation is None else member(Operation, operation, field="operation")
    encoded = encode_row(row, where=name, integers=destination.integers)
    own = None
    if chosen is Operation.INSERT and destination.key in encoded.columns:
        own = as_id(json.loads(encoded.text)[destination.key], f"{name}.{destination.key}")
        if own is None:  # an unset field of a model: the minted id goes there
            values = decode(encoded.text)
            del values[destination.key]
            encoded = encode_row(values, where=name)._replace(repaired=encoded.repaired)
    given = as_id(id, "id")
    if given is not None and own is not None and given != own:
        raise InvalidEntry(f"differs from the id {given!r} that was given for it", field=f"{name}.{destination.key}")
    chosen_id = given if given is not None else own
    if chosen is Operation.INSERT and destination.key_kind in _KEYS:
        chosen_id = _fitting(destination, chosen_id)
    plain = key is None and on_conflict is None and match is None and chosen_id is None and not destination.on_conflict
    if chosen is Operation.INSERT and plain:
        intent = _plain_insert(destination, encoded.columns)
    else:
        values = decode(encoded.text)
        intent = intend(
            destination, encoded.columns, values, operation=chosen, key=key, on_conflict=on_conflict, match=match,
            id=chosen_id,
        )  # fmt: skip
    mark = digest(name, chosen, intent.key, encoded.text, intent.on_conflict, intent.match)
    if if_exists is not None:
        _check_if_exists(if_exists, chosen_id)
    return Written(chosen_id, intent, encoded.text, mark, encoded.repaired, if_exists)


class Alike(NamedTuple):
    """Rows with the same intent, ready for the store but for their times and ids."""

    intent: Intent
    payloads: list[str]
    digests: list[str]

    def entries(self, ids: Sequence[str], *, created_at_ms: int, source: str | None, lane: int | None) -> list[Entry]:
        """Return the entries to store, each with its id."""
        name, operation, *_ = self.intent.spec
        return [
            Entry(each, name, operation, None, payload, None, None, lane, created_at_ms, source, mark, None)
            for each, payload, mark in zip(ids, self.payloads, self.digests, strict=True)
        ]


def written_alike(destination: Destination, rows: Sequence[object]) -> Alike | None:
    """Return what to store for plain inserts of `rows`, as `written` for each; None: `written` must do it."""
    plain = destination.operation is Operation.INSERT and not destination.on_conflict
    if not plain or destination.key_kind is Kind.INTEGER:
        return None
    encoded = encode_alike(rows, integers=destination.integers)
    if encoded is None or destination.key in encoded[0]:  # each row has its own id
        return None
    columns, payloads = encoded
    intent = _plain_insert(destination, columns)
    marks = digests(destination.name, Operation.INSERT, None, ((None, None, payload) for payload in payloads))
    return Alike(intent, payloads, marks)


def _fitting(destination: Destination, id: str | None) -> str | None:
    """Return `id` as the key column holds it. Raises InvalidEntry: PostgreSQL would refuse it (22P02)."""
    field = f"{destination.name}.{destination.key}"
    if destination.key_kind is Kind.UUID:
        try:
            return None if id is None else str(UUID(id))
        except ValueError:
            text_key = f"register({destination.name!r}, columns={{{destination.key!r}: 'text'}})"
            raise InvalidEntry(
                f"{id!r} is not a UUID, which this column holds; write id=outbox.uuid_of({id!r}), the same UUID each"
                f" time, or declare a text column: {text_key}",
                field=field,
            ) from None
    if id is None:
        raise InvalidEntry("holds integers, so no id can be minted for it; put it into the row, or id=…", field=field)
    if not (_INTEGER.fullmatch(id) and -(2**63) <= int(id) < 2**63):
        raise InvalidEntry(f"{id!r} is not an integer, which this column holds", field=field)
    return id


def _check_if_exists(if_exists: object, id: str | None) -> None:
    if if_exists != "keep":
        raise InvalidEntry("must be 'keep', or nothing", field="if_exists")
    if id is None:
        raise InvalidEntry("needs an id that stays the same when the row is told again: id=…", field="if_exists")


def _plain_insert(destination: Destination, columns: tuple[str, ...]) -> Intent:
    """The common case, cached: it does not depend on the row's values."""
    which = destination.name, destination.key, columns  # everything it depends on; quicker to hash than the dataclass
    known = _plain.get(which)
    if known is None:
        if len(_plain) >= 1000:  # a bot that invents column sets must not make this grow for ever
            _plain.clear()
        known = _plain[which] = intend(destination, columns, {}, operation=Operation.INSERT)
    return known


_plain: dict[tuple[str, str, tuple[str, ...]], Intent] = {}


def member(kind: type[E], value: object, *, field: str) -> E:
    """Return the member of `kind` that `value` is or names. Raises InvalidEntry, which lists them."""
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(repr(each.value) for each in kind)
        raise InvalidEntry(f"must be one of {names}", field=field) from None


def as_id(value: object, field: str) -> str | None:
    """Return an id as text; None: there is none. Raises InvalidEntry."""
    if value is None:
        return None
    try:
        text = str(value)
    except ValueError:  # an int of more digits than Python writes
        text = ""
    if isinstance(value, _NO_ID) or not 1 <= len(text) <= _LONGEST_ID or not text.isprintable():
        raise InvalidEntry(f"must be a string or an integer of 1 to {_LONGEST_ID} printable characters", field=field)
    return text


# ------------------------------------------------------------------------------------------ ids and digests


def mint_id(now_ms: int, entropy: bytes) -> str:
    """Return a UUIDv7 (RFC 9562, section 5.7) for `now_ms`; `entropy`: 10 random bytes."""
    # Texts rather than one number of 128 bits: a quarter quicker, once for every put.
    time, dice = f"{now_ms & 0xFFFF_FFFF_FFFF:012x}", entropy.hex()
    return f"{time[:8]}-{time[8:]}-7{dice[:3]}-{_VARIANTS[dice[19]]}{dice[3:6]}-{dice[6:18]}"


def uuid_of(text: str) -> str:
    """Return the same UUID for the same `text`: an id for what already has a name, such as a broker's fill."""
    return str(uuid5(_NAMED, text))


def mint_ids(now_ms: int, entropy: bytes) -> list[str]:
    """Return UUIDv7s for `now_ms` in ascending order; `entropy`: 10 random bytes for each."""
    time, dice, variants = f"{now_ms & 0xFFFF_FFFF_FFFF:012x}", entropy.hex(), _VARIANTS
    start = f"{time[:8]}-{time[8:]}-7"
    # The common part is made once: half the time of as many single ids.
    return sorted(
        [
            f"{start}{dice[at : at + 3]}-{variants[dice[at + 19]]}{dice[at + 3 : at + 6]}-{dice[at + 6 : at + 18]}"
            for at in range(0, len(dice), 20)
        ]
    )


def digest(
    destination: str,
    operation: str,
    key: str | None,
    payload: str,
    on_conflict: str | None,
    match: str | None,
) -> str:
    """Return the digest of everything that decides what is sent: 32 hexadecimal digits of BLAKE2b."""
    # The unit separator cannot stand in a name, and JSON escapes it: no two entries give one text.
    text = "\x1f".join((destination, operation, key or "", on_conflict or "", match or "", payload))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def digests(
    destination: str, operation: str, on_conflict: str | None, entries: Iterable[tuple[str | None, str | None, str]]
) -> list[str]:
    """Return the digest of each of `entries`, given as (key, match, payload), in two thirds of the time."""
    begun, found = hashlib.blake2b(f"{destination}\x1f{operation}\x1f".encode(), digest_size=16), list[str]()
    for key, match, payload in entries:
        state = begun.copy()
        state.update(f"{key or ''}\x1f{on_conflict or ''}\x1f{match or ''}\x1f{payload}".encode())
        found.append(state.hexdigest())
    return found
