"""A slow uplink: what is under way at once fits through it within the deadline."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from outbox.flusher.window import Window
from outbox.postgrest.client import Request
from outbox.testing import Answer, Failure
from tests.flusher.bench import Bench, Remote, flushing
from tests.support import run_async

ROWS, TEXT = 6_000, "x" * 379  # payloads of 400 bytes
HEAD_BYTES = 500  # of a request, beside its body
OWN_BYTES = ROWS * (400 + len('"id":"",,') + 36)


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
    async with flushing(tmp_path, remote=link) as bench:
        await put(bench, ROWS)
        took_s = await carried(bench, link, ROWS)
        worst = max(took_s * bytes_s, link.carried) / OWN_BYTES
        assert worst <= 1.3 if bounded or bytes_s > 50_000 else worst > 1.1
        assert link.largest == 4  # it is shared all the same


@run_async
async def test_what_a_very_slow_link_carries_is_remembered_across_a_restart(tmp_path: Path) -> None:
    async def lost() -> int:
        link = SlowLink(bytes_s=6_000.0)
        async with flushing(tmp_path, remote=link) as bench:
            await put(bench, 1_000)
            await carried(bench, link, 1_000)
        return link.lost

    assert await lost() > 0  # the control: nobody can know before
    assert await lost() == 0
