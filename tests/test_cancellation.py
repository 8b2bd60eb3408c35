"""A thousand tasks are cancelled, timed out and broken around put, transaction() and drain: nothing tears."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
from pathlib import Path

import pytest

from outbox import Outbox, OutboxError, Settings
from outbox.testing import FakeRemote
from tests.store.tools import python, rows
from tests.support import cancelled_at, run_async

TASKS = 1000


class Broken(Exception):
    """What a bot's own code raises in the middle of a block."""


async def one(outbox: Outbox, number: int, dice: random.Random, acknowledged: set[str], never: set[str]) -> None:
    """Do one thing; note its id under `acknowledged` once it is durable, under `never` if it cannot have been."""
    name = f"id-{number}"
    match dice.randrange(4):
        case 0:
            await outbox.put("fills", {"n": number}, id=name)
            acknowledged.add(name)
        case 1:
            async with outbox.transaction() as tx:
                await tx.put("fills", {"n": number}, id=name)
                await asyncio.sleep(0)
            acknowledged.add(name)
        case 2:
            never.add(name)
            async with outbox.transaction() as tx:
                await tx.put("fills", {"n": number}, id=name)
                raise Broken
        case _:
            await outbox.drain(timeout=0.01)


async def storm(path: Path, seed: int) -> tuple[set[str], set[str]]:
    dice = random.Random(seed)
    acknowledged: set[str] = set()
    never: set[str] = set()
    async with Outbox.open(Settings(path=path), transport=FakeRemote()) as outbox:

        async def bounded(number: int) -> None:
            with contextlib.suppress(Broken, TimeoutError, OutboxError):
                async with asyncio.timeout(dice.choice((None, None, 0.0, 0.001, 0.05))):
                    await one(outbox, number, dice, acknowledged, never)

        tasks = [asyncio.create_task(bounded(number)) for number in range(TASKS)]
        for task in dice.sample(tasks, TASKS // 3):
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await outbox.put("fills", {"n": -1}, id="last")  # the writer is free: no transaction was left open
        assert not outbox._store.writer.commits.connection.in_transaction
    return acknowledged | {"last"}, never


@pytest.mark.parametrize("seed", [1, 2])
@run_async
async def test_whatever_is_cancelled_every_acknowledged_row_is_stored_and_no_broken_one(
    seed: int, tmp_path: Path
) -> None:
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    acknowledged, never = await storm(tmp_path / "bot.db", seed)

    stored = {str(name) for (name,) in rows(tmp_path / "bot.db", "select id from outbox")}
    assert len(acknowledged) > 100 and len(never) > 50, "the storm did not do what it should"
    assert acknowledged - stored == set()
    assert never & stored == set()
    assert asyncio.all_tasks() == tasks
    left = [each for each in threading.enumerate() if each not in threads and not each.name.startswith("asyncio_")]
    for each in left:  # one that has answered may have an instruction or two before it, and nobody to wait for
        each.join(timeout=100)
    assert [each for each in left if each.is_alive()] == []


@run_async
async def test_a_bot_that_notes_a_row_before_its_put_returns_is_detected(tmp_path: Path) -> None:
    """The control: "acknowledged" must mean that the put has returned."""
    noted = set()
    async with Outbox.open(Settings(path=tmp_path / "bot.db")) as outbox:
        for number in range(20):
            noted.add(f"id-{number}")
            task = asyncio.create_task(outbox.put("fills", {"n": number}, id=f"id-{number}"))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    stored = {str(name) for (name,) in rows(tmp_path / "bot.db", "select id from outbox")}
    assert noted - stored


FORGOTTEN = """
import asyncio, sys
from outbox import Outbox, Settings

async def main():
    outbox = await Outbox.open(Settings(path=sys.argv[1]))
    await outbox.put("fills", {"n": 1})
    asyncio.create_task(outbox.run_flusher())
    await asyncio.sleep(0)

asyncio.run(main())
print("ends")
"""


def test_the_interpreter_exits_although_close_was_forgotten_and_warns(tmp_path: Path) -> None:
    code = f"import warnings; warnings.simplefilter('always')\n{FORGOTTEN}"
    with python(code, str(tmp_path / "bot.db")) as process:
        out, err = process.communicate(timeout=100)
    assert (out, process.returncode) == ("ends\n", 0), err
    assert "was never closed" in err
    assert rows(tmp_path / "bot.db", "select count(*) from outbox") == [(1,)]


# ------------------------------------------------------------------------------------------ opening and closing


async def life(path: Path) -> None:
    async with Outbox.open(Settings(path=path, _env_file=None)) as outbox:
        await outbox.put("events", {"n": 1})


@run_async
async def test_whatever_step_of_a_short_life_is_cancelled_the_next_one_may_begin_at_once(tmp_path: Path) -> None:
    for step in itertools.count():
        path = tmp_path / f"{step}.db"  # a new one: its making is cancelled too
        reached = await cancelled_at(life(path), step)
        await life(path)
        assert rows(path, "pragma integrity_check") == [("ok",)]
        if not reached:
            break
    assert step > 5  # in finding the file, locking it, opening it, putting, closing
