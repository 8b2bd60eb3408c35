"""What a lane has under way: rows of a request, parts of refused ones, refusals; no I/O, no clock, no randomness."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from outbox.entry import Outgoing
from outbox.postgrest.batch import Limit
from outbox.postgrest.verdicts import Refusal
from outbox.store.rows import Lane

# At most this many lanes share a request.
MOST_LANES = 500
# After this many refused rows of one batch, its most promising parts come first.
_MANY = 8
# A part beside accepted rows may hold more good ones, most likely at that end: the half there keeps the hope, however
# often it is halved. The other half has lost it after this many halvings.
_HOPE = 3
# At most this many rows die of one cause before their table is held to be at fault.
MOST_REFUSED = 10
# 22P02 and its like quote the value: two bad values are one cause. The others quote names of columns and rules.
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


class Source(Enum):
    """Where the rows of a lane's next request come from. A lane serves those that have something in rotation."""

    NEW = auto()  # never refused, in the order of the puts
    PART = auto()  # of a batch that was refused
    AGAIN = auto()  # refused before, such as for a parent that was not there
    SUSPECT = auto()  # failed alone: it travels alone


@dataclass(frozen=True, slots=True)
class Batch:
    """What a lane sends in one request of `bytes` bytes. probe: it tests whether a pause is over.

    others: what other lanes send in the same request.
    """

    source: Source
    entries: Sequence[Outgoing]
    bytes: int
    probe: bool = False
    others: Sequence[tuple[Lane, Batch]] = ()

    @property
    def seqs(self) -> list[int]:
        """Which entries of the lane these are."""
        return [entry.seq for entry in self.entries]

    @property
    def all_entries(self) -> list[Outgoing]:
        """All entries of the request."""
        return [*self.entries, *(entry for _, other in self.others for entry in other.entries)]


@dataclass(slots=True)
class Part:
    """Entries of a batch that was refused. before, behind: the hope that its first and its last rows are good.

    spent: all of them were refused before.
    """

    seqs: list[int]
    before: int = 0
    behind: int = 0
    spent: bool = False

    @property
    def rank(self) -> tuple[bool, int, int]:
        """How late it comes, beside others of its kind."""
        return self.spent, -max(self.before, self.behind), -len(self.seqs)

    def inner(self) -> int:
        """Return the hope where it is halved."""
        return max(self.before, self.behind, 1) - 1


@dataclass(slots=True)
class Sweep:
    """Rows that are refused again and again hold up nothing: in an ordered lane, too, each row has its turn.

    Always oldest first, a lane would repeat the same rows for ever if refusing them took longer than they then wait.
    after: the entry behind which the lane continues; 0: at the oldest. until: the last entry that was there then.
    """

    after: int = 0
    until: int = 0

    def postponed(self, seq: int, last_seq: int) -> None:
        """Continue behind an entry that waits for its next try; `last_seq` is the youngest of all."""
        if not self.after:
            self.until = last_seq
        self.after = max(self.after, seq)

    def restart(self) -> None:
        """Begin at the oldest: what was refused waits for its next try, not for a whole backlog."""
        self.after = 0

    def is_over(self, found: Sequence[Outgoing]) -> bool:
        """Return whether nothing of it is among `found`: what comes behind waits, and the oldest have their turn."""
        return self.after > 0 and not (found and found[0].seq <= self.until)


@dataclass(slots=True)
class RefusalRun:
    """Rows that died one after another: are they at fault, or is their table?

    One bad row dies alone. Row after row refused for one cause, with none accepted in between, means a missing policy,
    a column that a migration has added, a key of another type: at most `MOST_REFUSED` rows die of it, and the first
    accepted row brings them back. A row counts once: one that was revived and is refused again is bad itself.

    Runs are counted twice: for each lane, which another set of columns that is accepted does not end; and for all lanes
    of a table and operation together, so that rows whose columns keep changing do not die one per set.
    `outbox_refused_runs` keeps the first.
    """

    cause: str | None = None
    seqs: list[int] = field(default_factory=list)

    def is_full(self, cause: str) -> bool:
        """Return whether one more row refused for `cause` means that the table is at fault."""
        return self.cause == cause and len(self.seqs) >= MOST_REFUSED

    def add(self, cause: str, seq: int) -> None:
        """Count a row that dies; one that dies of something else begins a new run."""
        if self.cause != cause:
            self.cause, self.seqs = cause, []
        self.seqs.append(seq)

    def clear(self) -> None:
        """A row was accepted."""
        self.cause, self.seqs = None, []


def cause_of(refusal: Refusal) -> str:
    """Return what the refusals of one cause have in common."""
    code, message = refusal.code or "", refusal.message
    if code.startswith("22"):
        message = _QUOTED.sub("…", message)
    elif code.startswith("P0"):  # RAISE: the text is the trigger's own, and mostly holds the row's values
        message = ""
    return f"{refusal.status} {refusal.code} {message}"[:500]


