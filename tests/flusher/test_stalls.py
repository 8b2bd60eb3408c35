"""Nothing that could go stays where it is: lost wake-ups, flushers that come and go, rows that become ready behind."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from outbox import Outbox, Settings
from outbox.errors import UsageError
from outbox.flusher.scheduler import Lanes
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.testing import FakeRemote, refused
from tests.flusher.bench import Clock, Remote, flushing, opened, table
from tests.store.tools import shell
from tests.support import run_async

LONG = 1_000_000


async def comes(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds."""
    async with asyncio.timeout(200):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


async def over(task: asyncio.Task[Any]) -> None:
    """Return when `task` has ended; how it ended does not matter here."""
    async with asyncio.timeout(200):
        await asyncio.wait({task})


# ------------------------------------------------------------------------------------------ a look cut short


@run_async
async def test_a_drain_after_a_block_that_ended_at_once_sends(tmp_path: Path) -> None:
    """The block's flusher was told to stop in the middle of its first look; the next one looks again."""
    for number in range(10):
        remote = FakeRemote()
        async with Outbox.open(path=tmp_path / f"{number}.db", transport=remote) as outbox:
            async with outbox.flushing():
                await outbox.put("events", {"n": number})
            report = await outbox.drain(200)
            assert (report.pending, report.timed_out) == (0, False)


