"""Random programs against the real library under a scheduler, a network and a remote end that one seed decides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from environment import ROOT

from tests.proof.counts import reached
from tests.proof.simulation import controls

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a life is a fork")
# At 0.3 CPU seconds each, in two processes; scripts/soak runs more.
PROGRAMS = 300


def run(*arguments: str, hash_seed: str = "0") -> Iterator[dict[str, Any]]:
    """Run programs in a process of their own and yield what each has left."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-m", "tests.proof.simulation.run", *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                yield json.loads(line)
        finally:
            process.kill()


def failed(results: Sequence[dict[str, Any]]) -> list[tuple[int, list[str]]]:
    return [(each["seed"], each["wrongs"]) for each in results if each["wrongs"]]


def test_no_program_of_puts_faults_and_kills_breaks_a_promise() -> None:
    half = PROGRAMS // 2
    with ThreadPoolExecutor() as pool:
        halves = pool.map(lambda first: list(run(str(first), str(half))), (0, half))
    results = [each for part in halves for each in part]
    assert len(results) == PROGRAMS
    assert failed(results) == [], "python -m tests.proof.simulation.run --show SEED tells the story"
    # They have not passed by doing nothing, nor because their rows were refused.
    assert sum(each["acknowledged"] for each in results) > 0.6 * sum(each["puts"] for each in results)
    assert sum(each["kills"] for each in results) > PROGRAMS / 4
    assert sum(each["sent"] for each in results) > 10 * PROGRAMS
    reached("programs", len(results))
    reached("steps", sum(each["steps"] for each in results))


def test_the_same_seed_takes_the_same_steps_in_another_process() -> None:
    one, other = ([each["trace"] for each in run("0", "5", hash_seed=hash_seed)] for hash_seed in "12")
    assert one == other
    assert len(set(one)) == 5


@pytest.mark.parametrize(("control", "seed"), controls.NAMES.items())
def test_control_without_this_protection_a_program_fails(control: str, seed: int) -> None:
    found = (wrong for each in run(str(seed), "5", control) for wrong in each["wrongs"])
    assert any(not wrong.startswith(("stuck", "crashed")) for wrong in found)