@dataclass(slots=True)
class Traffic:
    """What is under way in a lane."""

    lane: Lane
    limit: Limit  # bytes in the next request
    under_way: list[tuple[Source, list[int]]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)  # of refused batches, still to be sent; the next one first
    last_seq: int = 0  # how far an unordered lane has been handed out
    rewind: bool = False  # something behind last_seq is ready again: start over
    # Entries that failed alone in a way that may be theirs or an outage's. True: others have passed since.
    suspects: dict[int, bool] = field(default_factory=dict)
    sent_parts: dict[int, Part] = field(default_factory=dict)  # those under way, by their first entry
    refusals: int = 0  # of lone rows, since there last was no part
    mixed: bool = False  # since then rows were accepted, too: what is refused is bad itself
    rotation: list[Source] = field(default_factory=lambda: list(Source))  # the one whose turn is next first
    probes: Counter[Source] = field(default_factory=Counter)  # how many each had: every one takes another row
    served: int = 0  # when it last began a request, counted over all lanes
    lanes: int = MOST_LANES  # how many may share its request, itself included; 1: it travels alone
    trouble: tuple[int | None, str | None] | None = None  # what last paused it: the answer's status and code
    passed: bool = False  # a row has passed since: what fails in the same way now is about its rows
    sweep: Sweep = field(default_factory=Sweep)  # of an ordered lane
    run: RefusalRun = field(default_factory=RefusalRun)
    run_of_all: RefusalRun = field(default_factory=RefusalRun)  # of all lanes that differ from this one in columns only

    @property
    def taken(self) -> set[int]:
        """Entries that are under way, or in line as a part: nobody else takes them."""
        found = {seq for _, batch in self.under_way for seq in batch}
        return found.union(*(part.seqs for part in self.parts))

    def after(self) -> int:
        """Return the entry behind which the next new ones begin; 0: at the oldest."""
        if self.rewind or not any(source is Source.NEW for source, _ in self.under_way):
            return 0
        return self.last_seq

    @property
    def is_clean(self) -> bool:
        """Return whether nothing of it is under way, and nothing was refused."""
        return not (self.under_way or self.parts or self.suspects or self.run.seqs)

    def busy(self, source: Source) -> bool:
        """Return whether a request from `source` is under way."""
        return any(each is source for each, _ in self.under_way)

    def start(self, batch: Batch) -> None:
        """Count a request that carries `batch`."""
        if batch.source is Source.NEW:
            self.last_seq = max(self.after(), batch.seqs[-1])
            self.rewind = batch.probe  # it may stand behind others
        self.under_way.append((batch.source, batch.seqs))
        self.rotation.remove(batch.source)
        self.rotation.append(batch.source)

    def end(self, batch: Batch) -> None:
        """Count it as ended."""
        self.under_way.remove((batch.source, batch.seqs))
        self.sent_parts.pop(batch.seqs[0], None)

    def sources(self) -> list[Source]:
        """Return where the next rows may come from, the one first whose turn it is."""
        if self.lane.spec.ordered:  # nothing overtakes what waits as a part
            return [Source.PART, Source.NEW]
        return [source for source in self.rotation if source in (Source.NEW, Source.PART) or not self.busy(source)]

    def take_part(self, batch: Batch) -> None:
        """Take what `batch` carries out of its part."""
        seqs = set(batch.seqs)
        part = next(part for part in self.parts if not seqs.isdisjoint(part.seqs))
        part.seqs = [seq for seq in part.seqs if seq not in seqs]
        self.sent_parts[batch.seqs[0]] = replace(part, seqs=batch.seqs)
        if not part.seqs:
            self.parts.remove(part)

    def is_run_full(self, cause: str) -> bool:
        """Return whether one more row refused for `cause` means that the table is at fault."""
        return self.run.is_full(cause) or self.run_of_all.is_full(cause)

    def refused(self, cause: str, seq: int) -> None:
        """Count a row that dies in a run of refusals."""
        self.run.add(cause, seq)
        self.run_of_all.add(cause, seq)

    def end_run(self) -> None:
        """A row of the lane was accepted."""
        self.run = RefusalRun()
        self.run_of_all.clear()

    def split(self, parts: Iterable[Sequence[Outgoing]]) -> None:
        """Send these parts of a refused batch by themselves.

        The first of them comes next. An ordered lane sends nothing else before all are settled. An unordered one,
        once many rows were refused, first sends the parts beside accepted rows, then the largest part: hundreds of bad
        rows do not hold up good ones.
        """
        if not self.parts and not self.sent_parts:  # with several at once, all of them may be under way
            self.refusals, self.mixed = 0, False
        found = [part for part in parts if part]
        whole = next((part for part in self.sent_parts.values() if found and found[0][0].seq in part.seqs), Part([]))
        # Rows that were all refused before come behind those that never were, however many they are.
        made = [Part([entry.seq for entry in part], spent=all(entry.attempts for entry in part)) for part in found]
        if made:
            for part in made:
                part.before = part.behind = whole.inner()
            made[0].before, made[-1].behind = whole.before, whole.behind
        self.parts = [*made, *self.parts]
        self._line_up()

    def accepted(self, seqs: Sequence[int]) -> None:
        """Look next at the parts on both sides of `seqs`, which were accepted."""
        self.sweep.restart()
        parts = [*self.parts, *self.sent_parts.values()]
        if not parts:
            return
        self.mixed = True
        if before := [part for part in parts if part.seqs[-1] < seqs[0]]:
            max(before, key=_first).behind = _HOPE
        if behind := [part for part in parts if part.seqs[0] > seqs[-1]]:
            min(behind, key=_first).before = _HOPE
        self._line_up()

    def _line_up(self) -> None:
        if not self.lane.spec.ordered and self.refusals >= _MANY:
            self.parts.sort(key=lambda part: part.rank)


def _first(part: Part) -> int:
    return part.seqs[0]
