"""The demo is the main job: it must end well, and it must be able to end badly."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DEMO = Path(__file__).parents[1] / "scripts" / "demo"


def test_two_kills_and_an_outage_lose_nothing_and_double_nothing() -> None:
    done = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True, encoding="utf-8", timeout=800)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kill -9") >= 2
    rows = [
        line.replace("│", " ").replace(",", "").split() for line in done.stdout.splitlines() if line.startswith("│")
    ]
    found = {name: [int(number) for number in numbers] for name, *numbers in rows}
    assert set(found) == {"sessions", "events", "trades"}
    assert all(numbers[3:] == [0, 0] for numbers in found.values())
    assert found["events"][2] == 5000
    assert all(numbers[0] + numbers[1] == numbers[2] for numbers in found.values())


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_ctrl_c_ends_it_with_its_bot_and_its_remote_end() -> None:
    with subprocess.Popen(
        [sys.executable, str(DEMO)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if "kill -9" in line:
                break
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
        rest, complaints = process.stdout.read(), process.stderr.read()

    assert (process.returncode, "stopped" in rest, "Traceback" in complaints) == (130, True, False), complaints
    with pytest.raises(ProcessLookupError):
        while True:  # what has ended goes with its last parent; the test's own time limit bounds it
            os.killpg(process.pid, 0)
            time.sleep(0.01)


def load() -> ModuleType:
    """Import scripts/demo without running it; it is in its environment already."""
    loader = importlib.machinery.SourceFileLoader("demo", str(DEMO))
    spec = importlib.util.spec_from_loader("demo", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Story:
    """What a bot acknowledged."""

    def __init__(self) -> None:
        self.acknowledged = {"sessions": {"s"}, "events": {"1", "2"}, "trades": {"1"}}


@pytest.mark.parametrize(
    ("events", "code"),
    [
        pytest.param(Counter({"1": 1, "2": 1}), 0, id="all of them, once"),
        pytest.param(Counter({"1": 1, "2": 1, "3": 1}), 0, id="one more than was acknowledged"),
        pytest.param(Counter({"1": 1}), 1, id="one is missing"),
        pytest.param(Counter({"1": 1, "2": 2}), 1, id="one is there twice"),
    ],
)
def test_the_report_fails_for_a_missing_row_and_for_a_second_one(
    events: Counter[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = load()
    remote: dict[str, Counter[str]] = {"sessions": Counter(["s"]), "events": events, "trades": Counter(["1"])}
    fetch: Callable[[Any, str], Counter[str]] = lambda _, table: remote[table]  # noqa: E731
    monkeypatch.setattr(demo, "fetch", fetch)

    assert demo.report(Story(), None, 1.0) == code
