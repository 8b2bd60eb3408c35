"""A bot that puts without a pause goes first, and still everything arrives."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from outbox.flusher import backoff
from tests.flusher.bench import Bench, flushing
from tests.support import run_async

TASKS, PUTS, BATCH = 64, 40, 50


async def put_flat_out(bench: Bench) -> tuple[int, int]:
    """Let many tasks put and do nothing else; return how many rows were put, and sent meanwhile."""

    async def one() -> None:
        for number in range(PUTS):
            await bench.outbox.put("events", {"n": number})

    await asyncio.gather(*(one() for _ in range(TASKS)))
    return TASKS * PUTS, sum(bench.remote.sizes)


@run_async
async def test_while_puts_follow_one_another_one_row_is_sent_for_two_of_them(tmp_path: Path) -> None:
    async with flushing(tmp_path, batch_rows=BATCH) as bench:
        put, sent = await put_flat_out(bench)

        assert put / 10 < sent <= put / backoff.PUTS_FOR_A_ROW + BATCH  # the first depends on the disk
        await bench.settled()
        assert len(bench.remote.inserted) == put


@run_async
async def test_control_a_flusher_without_courtesy_sends_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "throttle_s", lambda **_: 0.0)
    async with flushing(tmp_path, batch_rows=BATCH) as bench:
        put, sent = await put_flat_out(bench)

        assert sent > put / backoff.PUTS_FOR_A_ROW + BATCH


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
