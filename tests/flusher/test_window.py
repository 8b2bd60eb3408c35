"""A slow uplink: what is under way at once fits through it within the deadline."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from outbox.flusher.window import LEAST_BYTES, Window
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Reply
from outbox.testing import Answer, Failure, FakeRemote, ManualClock
from tests.flusher.bench import Bench, Remote, flushing
from tests.support import run_async

ROWS, TEXT = 6_000, "x" * 379  # payloads of 400 bytes
HEAD_BYTES = 500  # of a request, beside its body
OWN_BYTES = ROWS * (400 + len('"id":"",,') + 36)


QUICK, SLOW = 3.0, 9.0  # of a deadline of 30 s: within an eighth, within a third


@dataclass
class Windows:
    """A window of 256 kB, of four requests of 1 MB, with what it has saved; each sending is answered as it is told."""

    clock: ManualClock = field(default_factory=ManualClock)
    saved: list[int | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.window = Window(self.clock, batch_bytes=1_000_000, requests=4, deadline_s=30.0, save=self.save)

    async def save(self, found: int | None) -> None:
        self.saved.append(found)

    async def send(self, answer: Answer, took_s: float, *, turn: int = 1, now: int = 1, arriving: int = 0) -> None:
        """arriving: how many bytes others add while it is under way."""

        def take(_: Request) -> Answer:
            self.clock.advance(took_s)
            self.window.under_way += arriving
            return answer

        remote = FakeRemote()
        remote.otherwise = take
        outcome = await self.window.send(remote, Request("POST", "events", (), b""), turn, now=lambda: now)
        assert outcome == (answer, took_s)
        self.window.under_way -= arriving


ANSWERED = Reply(503, {}, b"")  # whatever it says, the bytes have arrived


@pytest.mark.parametrize(
    ("saved", "carried", "answer", "took_s", "bytes_after", "kept"),
    [
        pytest.param(None, 200_000, ANSWERED, QUICK, 524_288, [], id="quick: doubled, and nothing to keep"),
        pytest.param(None, 200_000, ANSWERED, SLOW, 294_912, [], id="slower: an eighth more"),
        pytest.param(None, 200_000, ANSWERED, 11.0, 262_144, [], id="slow: no more"),
        pytest.param(None, 200_000, Failure.TIMEOUT, 30.0, 100_000, [100_000], id="no answer in time: halved and kept"),
        pytest.param(None, 200_000, Failure.CUT, 5.0, 100_000, [100_000], id="cut: likewise"),
        pytest.param(None, 200_000, Failure.UNREACHABLE, 5.0, 262_144, [], id="never sent: it tells nothing"),
        pytest.param(None, 8_190, Failure.TIMEOUT, 30.0, 262_144, [], id="so few bytes tell nothing"),
        pytest.param(None, 8_192, Failure.TIMEOUT, 30.0, LEAST_BYTES, [LEAST_BYTES], id="the fewest that do"),
        pytest.param(100_000, 100_000, ANSWERED, QUICK, 112_500, [], id="what failed before grows by an eighth"),
        pytest.param(3_600_000, 3_600_000, ANSWERED, QUICK, 4_000_000, [None], id="all is well: nothing is kept"),
        pytest.param(9_000_000, 4_000_000, ANSWERED, QUICK, 4_000_000, [None], id="kept when more were allowed"),
        pytest.param(1, 4_096, ANSWERED, QUICK, 4_608, [4_608], id="kept when fewer were"),
    ],
)
@run_async
async def test_what_an_answer_or_none_says_of_the_link(
    saved: int | None, carried: int, answer: Answer, took_s: float, bytes_after: int, kept: list[int | None]
) -> None:
    each = Windows()
    each.window.remember(saved)
    each.window.under_way = carried
    await each.send(answer, took_s)
    assert (each.window.request_bytes, each.saved) == (bytes_after // 4, kept)


@run_async
async def test_a_better_link_is_kept_once_it_carries_twice_as_much() -> None:
    each = Windows()
    each.window.remember(100_000)
    for _ in range(12):
        each.window.under_way = 4_000_000
        await each.send(ANSWERED, QUICK)
    assert each.saved == [202_726, 410_979]
    each.window.under_way = 400_000
    await each.send(Failure.TIMEOUT, 30.0)
    assert each.saved[2:] == [200_000]


@run_async
async def test_what_began_before_the_last_halving_fails_for_what_is_known_already() -> None:
    each = Windows()
    each.window.under_way = 200_000
    await each.send(Failure.TIMEOUT, 30.0, turn=0, now=5)
    await each.send(Failure.TIMEOUT, 30.0, turn=4, now=6)
    assert each.saved == [100_000]
    await each.send(Failure.TIMEOUT, 30.0, turn=5, now=7)
    assert each.saved == [100_000, 50_000]
    await each.send(Failure.TIMEOUT, 30.0, turn=6, now=8)
    assert each.saved == [100_000, 50_000]


@pytest.mark.parametrize(("carried", "arriving"), [(150_000, 50_000), (200_000, -50_000)])
@run_async
async def test_the_most_that_was_under_way_beside_a_request_counts(carried: int, arriving: int) -> None:
    each = Windows()
    each.window.under_way = carried
    await each.send(Failure.TIMEOUT, 30.0, arriving=arriving)
    assert each.saved == [100_000]


@pytest.mark.parametrize(("under_way", "has_room"), [(0, True), (262_143, True), (262_144, False)])
def test_one_more_request_begins_while_the_link_has_room(under_way: int, has_room: bool) -> None:
    window = Windows().window
    window.under_way = under_way
    assert window.has_room is has_room


def test_a_lone_request_may_always_begin() -> None:
    window = Windows().window
    window.remember(0)
    assert (window.under_way, window.has_room) == (0, True)


@dataclass
class Under:
    """A request that is under way."""

    left: float  # bytes
    until_s: float
    over: asyncio.Future[bool]


@dataclass
class SlowLink(Remote):
    """A link that all requests share in equal parts. One that misses its deadline stores nothing."""

    bytes_s: float = 20_000.0
    now_s: float = 0.0
    under: list[Under] = field(default_factory=list)
    carried: float = 0.0
    lost: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gate.clear()  # the bench takes what is under way for held

    async def send(self, request: Request, *, deadline_s: float) -> Answer:
        self.requests.append(request)
        under = Under(len(request.body) + HEAD_BYTES, self.now_s + deadline_s, asyncio.Future())
        self.under.append(under)
        self.held += 1
        self.largest = max(self.largest, self.held)
        self.pulse.set()
        arrived = await under.over
        self.held -= 1
        return self.commit(request) if arrived else Failure.TIMEOUT

    def carry(self) -> float:
        """Work until the first of them has arrived or is given up, and return the seconds that it took."""
        if not self.under:
            return 0.0
        share_s = len(self.under) / self.bytes_s
        took_s = min(*(each.left * share_s for each in self.under), *(each.until_s - self.now_s for each in self.under))
        self.now_s += took_s
        self.carried += took_s * self.bytes_s
        for each in list(self.under):
            each.left -= took_s / share_s
            if each.left < 1e-3 or each.until_s <= self.now_s:
                self.under.remove(each)
                self.lost += each.left >= 1e-3
                each.over.set_result(each.left < 1e-3)
        return took_s


async def carried(bench: Bench, link: SlowLink, rows: int) -> float:
    """Let the link work until `rows` have arrived, and return the seconds that it took."""
    began_s = bench.clock.monotonic_s()
    while len(link.inserted) < rows:
        await bench.idle()
        took_s = link.carry() or bench.clock.next_alarm_s
        bench.clock.advance(took_s)
        assert bench.clock.monotonic_s() - began_s < 3_600, "it does not finish"
    await bench.idle()
    return bench.clock.monotonic_s() - began_s


async def put(bench: Bench, rows: int) -> None:
    await bench.outbox.put_many("events", [{"n": 1_000 + number, "x": TEXT} for number in range(rows)])


@pytest.mark.slow
@pytest.mark.parametrize("bounded", [True, False], ids=["as it is", "control: without the window"])
@pytest.mark.parametrize("bytes_s", [12_000.0, 20_000.0, 60_000.0])
@run_async
async def test_a_slow_link_is_filled_and_not_overfilled(
    bytes_s: float, bounded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not bounded:
        monkeypatch.setattr(Window, "request_bytes", 1_000_000)
        monkeypatch.setattr(Window, "has_room", True)
    link = SlowLink(bytes_s=bytes_s)
    async with flushing(tmp_path, remote=link, poll_s=1) as bench:
        await put(bench, ROWS)
        took_s = await carried(bench, link, ROWS)
        worst = max(took_s * bytes_s, link.carried) / OWN_BYTES
        assert worst <= 1.3 if bounded or bytes_s > 50_000 else worst > 1.1
        assert link.largest == 4  # it is shared all the same


@run_async
async def test_what_a_very_slow_link_carries_is_remembered_across_a_restart(tmp_path: Path) -> None:
    async def lost() -> int:
        link = SlowLink(bytes_s=6_000.0)
        async with flushing(tmp_path, remote=link, poll_s=1) as bench:
            await put(bench, 1_000)
            await carried(bench, link, 1_000)
        return link.lost

    assert await lost() > 0  # the control: nobody can know before
    assert await lost() == 0
