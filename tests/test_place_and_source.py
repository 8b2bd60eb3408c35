"""Where a relative path leads, what opening twice says, and whose a file is when its host has a new name."""

from __future__ import annotations

import logging
import socket
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from outbox import Outbox, SessionManager, Settings, StoreError, StoreInUse
from outbox.testing import FakeRemote
from tests.store.tools import python, rows
from tests.support import run_async


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings(path: str | Path = "bot.db", **more: Any) -> Settings:
    return Settings(path=path, _env_file=None, **more)


async def how_opened(path: str | Path, caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    caplog.clear()
    caplog.set_level(logging.INFO, "outbox")
    async with Outbox.open(settings(path)):
        pass
    (line,) = [each for each in caplog.records if each.msg == "opened"]
    return line


@run_async
async def test_a_new_file_at_a_relative_path_is_a_warning_that_says_where_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = await how_opened("bot.db", caplog)
    assert line.levelname == "WARNING"
    assert vars(line)["path"] == str(tmp_path / "bot.db")
    assert vars(line)["new_file_at_relative_path"] == "bot.db"


@run_async
async def test_a_file_that_was_there_or_has_an_absolute_path_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The control."""
    assert (await how_opened(tmp_path / "absolute.db", caplog)).levelname == "INFO"
    await how_opened("bot.db", caplog)
    assert (await how_opened("bot.db", caplog)).levelname == "INFO"


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use stays there")
@run_async
async def test_a_relative_path_in_a_folder_that_has_gone_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(StoreError, match="the current folder has gone; nothing was opened"):
        await Outbox.open(settings("bot.db"))
    async with Outbox.open(settings(tmp_path / "bot.db")):  # the control
        pass


@run_async
async def test_an_empty_file_that_somebody_touched_is_new_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bot.db").touch()
    assert (await how_opened("bot.db", caplog)).levelname == "WARNING"


@run_async
async def test_opening_again_without_close_names_that_cause() -> None:
    async with Outbox.open(settings()) as outbox:
        with pytest.raises(StoreInUse, match="is already open in this process") as caught:
            await Outbox.open(settings())
        assert "close()" in str(caught.value)
        await outbox.put("events", {"n": 1})  # the first one goes on
    async with Outbox.open(settings()):
        pass  # closed: nothing is in the way


def test_opening_again_after_a_loop_that_ended_without_close_asks_for_a_new_process(tmp_path: Path) -> None:
    said = """
        import asyncio, sys
        from outbox import Outbox, Settings, StoreError, StoreInUse

        async def opened():
            return await Outbox.open(Settings(path=sys.argv[1], _env_file=None))

        first = asyncio.run(opened())
        try:
            asyncio.run(opened())
        except StoreInUse as error:
            print(error)
    """
    with python(textwrap.dedent(said), str(tmp_path / "bot.db")) as process:
        told = process.communicate(timeout=200)[0]
    assert "only a new process can open it" in told and "await its close()" not in told


OPEN = "import sys; from outbox import *\nwith BlockingOutbox(Settings(path=sys.argv[1], _env_file=None)): pass"


@run_async
async def test_another_process_is_told_of_a_process_and_not_to_close(tmp_path: Path) -> None:
    """The control."""
    async with Outbox.open(settings()):
        with python(OPEN, str(tmp_path / "bot.db")) as process:
            assert "StoreInUse" in (said := process.communicate(timeout=200)[1])
    assert "is open for writing by process" in said and "this very process" not in said


# ------------------------------------------------------------------------------------------ which bot


def host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)


@run_async
async def test_a_container_with_a_new_host_name_recovers_the_session_that_was_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host("3f1c", monkeypatch)
    async with Outbox.open(settings()) as outbox:
        first = await SessionManager(outbox).start_session(1, [])
    host("77ab", monkeypatch)
    async with Outbox.open(settings()) as outbox:
        session = SessionManager(outbox)
        assert await session.start_session(1, []) == first
        assert session.is_recovered
        assert outbox.source == "bot@3f1c"
        await outbox.put("fills", {"n": 1}, id="later")
    assert rows(Path("bot.db"), "select source from outbox where id = 'later'") == [("bot@3f1c",)]


@run_async
async def test_a_file_that_did_not_keep_its_source_would_begin_a_new_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: files of before this version, and what set sources still do."""
    async with Outbox.open(settings(source="bot@3f1c")) as outbox:
        first = await SessionManager(outbox).start_session(1, [])
    async with Outbox.open(settings(source="bot@77ab")) as outbox:
        session = SessionManager(outbox)
        assert await session.start_session(1, []) != first
        assert not session.is_recovered
        await session.end_session({})


@run_async
async def test_a_source_that_is_set_counts_and_is_kept() -> None:
    async with Outbox.open(settings()) as outbox:
        assert outbox.source is not None and outbox.source.startswith("bot@")
    async with Outbox.open(settings(source="mine"), transport=FakeRemote()) as outbox:
        assert outbox.source == "mine"
    async with Outbox.open(settings()) as outbox:
        assert outbox.source == "mine"


@run_async
async def test_a_source_of_the_environment_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Outbox.open(settings(source="mine")):
        pass
    monkeypatch.setenv("OUTBOX_SOURCE", "other")
    async with Outbox.open(settings()) as outbox:
        assert outbox.source == "other"


@run_async
async def test_the_running_session_of_another_source_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with Outbox.open(settings(source="bot-a")) as outbox:
        of_a = await SessionManager(outbox).start_session(1, [])
    async with Outbox.open(settings(source="bot-b")) as outbox:
        await SessionManager(outbox).start_session(1, [])
    (line,) = [each for each in caplog.records if each.msg == "another source has a running session in this file"]
    facts = vars(line)
    assert (line.levelname, facts["other"], facts["source"]) == ("WARNING", "bot-a", "bot-b")
    assert facts["session_id"] == of_a


@run_async
async def test_two_bots_of_one_process_are_not_told_of_each_other(caplog: pytest.LogCaptureFixture) -> None:
    """The control: both are known, and nothing is left over."""
    async with Outbox.open(settings(source="bot-a")) as outbox:
        one, two = SessionManager(outbox), SessionManager(outbox, source="bot-b")
        await one.start_session(1, [])
        await two.start_session(1, [])
    assert [each.msg for each in caplog.records if "another source" in str(each.msg)] == []
