"""A bot that puts without a pause goes first, and still everything arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from outbox.flusher import backoff
from outbox.flusher.in_flight import Requests
from tests.flusher.bench import Bench, flushing
from tests.support import run_async

TASKS, REQUESTS, BATCH = 64, 5, 50
# A request carries whatever is ready: without courtesy that is all that was put since the last one began.
WHOLE: dict[str, Any] = {"batch_rows": 10_000, "requests_in_flight": 1}

Begun = tuple[int, int]  # of a request: the newest entry as it began, and how many rows it carries


def noted(monkeypatch: pytest.MonkeyPatch) -> list[Begun]:
    """Return a list that grows with each request that begins."""
    begun, start = list[Begun](), Requests.start

    def noting(self: Requests, work: Coroutine[Any, Any, None], shares: Any) -> None:
        start(self, work, shares)
        begun.append((self._began_seq, self._began_rows))

    monkeypatch.setattr(Requests, "start", noting)
    return begun


def is_courteous(begun: Sequence[Begun]) -> bool:
    """Return whether before each request so many puts came for each row of the one before it."""
    return all(later - earlier >= backoff.PUTS_FOR_A_ROW * rows for (earlier, rows), (later, _) in pairwise(begun))


async def put_flat_out(bench: Bench, enough: Callable[[], bool]) -> None:
    """Let many tasks put and do nothing else, until it is enough: on a slow disk too that takes its time."""

    async def one() -> None:
        while not enough():
            await bench.outbox.put("events", {"n": 1})

    await asyncio.gather(*(one() for _ in range(TASKS)))


@run_async
async def test_while_puts_follow_one_another_one_row_is_sent_for_two_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with flushing(tmp_path, **WHOLE) as bench:
        begun = noted(monkeypatch)
        await put_flat_out(bench, lambda: len(begun) >= REQUESTS)  # they go first, and it goes on all the same

        assert is_courteous(begun[:REQUESTS])
        stats = await bench.settled()
        assert len(bench.remote.inserted) == stats.delivered


@run_async
async def test_control_a_flusher_without_courtesy_sends_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each request would carry twice as much as the one before, on and on."""
    monkeypatch.setattr(backoff, "throttle_s", lambda **_: 0.0)
    async with flushing(tmp_path, **WHOLE) as bench:
        begun = noted(monkeypatch)
        await put_flat_out(bench, lambda: not is_courteous(begun))  # at the third request, mostly
        await bench.settled()


@run_async
async def test_while_puts_fail_without_a_pause_it_goes_on_after_half_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk, where only what is sent makes room for them."""
    async with flushing(tmp_path, batch_rows=BATCH, requests_in_flight=1) as bench:
        monkeypatch.setattr(type(bench.store.writer), "putting", True)
        await bench.put_many(4 * BATCH)
        await bench.idle()
        before = sum(bench.remote.sizes)
        assert before < 4 * BATCH

        await bench.live(backoff.LONGEST_THROTTLE_S)
        assert sum(bench.remote.sizes) > before
        await bench.settled()
