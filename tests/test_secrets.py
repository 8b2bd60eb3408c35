"""The look for keys after every test (tests/conftest.py) finds a planted one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from outbox import Outbox, Settings
from outbox.testing import FakeRemote
from tests.secrets import MARK, leaks
from tests.support import run_async


@run_async
async def test_a_key_in_a_row_is_found_in_the_file(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")  # not tmp_path: the look after this test would find it
    async with Outbox.open(Settings(path=elsewhere / "bot.db"), transport=FakeRemote()) as outbox:
        assert leaks(elsewhere) == []
        await outbox.put("trades", {"note": f"{MARK.decode()}planted"})
    assert [each.name for each in leaks(elsewhere)] == ["bot.db"]


@run_async
async def test_a_key_that_is_used_stands_in_no_file_repr_or_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = f"{MARK.decode()}canary_0123456789"
    settings = Settings(path=tmp_path / "bot.db", supabase_url="http://127.0.0.1:9", supabase_key=key)
    async with Outbox.open(settings) as outbox:
        await outbox.put("trades", {"n": 1})
        report = await outbox.drain(timeout=0.5)
        told = [repr(outbox), repr(report), repr(await outbox.stats()), repr(settings), str(settings)]
    assert report.pending == 1
    assert [text for text in (*told, caplog.text) if key in text] == []
    assert leaks(tmp_path) == []
