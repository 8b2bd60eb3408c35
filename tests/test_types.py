"""What a type checker sees of the public names: the recipe passes, a typo does not; for threads as for asyncio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doc_blocks import blocks_of

ROOT = Path(__file__).parents[1]
PYRIGHT = Path(sys.executable).with_name("basedpyright")
(RECIPE,) = [block.text for block in blocks_of(ROOT / "docs" / "durability.md") if "stop_on_signals" in block.text]

RIGHT = """
from concurrent.futures import Future
from typing import assert_type

from outbox import BlockingOutbox, Destination, FlusherState, Outbox, PutFuture, Receipt, Rows, Settings, Stats
from outbox import StoredPause
from outbox.blocking import LocalStorage, SessionManager, SupabaseClient, TradeLogger


class Price:
    pass


async def use(outbox: Outbox) -> None:
    assert_type(await outbox.put("trades", {"n": 1}, operation="upsert", on_conflict=("n",)), Receipt)
    outbox.register_type(Price, str)
    assert_type(outbox.put_nowait("trades", {"n": 1}), PutFuture)
    assert_type(outbox.destination("trades"), Destination)
    stats = await outbox.stats()
    assert_type(stats.flusher, FlusherState)
    assert_type(stats.pauses, tuple[StoredPause, ...])
    await (await Outbox.open(path="bot.db", destinations=[Destination("orders", key="order_id")])).close()


assert_type(BlockingOutbox.open(Settings(), wait_s=1.0), BlockingOutbox)
with BlockingOutbox(path="bot.db", call_timeout_s=5.0) as outbox:
    assert_type(outbox, BlockingOutbox)
    assert_type(outbox.put("trades", {"n": 1}, operation="update", match={"n": 2}), Receipt)
    future: Future[Receipt] = outbox.put_nowait("trades", {"n": 1})
    assert_type(outbox.stats(), Stats)
    assert_type(outbox.has_remote, bool)
    outbox.drain(timeout=3)
    with outbox.transaction(limit_s=1.0) as tx:
        assert_type(tx.put("trades", {"n": 1}), Receipt)
        TradeLogger(outbox, "s-1", round_pnl=2).log_real_trade({"symbol": "EURUSD"}, tx=tx)
        SessionManager(outbox).update_heartbeat(1.0, tx=tx)
    assert_type(SessionManager(outbox, source="a").start_session(1.0, ["EURUSD"]), str)
    assert_type(SessionManager(outbox).symbols, list[str])
    assert_type(SupabaseClient(outbox).query("trades", limit=1), Rows)
    for row in SupabaseClient(outbox).rows("trades"):
        print(row["id"])
    assert_type(LocalStorage(outbox).cache_bars("EURUSD", [{"time": 1.0}], "H1"), int)
"""

SET_UP = "from outbox import BlockingOutbox, Outbox, Settings\nfrom outbox.blocking import TradeLogger\n"
WRONG = {
    "a typo in the operation": """async def a(outbox: Outbox) -> None:
    await outbox.put('trades', {}, operation='upsrt')""",
    "a typo in an option": """async def b(outbox: Outbox) -> None:
    await outbox.put('trades', {}, opration='insert')""",
    "swapped": """async def c(outbox: Outbox) -> None:
    await outbox.put({'n': 1}, 'trades')""",
    "a coroutine that is not awaited": """async def d(outbox: Outbox) -> None:
    outbox.put('trades', {}).id""",
    "a typo for threads": "BlockingOutbox().put('trades', {}, operation='upsrt')",
    "a typo in a transaction": """with BlockingOutbox().transaction() as tx:
    tx.put('trades', {}, operation='upsrt')""",
    "a typo in a twin": "TradeLogger(BlockingOutbox(), 's').log_real_trade({}, tx=1)",
    "a typo at opening": "BlockingOutbox.open(pat='bot.db')",
    "a typo in a setting": "Settings(pathh='bot.db')",
    "a setting of another type": "Settings(batch_rows='many')",
    "a tuple of a receipt": "receipt: tuple[str, int, bool] = BlockingOutbox().put('trades', {})",
}


def complaints(folder: Path, code: str) -> list[str]:
    """Return what mypy says of a bot's own file, with everything on."""
    (folder / "bot.py").write_text(code, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        f"--cache-dir={ROOT / '.mypy_cache'}",
        "bot.py",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode in (0, 1), done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


@pytest.mark.parametrize(
    "code", [pytest.param(RECIPE, id="the clean stop"), pytest.param(RIGHT, id="every kind of call")]
)
def test_a_bot_that_is_right_passes_with_everything_on(code: str, tmp_path: Path) -> None:
    assert complaints(tmp_path, code) == []


def completeness(package: str, folder: Path) -> tuple[float, list[str]]:
    """Return how many of a package's public symbols have a known type, and which have not: what editors go by."""
    command = [
        str(PYRIGHT),
        "--pythonpath",
        sys.executable,
        "--verifytypes",
        package,
        "--ignoreexternal",
        "--outputjson",
    ]
    path = f"{PYRIGHT.parent}{os.pathsep}{folder}"  # it asks the first Python on PATH where packages are
    there = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=800, check=False, env=there)
    report = json.loads(done.stdout)["typeCompleteness"]
    unknown = [each["name"] for each in report["symbols"] if each["isExported"] and not each["isTypeKnown"]]
    return report["completenessScore"], unknown


@pytest.mark.slow
def test_every_public_symbol_has_a_type_that_all_checkers_read_alike(tmp_path: Path) -> None:
    assert completeness("outbox", tmp_path) == (1.0, [])


def test_a_symbol_without_an_annotation_is_counted(tmp_path: Path) -> None:
    (tmp_path / "partly").mkdir()
    (tmp_path / "partly" / "py.typed").touch()
    (tmp_path / "partly" / "__init__.py").write_text("import json\n\nfound = json.loads('1')\n", encoding="utf-8")
    score, unknown = completeness("partly", tmp_path)
    assert unknown == ["partly.found"]
    assert score < 1.0


def test_each_mistake_is_seen(tmp_path: Path) -> None:
    lines = SET_UP.count("\n")
    code, places = SET_UP, {}
    for what, mistake in WRONG.items():
        code += mistake + "\n"
        lines += mistake.count("\n") + 1
        places[lines] = what
    seen = {int(line.split(":")[1]) for line in complaints(tmp_path, code)}
    assert [what for line, what in places.items() if line not in seen] == []
