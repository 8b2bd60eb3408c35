"""The file remembers its project, against a real server: its rows are counted by SQL."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from supabase_lite import SupabaseLite

from outbox import Outbox, Settings
from outbox.postgrest.client import PostgrestTransport, project_of
from outbox.testing import FakeRemote
from tests.support import run_async

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows does not connect to 0.0.0.0")


@dataclass
class Before(FakeRemote):
    """The project that the file belonged to."""

    project: str = "before"


@run_async
async def test_a_real_project_gets_no_row_that_belongs_to_another_one(
    tmp_path: Path, clean_remote: SupabaseLite, sql: psycopg.Connection[Any]
) -> None:
    def count(table: str = "events") -> int:
        ((number,),) = sql.execute(f"select count(*) from {table}").fetchall()
        return int(number)

    path, event = tmp_path / "bot.db", {"event_type": "X", "timestamp": "2026-01-02T10:00:00Z"}
    async with Outbox.open(Settings(path=path, _env_file=None), transport=Before()) as outbox:
        await outbox.put("events", event)
        await outbox.drain(timeout=200)
    # This machine by a name that is none of its own: not excepted from the check.
    url = clean_remote.url.replace("127.0.0.1", "0.0.0.0").replace("localhost", "0.0.0.0")
    changed = Settings(
        path=path, supabase_url=url, supabase_key=clean_remote.secret_key, allow_insecure=True, _env_file=None
    )
    async with Outbox.open(changed) as outbox, outbox.flushing():
        await outbox.put("events", event)
        report = await outbox.drain(timeout=200)
        assert (report.pending, count(), count("outbox_health")) == (1, 0, 0)
        assert (await outbox.stats()).paused == "other_project"

        assert await outbox.adopt() == "before"
        assert (await outbox.drain(timeout=200)).pending == 0
        assert count() == 1
        assert await outbox.adopt() == url.removeprefix("http://")


@run_async
async def test_another_key_is_no_other_project() -> None:
    transports = [PostgrestTransport("https://abc.supabase.co/rest/v1", key) for key in ("sb_secret_a", "sb_secret_b")]
    assert [project_of(transport) for transport in transports] == ["abc", "abc"]
    for transport in transports:
        await transport.aclose()