@run_async
async def test_a_look_that_failed_is_repeated_although_nothing_was_committed_since(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        ready_lanes, failures = bench.store.ready_lanes, [OSError("simulated")]

        async def failing_once() -> Any:
            if failures:
                raise failures.pop()
            return await ready_lanes()

        bench.store.ready_lanes = failing_once  # type: ignore[method-assign]
        await bench.put_many(1)
        await bench.settled(within_s=10)


@run_async
async def test_a_reload_sends_also_if_the_pause_never_got_into_the_file(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = refused(401, "PGRST301", "bad key")
        save, failures = bench.store.save_pause, [OSError("simulated")]

        async def failing_once(pause: Any) -> None:
            if failures:
                raise failures.pop()
            await save(pause)

        bench.store.save_pause = failing_once  # type: ignore[method-assign]
        await bench.put_many(1)
        await bench.live(5)
        bench.remote.otherwise = bench.remote.commit
        await bench.outbox.reload()
        await bench.settled(within_s=10)


@run_async
async def test_requests_that_fail_at_once_in_two_lanes_do_not_take_turns_without_a_rest(tmp_path: Path) -> None:
    @dataclass
    class Broken(Remote):
        sent: int = 0

        async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
            self.sent += 1
            raise RuntimeError("simulated")

    remote = Broken()
    async with flushing(tmp_path, remote=remote) as bench:
        await asyncio.gather(bench.put_many(1, "events"), bench.put_many(1, "trades"))
        await bench.live(10)
        assert 2 <= remote.sent < 60


# ------------------------------------------------------------------------------------------ flushers come and go


@run_async
async def test_a_drain_after_a_cancelled_flusher_sends_by_itself(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        bench.remote.gate.clear()
        await bench.put_many(3)
        task = asyncio.create_task(bench.outbox.run_flusher())
        await bench.idle()
        task.cancel()
        bench.remote.gate.set()
        report = await bench.outbox.drain(LONG)
        assert (report.delivered, report.pending) == (3, 0)
        await over(task)


@run_async
async def test_a_drain_goes_on_by_itself_when_the_flusher_that_it_joined_is_cancelled(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        task = asyncio.create_task(bench.outbox.run_flusher())
        bench.remote.gate.clear()
        await bench.put_many(3)
        drain = asyncio.create_task(bench.outbox.drain(LONG))
        await bench.idle()
        task.cancel()
        await over(task)
        bench.remote.gate.set()
        await over(drain)
        assert (drain.result().delivered, drain.result().pending) == (3, 0)


@pytest.mark.parametrize("what", ["drain", "run_flusher"])
@run_async
async def test_what_begins_while_a_drain_ends_takes_over(what: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        bench.remote.gate.clear()
        await bench.put_many(3)
        shut_down, next_one = bench.flusher.shut_down, list[asyncio.Task[Any]]()

        async def shut_down_beside(grace_s: float) -> None:
            if not next_one:
                bench.remote.gate.set()
                work = bench.outbox.drain(LONG) if what == "drain" else bench.outbox.run_flusher()
                next_one.append(asyncio.create_task(work))
                await asyncio.sleep(0)
            await shut_down(grace_s)

        bench.flusher.shut_down = shut_down_beside
        first = asyncio.create_task(bench.outbox.drain(5))
        await bench.idle()
        bench.clock.advance(6)
        await over(first)
        assert first.result().timed_out
        if what == "drain":
            await over(next_one[0])
            assert next_one[0].result().pending == 0
        else:
            await bench.settled()
            assert not next_one[0].done()


@run_async
async def test_a_flushing_block_ends_while_another_drain_is_running(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        bench.remote.otherwise = Failure.UNREACHABLE
        await bench.put_many(1)
        drain = asyncio.create_task(bench.outbox.drain(LONG))
        await bench.idle()
        async with asyncio.timeout(200), bench.outbox.flushing():
            await asyncio.sleep(0)
        assert not drain.done()
        bench.remote.otherwise = bench.remote.commit
        assert (await bench.ended(drain)).pending == 0


@run_async
async def test_a_block_inside_another_one_is_refused_and_leaves_that_ones_flusher_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench, bench.outbox.flushing():
        with pytest.raises(UsageError, match="running already"):
            async with bench.outbox.flushing():
                pass
        await bench.put_many(2)
        await bench.settled()


@run_async
async def test_a_close_whose_every_task_is_cancelled_still_lets_go_of_the_file(tmp_path: Path) -> None:
    remote = FakeRemote()
    remote.hold()
    settings = Settings(path=tmp_path / "bot.db", _env_file=None)
    outbox = await Outbox.open(settings, transport=remote)
    flusher = asyncio.create_task(outbox.run_flusher())
    await outbox.put("events", {"n": 1})
    await comes(lambda: bool(remote.requests))
    closing = asyncio.create_task(outbox.close())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await over(closing)
    await over(flusher)

    async with Outbox.open(settings, transport=FakeRemote()) as again:
        assert (await again.stats()).pending == 1


# ------------------------------------------------------------------------------------------ rows behind the others


@run_async
async def test_a_put_does_not_overtake_what_a_shell_has_put_before_however_much_that_is(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        with shell(bench.path) as connection:
            connection.execute("begin")
            for number in range(500):
                sql = "insert into outbox (destination, payload) values ('events', json_object('n', ?))"
                connection.execute(sql, (number,))
            connection.execute(
                "insert into outbox (destination, operation, on_conflict, payload)"
                " values ('orders', 'upsert', 'id', json_object('id', 1, 'v', 'older'))"
            )
            connection.execute("commit")
        await bench.outbox.put("orders", {"id": 1, "v": "newer"}, operation="upsert", on_conflict=("id",))
        await bench.outbox.drain()
        assert [row["v"] for row in bench.remote.rows("orders")] == ["newer"]


@pytest.mark.parametrize("looks", [True, False], ids=["as it is", "control: it does not look behind"])
@run_async
async def test_a_requeued_entry_does_not_wait_until_its_busy_lane_rests(
    looks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not looks:
        monkeypatch.setattr(Lanes, "rewind_for_older", lambda *_: None)
    async with flushing(tmp_path, batch_rows=1, requests_in_flight=2) as bench:
        bench.remote.otherwise = refused(400, "22000", "no")
        (refused_id,) = await bench.put_many(1)
        await bench.idle()
        bench.remote.otherwise = bench.remote.commit
        first, second = asyncio.Event(), asyncio.Event()
        gates, sent = [first, second], list[str]()

        async def one_at_a_time(request: Request, *, deadline_s: float) -> Any:
            sent.append(json.loads(request.body)[0]["id"] if b"[" in request.body else json.loads(request.body)["id"])
            if gates:
                await gates.pop(0).wait()
            return bench.remote.commit(request)

        monkeypatch.setattr(bench.remote, "send", one_at_a_time)
        # Two are under way; as one of them ends, a third is ready, and the requeued one is older than all.
        await bench.put_many(2)
        await comes(lambda: len(sent) == 2)
        await bench.outbox.requeue([refused_id])
        await bench.put_many(1)
        first.set()
        await comes(lambda: len(sent) == 3)  # chosen while the second is under way: the lane does not rest
        second.set()
        await bench.settled()
        assert (sent[2] == refused_id) is looks


# ------------------------------------------------------------------------------------------ pauses


@dataclass
class Tables(Remote):
    """A project that answers each table when it is let."""

    project: str = "abc"
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    cut_off: frozenset[str] = frozenset()

    async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
        name = table(request)
        self.requests.append(request)
        await self.gates[name].wait()
        return Failure.UNREACHABLE if name in self.cut_off else self.commit(request)


@run_async
async def test_two_first_answers_end_one_pause(tmp_path: Path) -> None:
    """Learning the project takes a commit; meanwhile the other answer has ended the pause."""
    remote = Tables(gates={name: asyncio.Event() for name in "abc"}, cut_off=frozenset("a"))
    async with flushing(tmp_path, remote=remote) as bench:
        for name in "abc":
            await bench.outbox.put(name, {"n": 1})
        await comes(lambda: len(remote.requests) == 3)
        remote.gates["a"].set()
        await comes(lambda: bool(bench.flusher.pauses._paused))
        remote.cut_off = frozenset()
        remote.gates["b"].set()
        remote.gates["c"].set()
        await bench.settled()
        assert len(remote.requests) == 4  # nothing that was delivered was sent again


@run_async
async def test_an_answer_to_what_was_sent_before_a_limit_was_met_does_not_end_its_pause(tmp_path: Path) -> None:
    limited = Reply(429, {"retry-after": "60"}, b"")

    class Limited(Remote):
        async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
            self.requests.append(request)
            if len(self.requests) == 4:  # the others are under way
                return limited
            await self.gate.wait()
            return self.commit(request)

    remote, clock = Limited(), Clock()
    remote.gate.clear()
    async with flushing(tmp_path, remote=remote, clock=clock, batch_rows=1) as bench:
        await bench.put_many(20)
        await comes(lambda: bool(bench.flusher.pauses._paused))
        before = len(remote.requests)
        remote.gate.set()
        await bench.live(30)
        assert len(remote.requests) == before == 4
        await bench.settled()


@run_async
async def test_a_refusal_that_is_being_written_down_when_the_time_is_up_is_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        bench.remote.otherwise = refused(400, "22000", "no")
        settle = bench.store.settle

        async def settle_late(*args: Any, **more: Any) -> None:
            await settle(*args, **more)
            bench.clock.advance(10)
            await asyncio.wait(bench.flusher.requests._tasks)

        bench.store.settle = settle_late  # type: ignore[method-assign]
        await bench.put_many(1)
        report = await bench.outbox.drain(5)
        assert (report.dead, bench.flusher.tally.rejected["events"]) == (1, 1)
        with closing(sqlite3.connect(bench.path)) as connection:
            assert connection.execute("select state from outbox").fetchall() == [("dead",)]
