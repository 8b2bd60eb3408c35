"""What was changed in the file after its put, by the disk or by a hand, is not sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from outbox import Outbox, Settings
from outbox.flusher import delivery
from outbox.testing import FakeRemote
from tests.store.tools import shell
from tests.support import run_async


async def delivered(path: Path) -> tuple[FakeRemote, int]:
    """Put three trades, change the second one in the file, drain; return the remote end and the dead letters."""
    remote = FakeRemote()
    async with Outbox.open(Settings(path=path), transport=remote) as outbox:
        for number in (1, 2, 3):
            await outbox.put("trades", {"n": number})
        with shell(path) as connection:
            connection.execute("update outbox set payload = replace(payload, ':2', ':9') where seq = 2")
        report = await outbox.drain(timeout=200)
    return remote, report.dead


@run_async
async def test_a_changed_payload_is_caught_by_its_digest_and_not_sent(tmp_path: Path) -> None:
    remote, dead = await delivered(tmp_path / "bot.db")
    assert sorted(row["n"] for row in remote.rows("trades")) == [1, 3]
    assert dead == 1


@run_async
async def test_without_the_digest_the_changed_payload_would_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "sent_digests", lambda _, entries: [entry.digest for entry in entries])
    remote, dead = await delivered(tmp_path / "bot.db")
    assert sorted(row["n"] for row in remote.rows("trades")) == [1, 3, 9]
    assert dead == 0
