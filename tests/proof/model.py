"""Every state that a bot, its file, the network and the remote end can be in with a few entries: breadth-first.

What the library decides is asked of the library: which entries may travel, what an answer means, which moves there are.
What the network and kills may do is the model's: whatever was sent may arrive at any time, once more, or never; any
answer may be lost or be another's. So the shortest way to a broken promise is found, or none within the bounds exists.

Not in it: updates and upserts without a version, which must not arrive late; pauses, which only take time;
reading back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, assert_never

from outbox.entry import LaneSpec, Operation, Outgoing, State, allowed
from outbox.ordering import ordering_key
from outbox.postgrest.batch import ahead_of_their_keys, heads, last_of_each_row, own_duplicate
from outbox.postgrest.client import build
from outbox.postgrest.verdicts import Delivered, Failure, Pause, Reject, Reply, Retry, Split, Verdict, judge
from tests.proof.simulation.network import GARBLED, MOODS
from tests.proof.simulation.server import Server

FAULTS = (
    "no idempotency key", "counting before return", "a timeout counts", "any 200 counts", "no keep-newer", "no order",
    "an outage kills", "a batch dies with its worst row", "acknowledged before the commit", "a dead one holds its key",
    "superseded settle with a dead winner",
)  # fmt: skip
_ORDERS = LaneSpec("orders", Operation.INSERT, "id", "id,n,poison", True)
_SESSIONS = LaneSpec("sessions", Operation.UPSERT, "session_id", "n,poison,session_id,version", True)
# Answers that are nobody's about a row: nothing may be settled by them.
_ELSEWHERE: tuple[Reply | Failure, ...] = (Failure.TIMEOUT, Failure.CUT, Failure.UNREACHABLE, *GARBLED, *MOODS.values())


def items(*wanted: tuple[str, bool]) -> tuple[Outgoing, ...]:
    """Return entries in the order of their puts: the ordering key of each, and whether the remote end refuses it.

    A key that begins with s is a session's, which is upserted; the others are inserted.
    """
    found = []
    for seq, (name, poison) in enumerate(wanted):
        session = name.startswith("s")
        row = {"n": seq, "poison": poison} | ({"session_id": name, "version": seq} if session else {})
        found.append(Outgoing(seq, f"id{seq}", ordering_key([name]), json.dumps(row), None, "", 0))
    return tuple(found)


@cache
def _spec(entry: Outgoing) -> LaneSpec:
    return _SESSIONS if "session_id" in json.loads(entry.payload) else _ORDERS


@cache
def _is_poison(entry: Outgoing) -> bool:
    """Whether the remote end refuses it for good."""
    return bool(json.loads(entry.payload)["poison"])


Batch = tuple[int, ...]


class Here(NamedTuple):
    """A state. file: of each entry that is committed. acked: how many puts have returned. lives: kills that are left.

    under_way: what the process waits for, each with the answer that is on its way back. sent: what may arrive, now or
    later. remote: each row there as (table, key, row), in the order of arrival.
    """

    acked: int
    lives: int
    file: tuple[State, ...]
    under_way: frozenset[tuple[Batch, int | None]]
    sent: frozenset[Batch]
    remote: tuple[tuple[str, str, str], ...]


Step = tuple[str, Here]


class Model:
    """The entries, with one fault planted or none."""

    def __init__(self, entries: Sequence[Outgoing], *, lives: int = 2, fault: str | None = None) -> None:
        self._entries, self._lives, self._fault = tuple(entries), lives, fault
        self._replies: list[Reply] = []
        self._apply = cache(self._uncached_apply)
        self._verdict = cache(self._uncached_verdict)
        self._elsewhere = cache(self._uncached_elsewhere)
        self.states = 0

    def start(self) -> Here:
        """Return the state before the first put."""
        return Here(0, self._lives - 1, (), frozenset(), frozenset(), ())

    # ------------------------------------------------------------------------------------------ the search

    def search(self) -> tuple[str, list[str]] | None:
        """Return the promise that breaks first and the shortest way there; None: none does, in no state."""
        known: dict[Here, tuple[Here, str] | None] = {self.start(): None}
        queue, before = [self.start()], dict[Here, list[Here]]()
        for here in queue:
            for name, after in self.steps(here):
                before.setdefault(after, []).append(here)
                if after in known:
                    continue
                known[after] = (here, name)
                if (wrong := self.wrong(after) or self._forbidden(here, after)) is not None:
                    self.states = len(known)
                    return wrong, _way(known, after)
                queue.append(after)
        self.states = len(known)
        good = [here for here in queue if self.is_over(here)]
        ends = set(good)
        for here in good:  # grows: from where all can still end well
            for earlier in before.get(here, ()):
                if earlier not in ends:
                    ends.add(earlier)
                    good.append(earlier)
        stuck = next((here for here in queue if here not in ends), None)
        return None if stuck is None else ("something waits for ever", _way(known, stuck))

    # ------------------------------------------------------------------------------------------ what can happen

    def steps(self, here: Here) -> Iterator[Step]:
        """Yield whatever can happen next."""
        stored, entries = len(here.file), self._entries
        if stored <= here.acked and stored < len(entries):
            yield f"put {stored} is committed", here._replace(file=(*here.file, State.PENDING))
        if stored == here.acked < len(entries) and self._fault == "acknowledged before the commit":
            yield f"put {stored} returns", here._replace(acked=stored + 1)
        elif here.acked < stored:
            yield f"put {here.acked} returns", here._replace(acked=here.acked + 1)
        if here.lives:
            yield "killed", here._replace(lives=here.lives - 1, under_way=frozenset())
        for batch in self._sendable(here):
            after = here._replace(under_way=here.under_way | {(batch, None)}, sent=here.sent | {batch})
            if self._fault == "counting before return":
                after = self._settled(after, batch, Delivered())
            yield f"{batch} is sent", after
        yield from self._arrivals(here)
        for batch, answer in here.under_way:
            left = here._replace(under_way=here.under_way - {(batch, answer)})
            if answer is not None:
                yield f"{batch} is answered", self._settled(left, batch, self._verdict(batch, answer))
            for verdict in self._elsewhere(batch):
                yield f"{batch} has no answer or another's", self._settled(left, batch, verdict)

    def _sendable(self, here: Here) -> set[Batch]:
        """Each entry that may travel alone, and all of a lane together, by the library's rules of order."""
        busy = {seq for batch, _ in here.under_way for seq in batch}
        found = set[Batch]()
        for spec in (_ORDERS, _SESSIONS):
            lane = [entry for entry in self._entries[: len(here.file)] if _spec(entry) is spec]
            waiting = [(each, "under way" if each.seq in busy else None) for each in lane if self._waits(here, each)]
            ready = ahead_of_their_keys(waiting)
            first = heads(ready)
            if self._fault == "no order":
                first = ready = [entry for entry, waits in waiting if waits is None]
            if ready:
                found |= {(each.seq,) for each in first} | {tuple(each.seq for each in ready)}
        return found

    def _waits(self, here: Here, entry: Outgoing) -> bool:
        state = here.file[entry.seq]
        return state is State.PENDING or (self._fault == "a dead one holds its key" and state is State.DEAD)

    def _arrivals(self, here: Here) -> Iterator[Step]:
        for batch in here.sent:
            remote, answer = self._apply(here.remote, batch)
            waits = (batch, None) in here.under_way
            under_way = here.under_way - {(batch, None)} | {(batch, answer)} if waits else here.under_way
            yield f"{batch} arrives", here._replace(remote=remote, under_way=under_way)

    # ------------------------------------------------------------------------------------------ what it comes to

    def _uncached_apply(self, remote: tuple[tuple[str, str, str], ...], batch: Batch) -> tuple[Any, int]:
        """Let `batch` arrive; return what is there then, and the answer by its number."""
        server = Server(keep_newer=self._fault != "no keep-newer")
        for table, key, row in remote:
            server.rows.setdefault(table, {})[key] = json.loads(row)
        server.minted = len(remote)
        spec, sent, _ = self._request(batch)
        request = build(spec, sent)
        if self._fault == "no idempotency key" and spec is _ORDERS:
            rows = [{name: value for name, value in row.items() if name != "id"} for row in json.loads(request.body)]
            request = request.__class__(request.method, request.path, request.headers, json.dumps(rows).encode())
        reply = server.apply(request)
        if reply not in self._replies:
            self._replies.append(reply)
        after = tuple(
            (table, key, json.dumps(row)) for table, rows in sorted(server.rows.items()) for key, row in rows.items()
        )
        return after, self._replies.index(reply)

    def _request(self, batch: Batch) -> tuple[LaneSpec, Sequence[Outgoing], Sequence[Outgoing]]:
        entries = [self._entries[seq] for seq in batch]
        spec = _spec(entries[0])
        return spec, *last_of_each_row(spec, entries)

    def _judged(self, batch: Batch, outcome: Reply | Failure) -> Verdict:
        spec, sent, _ = self._request(batch)
        return judge(spec.operation, len(sent), outcome, own=own_duplicate(spec, sent), sent_bytes=100)

    def _uncached_verdict(self, batch: Batch, answer: int) -> Verdict:
        return self._judged(batch, self._replies[answer])

    def _uncached_elsewhere(self, batch: Batch) -> tuple[Verdict, ...]:
        """What comes of answers that are not about the batch; a pause is a pause, whichever it is."""
        found = dict[type[Verdict], Verdict]()
        for outcome in _ELSEWHERE:
            verdict = self._judged(batch, outcome)
            page = isinstance(outcome, Reply) and outcome.status == 200
            if (self._fault == "a timeout counts" and outcome is Failure.TIMEOUT) or (
                self._fault == "any 200 counts" and page
            ):
                verdict = Delivered()
            found[type(verdict)] = verdict
        return tuple(found.values())

    def _settled(self, here: Here, batch: Batch, verdict: Verdict) -> Here:
        _, sent, superseded = self._request(batch)
        match verdict:
            case Delivered():
                return _moved(here, batch, State.DELIVERED)
            case Reject():
                after = _moved(here, [sent[0].seq], State.DEAD)
                if self._fault == "superseded settle with a dead winner":
                    after = _moved(after, [each.seq for each in superseded], State.DELIVERED)
                return after
            case Split() if self._fault == "a batch dies with its worst row":
                return _moved(here, batch, State.DEAD)
            case Pause() if self._fault == "an outage kills":
                return _moved(here, batch, State.DEAD)
            case Split() | Retry() | Pause():
                return here
            case _:
                assert_never(verdict)

    # ------------------------------------------------------------------------------------------ what must hold

    def is_over(self, here: Here) -> bool:
        """Whether everything was put and is where it belongs."""
        ends = tuple(State.DEAD if _is_poison(entry) else State.DELIVERED for entry in self._entries)
        return here.acked == len(self._entries) and here.file == ends

    def wrong(self, here: Here) -> str | None:
        """Return which promise is broken."""
        if here.acked > len(here.file) and here.lives < self._lives - 1:
            return "what was acknowledged is in no file"
        rows = [(table, json.loads(row)) for table, _, row in here.remote]
        inserted = [row["n"] for table, row in rows if table == "orders"]
        if len(set(inserted)) < len(inserted):
            return "a row is there twice"
        for entry, state in zip(self._entries, here.file, strict=False):
            if state is State.DEAD and not _is_poison(entry):
                return "an entry died of what is not its own"
            if state is State.DELIVERED and not self._is_there(entry, rows):
                return "what counts as delivered is not there"
        return self._disorder(inserted)

    def _is_there(self, entry: Outgoing, rows: Sequence[tuple[str, Any]]) -> bool:
        if _spec(entry) is _ORDERS:
            return any(table == "orders" and row["n"] == entry.seq for table, row in rows)
        # A newer state of the session may stand in its place, never an older one.
        return any(ordering_key([row.get("session_id")]) == entry.key and row["n"] >= entry.seq for _, row in rows)

    def _disorder(self, inserted: Sequence[int]) -> str | None:
        for key in {self._entries[n].key for n in inserted}:
            order = [n for n in inserted if self._entries[n].key == key]
            if order != sorted(order):
                return "the rows of a key came out of order"
        return None

    @staticmethod
    def _forbidden(before: Here, after: Here) -> str | None:
        for one, other in zip(before.file, after.file, strict=False):
            if one is not other and not allowed(one, other):
                return f"an entry went from {one} to {other}"
        return None


def _moved(here: Here, seqs: Sequence[int], state: State) -> Here:
    file = [state if seq in seqs and old is State.PENDING else old for seq, old in enumerate(here.file)]
    return here._replace(file=tuple(file))


def _way(known: dict[Here, tuple[Here, str] | None], here: Here) -> list[str]:
    way = []
    while (came := known[here]) is not None:
        here, name = came
        way.append(name)
    return way[::-1]
