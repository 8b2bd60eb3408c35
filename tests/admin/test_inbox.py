"""Requests to the running writer: answered once, carried out once, also when somebody is killed in between."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from outbox import Outbox, Settings
from outbox.admin import inbox
from outbox.errors import StoreInUse
from outbox.store.lock import WriterLock
from outbox.testing import ScriptedTransport
from outbox.threads import in_thread
from tests import forked
from tests.store.tools import rows, shell, until as eventually
from tests.support import run_async

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
# A bot whose server refuses every row; what it does not answer by itself, it is killed with.
BOT = """
import asyncio, sys
from outbox import Outbox, Settings
from outbox.testing import ScriptedTransport, refused

async def main():
    remote = ScriptedTransport(otherwise=refused(400, "22P02", "bad text"))
    settings = Settings(path=sys.argv[1], poll_s=float(sys.argv[2]))
    async with Outbox.open(settings, transport=remote) as outbox:
        if not (await outbox.stats()).dead:
            for number in range(3):
                await outbox.put("fills", {"id": f"t{number}", "n": number})
            await outbox.drain(200)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


# Before it is ready: a child that only waits to be killed.
CHILD = """child = os.fork()
        if not child:
            import signal
            signal.pause()
            os._exit(0)
        """


@contextmanager
def bot(path: Path, *, poll_s: float = 0.02, code: str = BOT) -> Iterator[subprocess.Popen[str]]:
    """A running bot with three dead letters: t0, t1, t2."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(path), str(poll_s)]
    with forked.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], Any]) -> Any:
    """Return what `condition` says as soon as that is something; the test's own time limit bounds it."""
    while not (found := condition()):
        time.sleep(0.005)
    return found


def answered(path: Path, action: str, **arguments: Any) -> Mapping[str, Any]:
    request = inbox.post(path, action, arguments)
    answer: Mapping[str, Any] = until(lambda: inbox.answer_to(path, request))
    return answer


def states(path: Path) -> dict[str, int]:
    import sqlite3

    connection = sqlite3.connect(path)
    try:
        return dict(connection.execute("select state, count(*) from outbox group by state").fetchall())
    finally:
        connection.close()


@run_async
async def open_and_look(path: Path) -> list[Any]:
    """Open the outbox until its inbox is empty, and return the history of t0."""
    async with Outbox.open(Settings(path=path, poll_s=0.02)) as outbox:
        while any(inbox.waiting(path)):
            await outbox.stats()  # a look of ours for each of the writer's
        rows = await outbox._store.read("select event from outbox_history join outbox using (seq) where id = 't0'")
        return [event for (event,) in rows]


