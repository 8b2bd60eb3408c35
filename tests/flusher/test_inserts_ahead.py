"""An upsert comes after the insert without a key that may bring its row, or what the insert says is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from outbox.store.reader import Reader
from outbox.testing import refused
from tests.flusher.bench import Bench, Remote, flushing, prefer, rows
from tests.support import run_async

NO_COLUMN = refused(400, "PGRST204", "Could not find the column")
ORPHAN = refused(409, "23503", "no parent")


def sent(bench: Bench) -> list[str]:
    """What each request did, in their order."""
    return ["merge" if "merge" in prefer(request) else "insert" for request in bench.remote.requests]


@pytest.mark.parametrize("waits", [True, False], ids=["as it is", "control: nothing is ahead"])
@pytest.mark.parametrize("by_id", [True, False], ids=["by the id of the receipt", "by columns that nobody declared"])
@run_async
async def test_an_upsert_waits_for_the_insert_of_its_row(
    by_id: bool, waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not waits:

        async def none(*_: object) -> list[tuple[int, int]]:
            return []

        monkeypatch.setattr(Reader, "inserts_ahead", none)
    async with flushing(tmp_path) as bench:
        bench.remote.hold()
        receipt = await bench.outbox.put("positions", {"ticket": 5, "symbol": "X"})
        column, value = ("id", receipt.id) if by_id else ("ticket", 5)
        await bench.outbox.put("positions", {column: value, "pnl": 1}, operation="upsert", on_conflict=(column,))
        await bench.idle()
        assert sent(bench) == (["insert"] if waits else ["insert", "merge"])
        bench.remote.release()
        await bench.idle()
        assert sent(bench) == ["insert", "merge"]
        assert (await bench.stats()).delivered == 2


@run_async
async def test_it_waits_for_no_insert_that_came_later_lacks_the_column_or_has_a_line(tmp_path: Path) -> None:
    async with flushing(tmp_path, requests_in_flight=8) as bench:
        bench.remote.hold()
        await bench.outbox.put("positions", {"symbol": "X"})
        await bench.outbox.put("positions", {"ticket": 6}, key="a line")
        await bench.outbox.put("others", {"ticket": 5})
        await bench.outbox.put("positions", {"ticket": 5}, operation="upsert", on_conflict=("ticket",))
        await bench.outbox.put("positions", {"ticket": 7})
        await bench.idle()
        assert sent(bench).count("merge") == 1


@pytest.mark.parametrize("answer", [NO_COLUMN, ORPHAN], ids=["its lane is paused", "its parent is not there"])
@run_async
async def test_an_insert_that_cannot_go_holds_no_upsert(answer: object, tmp_path: Path) -> None:
    remote = Remote(rule=lambda _, row: answer if "symbol" in row else None)  # type: ignore[arg-type,return-value]
    async with flushing(tmp_path, remote=remote) as bench:
        await bench.outbox.put("positions", {"ticket": 5, "symbol": "X"})
        await bench.outbox.put("positions", {"ticket": 5, "pnl": 1}, operation="upsert", on_conflict=("ticket",))
        await bench.until(lambda: bool(remote.merged), within_s=5)
        assert (await bench.stats()).pending == 1


@run_async
async def test_of_many_upserts_those_before_the_oldest_insert_go_on(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.hold()
        for number in range(3):
            await bench.outbox.put("positions", {"ticket": number}, operation="upsert", on_conflict=("ticket",))
        await bench.outbox.put("positions", {"ticket": 9})
        await bench.outbox.put("positions", {"ticket": 3}, operation="upsert", on_conflict=("ticket",))
        bench.remote.release()
        assert (await bench.settled()).delivered == 5
        assert [row["ticket"] for request in bench.remote.requests for row in rows(request)][-1] == 3
