"""One value says how well an outbox is: `stats`, `outbox status`, the metrics, the fleet's row and the view agree."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from outbox import Outbox, Settings
from outbox.cli.app import app
from outbox.metrics.figures import Watched
from outbox.operating import Monitor
from outbox.snapshot import Health
from outbox.testing import FakeRemote, refused
from outbox.threads import in_thread
from tests.store.tools import shell
from tests.support import run_async

NOW = "cast(unixepoch() as integer) * 1000"
PAUSE = (
    f"insert into outbox_pauses values ('destination', 'orders', 'schema', 404, 'PGRST205', 'none', 1, {NOW}, {NOW})"
)
LOSS = """insert into outbox_meta values ('loss', '{"at_ms": 1, "what": "entries are missing"}')"""


def by_shell(*statements: str) -> Callable[[Outbox, Path], Awaitable[None]]:
    async def work(_: Outbox, path: Path) -> None:
        def written() -> None:
            with shell(path) as connection:
                for statement in statements:
                    connection.execute(statement)

        await in_thread(written)

    return work


async def nothing(_outbox: Outbox, _path: Path) -> None:
    pass


async def a_refusal(outbox: Outbox, _: Path) -> None:
    await outbox.put("fills", {"volume": 13})
    await outbox.drain()


async def nobody_sends(outbox: Outbox, _: Path) -> None:
    await outbox.put("fills", {"volume": 1})


async def a_second_name(outbox: Outbox, path: Path) -> None:
    await in_thread(os.link, path, path.with_name("copy.db"))
    assert outbox._maintenance is not None
    await outbox._maintenance._maintain()


@pytest.mark.parametrize(
    ("trouble", "health"),
    [
        pytest.param(nothing, Health.HEALTHY, id="nothing"),
        pytest.param(a_refusal, Health.DEAD_LETTERS, id="a refusal"),
        pytest.param(a_second_name, Health.HINDERED, id="a second name"),
        pytest.param(by_shell(PAUSE), Health.STALLED, id="a pause"),
        pytest.param(nobody_sends, Health.STALLED, id="no flusher"),
        pytest.param(by_shell(PAUSE, LOSS), Health.DAMAGED, id="a loss, and a pause"),
    ],
)
@run_async
async def test_all_reports_of_health_agree(
    tmp_path: Path, trouble: Callable[[Outbox, Path], Awaitable[None]], health: Health
) -> None:
    path = tmp_path / "bot.db"
    remote = FakeRemote(rule=lambda _, row: refused(400, "23514") if row.get("volume") == 13 else None)
    async with Outbox.open(Settings(path=path, source="b", _env_file=None), transport=remote) as outbox:
        await trouble(outbox, path)
        assert await told(outbox, path) == told_alike(health, unseen=trouble is nobody_sends)


@run_async
async def test_a_file_that_was_set_aside_is_seen_everywhere_until_it_is_dealt_with(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with Outbox.open(Settings(path=path, source="b", _env_file=None), transport=FakeRemote()) as outbox:
        await outbox.put("fills", {"volume": 1})
        await outbox.drain()
    path.write_bytes(b"x" * 4096 + path.read_bytes()[4096:])
    async with Outbox.open(Settings(path=path, source="b", _env_file=None), transport=FakeRemote()) as outbox:
        assert await told(outbox, path) == told_alike(Health.DAMAGED)
    for each in list(tmp_path.glob("*.corrupt-*")):  # noqa: ASYNC240 - nothing else runs
        each.unlink()
    async with Outbox.open(Settings(path=path, source="b", _env_file=None), transport=FakeRemote()) as outbox:
        assert await told(outbox, path) == told_alike(Health.HEALTHY)


async def told(outbox: Outbox, path: Path) -> dict[str, Any]:
    """What each of the five says."""
    report = await outbox._reporter._taken(stopped=True)
    assert report is not None
    (view,) = await outbox._store.read("select health from v_health")
    status = await in_thread(lambda: CliRunner().invoke(app, ["status", "--json", "--path", str(path)]).stdout)
    return {
        "stats": (await outbox.stats()).health.words,
        "status": json.loads(status)["health"],
        "metrics": (await in_thread(Watched("b", Monitor(outbox)).health)).words,
        "fleet": report.health,
        "view": view[0],
    }


def told_alike(health: Health, *, unseen: bool = False) -> dict[str, Any]:
    """What they should say. unseen: the file does not know it, and so its view does not."""
    every = dict.fromkeys(("stats", "status", "metrics", "fleet", "view"), health.words)
    return every | ({"view": "healthy"} if unseen else {})