def test_a_running_bot_carries_a_request_out_and_answers(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with bot(path):
        answer = answered(path, "discard", ids=["t0", "nobody"], reason="a test")

        assert answer["ok"]
        assert answer["outcomes"] == {"discarded": 1, "unknown id": 1}
        assert states(path) == {"dead": 2, "discarded": 1}
        place = inbox.folder(path)
        assert list(place.iterdir()) == []  # the request was answered, the answer fetched
        if os.name != "nt":
            assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_a_request_that_makes_no_sense_is_answered_so(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with bot(path):
        unknown = answered(path, "dance")
        empty = answered(path, "requeue")
        newer = answered(path, "requeue", ids=["t0"], phase_of_the_moon="full")

    assert not unknown["ok"]
    assert "unknown" in unknown["error"]
    assert not empty["ok"]
    assert not newer["ok"]
    assert states(path) == {"dead": 3}  # above all: nothing was widened


def test_a_request_without_a_writer_is_carried_out_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with bot(path):
        pass
    request = inbox.post(path, "discard", {"ids": ["t0"], "reason": "later"})
    assert inbox.answer_to(path, request) is None

    assert open_and_look(path) == ["refused", "discarded"]

    answer = inbox.answer_to(path, request)
    assert answer is not None
    assert answer["outcomes"] == {"discarded": 1}


def test_a_writer_killed_before_it_answers_lets_the_next_one_do_it_once(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with bot(path, poll_s=3600) as process:  # it never looks again
        request = inbox.post(path, "discard", {"ids": ["t0"], "reason": "once"})
        process.kill()
        process.wait()
    assert open_and_look(path) == ["refused", "discarded"]

    # Killed between carrying out and answering, the request is still there: once more, to no further effect.
    again = inbox.folder(path) / f"{request.name}.request.json"
    assert inbox.answer_to(path, request) is not None
    again.write_text(json.dumps({"action": "discard", "arguments": {"ids": ["t0"], "reason": "once"}}))
    assert open_and_look(path) == ["refused", "discarded"]
    repeated = inbox.answer_to(path, request)
    assert repeated is not None
    assert repeated["outcomes"] == {"already discarded": 1}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"{oops", id="cut"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b'{"action": 7, "arguments": {}}', id="no action"),
        pytest.param(b" " * 3_000_000, id="too large"),
    ],
)
def test_what_is_no_request_is_set_aside_and_said(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bot.db"
    path.touch()
    inbox.post(path, "reload", {})
    place = inbox.folder(path)
    (place / "0-strange.request.json").write_bytes(content)

    with caplog.at_level(logging.WARNING, logger="outbox.store"):
        assert [request.action for request in inbox.waiting(path)] == ["reload"]

    assert "set aside" in caplog.text
    assert [file.read_bytes() for file in place.iterdir() if "unreadable" in file.name] == [content]


@posix
def test_a_folder_that_others_may_write_into_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    path.touch()
    inbox.post(path, "reload", {})
    inbox.folder(path).chmod(0o777)
    with pytest.raises(PermissionError):
        list(inbox.waiting(path))
    inbox.folder(path).chmod(0o700)
    assert len(list(inbox.waiting(path))) == 1  # the control


def test_a_request_can_be_taken_back_until_it_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    path.touch()
    request = inbox.post(path, "reload", {})
    assert inbox.withdraw(path, request)
    assert list(inbox.waiting(path)) == []
    assert not inbox.withdraw(path, request)


@pytest.mark.parametrize("written_s", [0, 2**32], ids=["clock at 1970", "clock far ahead"])
def test_answers_that_are_never_fetched_are_removed_a_day_after_they_were_seen_whatever_the_clock_said(
    written_s: int, tmp_path: Path
) -> None:
    path = tmp_path / "bot.db"
    path.touch()
    request = inbox.post(path, "reload", {})
    inbox.answer(path, request, {"ok": True})
    (file,) = inbox.folder(path).iterdir()
    os.utime(file, (written_s, written_s))
    seen_s: dict[str, float] = {}
    for now_s in (50.0, 50.0 + 80_000):
        inbox.tidy(path, seen_s, now_s=now_s)
        assert file.exists()
    inbox.tidy(path, seen_s, now_s=50.0 + 90_000)
    assert not file.exists()
    inbox.tidy(path, seen_s, now_s=50.0 + 90_000)
    assert seen_s == {}


@posix
def test_a_stopped_owner_keeps_its_lock_and_answers_when_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with bot(path) as process:
        process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(StoreInUse, match="open for writing by process"):
                WriterLock(path)
            request = inbox.post(path, "discard", {"ids": ["t0"], "reason": "patience"})
        finally:
            process.send_signal(signal.SIGCONT)
        answer = until(lambda: inbox.answer_to(path, request))

    assert answer["outcomes"] == {"discarded": 1}


def test_reload_ends_the_pauses_of_a_running_bot(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with bot(path):
        pass
    hour_ms = int(time.time() * 1000) + 3_600_000
    with shell(path) as connection:
        pause = ("destination", "fills", "forbidden", 403, "42501", "no", 1, hour_ms - 3_600_000, hour_ms)
        connection.execute("insert into outbox_pauses values (?, ?, ?, ?, ?, ?, ?, ?, ?)", pause)
    with bot(path):
        assert not answered(path, "dance")["ok"]
        assert rows(path, "select subject from outbox_pauses") == [("fills",)]  # the control: another look ends none
        assert answered(path, "reload")["ok"]
        assert rows(path, "select subject from outbox_pauses") == []


@posix
def test_requests_and_answers_are_their_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    path.touch()
    before = os.umask(0)
    try:
        request = inbox.post(path, "reload", {})
        (file,) = inbox.folder(path).iterdir()
        modes = [stat.S_IMODE(each.stat().st_mode) for each in (inbox.folder(path), file)]
        inbox.answer(path, request, {"ok": True})
        (file,) = inbox.folder(path).iterdir()
        (tmp_path / "control").touch()
    finally:
        os.umask(before)
    assert [*modes, stat.S_IMODE(file.stat().st_mode)] == [0o700, 0o600, 0o600]
    assert stat.S_IMODE((tmp_path / "control").stat().st_mode) == 0o666


@posix
def test_links_pipes_and_folders_are_set_aside_unread_and_other_names_are_let_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bot.db"
    path.touch()
    inbox.post(path, "reload", {})
    place = inbox.folder(path)
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps({"action": "discard", "arguments": {"everything": True, "reason": "a trap"}}))
    (place / "0-link.request.json").symlink_to(elsewhere)
    os.mkfifo(place / "1-pipe.request.json")
    (place / "2-folder.request.json").mkdir()
    (place / "notes.txt").write_text("not yours")

    with caplog.at_level(logging.WARNING, logger="outbox.store"):
        assert [request.action for request in inbox.waiting(path)] == ["reload"]

    assert caplog.text.count("set aside") == 3
    assert (place / "notes.txt").read_text() == "not yours"
    # The control: the same words in a file of its own are a request.
    elsewhere.replace(place / "3-plain.request.json")
    assert sorted(request.action for request in inbox.waiting(path)) == ["discard", "reload"]


def test_what_was_set_aside_before_is_never_overwritten_and_blocks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    path.touch()
    inbox.post(path, "reload", {})
    place = inbox.folder(path)
    for content in (b"{first", b"{second"):
        (place / "0-strange.request.json").write_bytes(content)
        assert [request.action for request in inbox.waiting(path)] == ["reload"]
    blocking = place / "1-blocked.request.unreadable"
    blocking.mkdir()
    (blocking / "mine").touch()
    (place / "1-blocked.request.json").write_bytes(b"{third")
    assert [request.action for request in inbox.waiting(path)] == ["reload"]

    kept = {file.read_bytes() for file in place.iterdir() if file.is_file() and file.suffix == ".unreadable"}
    assert kept == {b"{first", b"{second", b"{third"}
    assert (blocking / "mine").exists()


@posix
def test_a_forked_child_left_behind_by_a_killed_bot_keeps_no_request_waiting(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    forking = BOT.replace('print("ready"', CHILD + 'print("ready"')
    forking = forking.replace("import asyncio, sys", "import asyncio, os, sys")
    forking = forking.replace("await asyncio.to_thread", "print(child, flush=True); await asyncio.to_thread")
    with bot(path, code=forking, poll_s=3600) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            with pytest.raises(StoreInUse):  # the control: its parent has the lock
                WriterLock(path)
            request = inbox.post(path, "discard", {"ids": ["t0"], "reason": "an orphan"})
            process.kill()
            process.wait()
            os.kill(child, 0)  # it is there

            assert open_and_look(path) == ["refused", "discarded"]
            assert inbox.answer_to(path, request) is not None
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("glances", [True, False], ids=["", "control: the flusher does not glance at the inbox"])
@run_async
async def test_a_flusher_that_looks_for_work_finds_a_request_too(glances: bool, tmp_path: Path) -> None:
    """So that an idle bot wakes once for both. Here either polls once an hour."""
    path = tmp_path / "bot.db"
    settings = Settings(path=path, poll_s=3600)
    async with Outbox.open(settings, transport=ScriptedTransport()) as outbox, outbox.flushing():
        server, looked = outbox._command_server, asyncio.Event()
        assert server is not None
        heard = outbox._store.glanced

        def hear(found: bool) -> None:
            heard(found)
            looked.set()

        outbox._store.glanced = hear
        if not glances:
            outbox._store.glance = lambda: False
        await eventually(lambda: bool(server._due._waiters))  # it has looked by itself, and will in an hour
        request = await in_thread(inbox.post, path, "no such action", {})
        looked.clear()
        outbox._flusher.wake()
        await looked.wait()
        if glances:
            await eventually(lambda: inbox.answer_to(path, request) is not None)
        else:
            assert server._timer is not None
            assert server._timer.when() - asyncio.get_running_loop().time() > 3600
