"""Runs programs, each life in a process of its own, which its kill ends as it is.

usage: python -m tests.proof.simulation.run FIRST COUNT [CONTROL]   one line of JSON for each program
       python -m tests.proof.simulation.run --show SEED [CONTROL]   one program, told
       python -m tests.proof.simulation.run --shrink SEED [CONTROL] the least of it that fails, told
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pickle
import random
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.proof.simulation import check, controls, janitor
from tests.proof.simulation.life import Life
from tests.proof.simulation.loop import Killed, Loop, Stuck, close_doors
from tests.proof.simulation.program import Life as Plan, Program, smaller
from tests.proof.simulation.world import World

# A program of this length runs for ever.
_MOST_STEPS = 2_000_000
_SHARED_MEMORY = Path("/dev/shm")


@cache
def warm_up() -> None:
    """Live an empty life here: else each life, a fork, would import and compile anew what the library needs."""
    urandom = os.urandom
    with tempfile.TemporaryDirectory() as folder:
        _lived(World(0, random.Random(0)), _sound(), Path(folder) / "bot.db", None, last=True)
    os.urandom = urandom
    random.seed()
    gc.enable()
    gc.collect()


def play(program: Program, control: str | None = None) -> World:
    """Run `program` and return the world that it has left."""
    warm_up()
    world = World(program.seed, random.Random(f"world {program.seed}"))
    place = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None  # a sync costs nothing there
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=place) as folder:
        path = Path(folder) / "bot.db"
        for plan in program.lives:
            for what in plan.before:
                janitor.visit(world, path, what)
            world = _in_a_process(world, lambda plan=plan: plan, path, control, last=False)  # type: ignore[misc]
        world = _in_a_process(world, _sound, path, control, last=True)
        if world.must_restart:
            world.must_restart = False
            world = _in_a_process(world, _sound, path, control, last=True)
            if world.must_restart:
                world.wrong("an opening has left a file that was known to be damaged in its place")
        if not world.refused and not any(wrong.startswith(("stuck", "crashed")) for wrong in world.wrongs):
            check.judge(world, path)
    return world


def _sound() -> Plan:
    return Plan([])


def _in_a_process(world: World, plan: Callable[[], Plan], path: Path, control: str | None, *, last: bool) -> World:
    """Live one life in a fork, which the kill ends as it is, and return the world after it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        after = _lived(world, plan(), path, control, last=last)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(pickle.dumps(after))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(said)  # type: ignore[no-any-return]


def _lived(world: World, plan: Plan, path: Path, control: str | None, *, last: bool) -> World:
    gc.disable()  # finalizers would run at any step
    close_doors(world.dice)
    os.environ.update(world.environment)
    network = world.network
    if last:
        network.moods, network.bad_until_s = [], 0.0
    network.server.keep_newer = control != "no keep-newer"
    controls.break_it(control)
    loop = Loop(world.dice, now_s=world.now_s, eager=plan.eager, stalls=plan.stalls, kill_at=plan.kill_at)
    world.tell(f"--- a life from {loop.time():.3f} s: {plan.settings} killed at {plan.kill_at}")
    try:
        loop.run_until_complete(asyncio.wait_for(Life(world, plan, loop, path).run(last=last), 100_000))
    except Killed:
        world.kills += 1
        world.tell(f"{loop.time():.3f} killed at step {loop.steps}")
        for put in world.puts.values():
            put.told = "unknown" if put.told == "trying" else put.told
    except Stuck:
        waiting = sorted(str(task.get_coro()) for task in asyncio.all_tasks(loop))
        world.wrong(f"stuck: {waiting}")
    except BaseException:  # noqa: BLE001 - the process is about to end
        world.wrong(f"crashed: {traceback.format_exc()}")
    world.now_s = loop.time()
    world.steps += loop.steps
    world.digest = loop.trace.hexdigest() if not world.digest else f"{world.digest[:16]}{loop.trace.hexdigest()[:16]}"
    return world


def shrunk(program: Program, control: str | None = None, *, limit_s: float = 120.0) -> tuple[Program, World]:
    """Return a program that lacks as much of `program` as it can and still fails, and what it has left."""
    world, until_s = play(program, control), time.monotonic() + limit_s
    smallest, smallest_world, again, kinds = program, world, bool(world.wrongs), _kinds(world)
    while again:
        again = False
        for candidate in smaller(smallest):
            if time.monotonic() > until_s:
                return smallest, smallest_world
            if _kinds(found := play(candidate, control)) & kinds:
                smallest, smallest_world, again = candidate, found, True
                break
    return smallest, smallest_world


def _kinds(world: World) -> set[str]:
    """Return what is wrong without whose: the smaller program must fail in the same way."""
    return {re.sub(r"[0-9]+", "", wrong)[:60] for wrong in world.wrongs}


def told(program: Program, world: World) -> str:
    """Return a program and its story for a person."""
    lines = [
        f"seed {program.seed}",
        *map(str, program.lives),
        "",
        *world.story,
        "",
        *map("WRONG: {}".format, world.wrongs),
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run what is asked for; 1: a promise was broken."""
    *numbers, control = [*arguments, None] if len(arguments) < 3 else arguments
    if numbers[0] in ("--show", "--shrink"):
        program = controls.program(int(str(numbers[1])), control)
        program, world = shrunk(program, control) if numbers[0] == "--shrink" else (program, play(program, control))
        sys.stdout.write(told(program, world))
        return int(bool(world.wrongs))
    first, count = map(int, map(str, numbers))
    for seed in range(first, first + count):
        started_s = time.monotonic()
        world = play(controls.program(seed, control), control)
        line = {
            "seed": seed, "steps": world.steps, "kills": world.kills, "puts": len(world.puts), "trace": world.digest,
            "sent": world.network.sent, "acknowledged": sum(put.told == "acknowledged" for put in world.puts.values()),
            "longest_wait_s": round(world.longest_wait_s, 1), "wrongs": world.wrongs,
            "seconds": round(time.monotonic() - started_s, 3),
        }  # fmt: skip
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
