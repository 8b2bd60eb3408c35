"""A bot is told to stop while the server hangs: it ends in time, nothing is lost. The bot is the page's own block."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from outbox import Outbox, Settings
from outbox.testing import FakeRemote
from tests.doc_blocks import blocks_of
from tests.store.tools import ROOT, rows
from tests.support import run_async

(RECIPE,) = blocks_of(ROOT / "docs" / "durability.md")
ASYNCIO = "asyncio.run(main())"
# What asyncio's loops on Windows do.
WINDOWS = """
import asyncio
def refuse(self, *arguments): raise NotImplementedError
asyncio.SelectorEventLoop.add_signal_handler = refuse
"""
# A stop that waited for the request that hangs would take as long as its deadline; one in time takes some 5 s.
REQUEST_S, PATIENCE_S = 3600, 200
# Acknowledged before the signal comes.
ENOUGH = 20

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


def program(before: str = "", *, run: str = ASYNCIO, handler: bool = True) -> str:
    assert RECIPE.text.count(ASYNCIO) == 1
    text = RECIPE.text.replace(ASYNCIO, run)
    install = "    stop_on_signals()\n"
    assert install in text
    return before + (text if handler else text.replace(install, ""))


class Hung:
    """A server that accepts, reads and never answers. asked: a request for events has arrived."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.asked = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := connection.recv(1 << 16):
                if b"/rest/v1/events" in received:
                    self.asked.set()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for each in (self._listener, *self._connections):
            each.close()


@dataclass
class Bot:
    """A bot in a process of its own, and the ids that it has printed: what was acknowledged."""

    path: Path
    process: subprocess.Popen[str]
    server: Hung

    def __post_init__(self) -> None:
        self.printed: list[str] = []
        self.enough = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed.append(line.strip())
            if len(self.printed) >= ENOUGH:
                self.enough.set()

    def end(self, number: signal.Signals) -> None:
        """Send the signal while a request hangs and puts go on."""
        assert self.enough.wait(200) and self.server.asked.wait(200), self.process.poll()
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)

    @property
    def acknowledged(self) -> list[str]:
        return [line for line in self.printed if line != "stopped"]

    @property
    def closed_cleanly(self) -> bool:
        return not rows(self.path, "select 1 from outbox_meta where name = 'open'")


@contextlib.contextmanager
def started(folder: Path, text: str) -> Iterator[Bot]:
    file = folder / "bot.py"
    file.write_text(text, encoding="utf-8")
    server = Hung()
    secrets = {"SUPABASE_URL": server.url, "SUPABASE_SECRET_KEY": "sb_secret_x", "OUTBOX_PATH": str(folder / "bot.db")}
    environment = {**os.environ, **secrets, "OUTBOX_REQUEST_DEADLINE_S": str(REQUEST_S), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(file)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Bot(folder / "bot.db", process, server)
        finally:
            process.kill()
            server.close()


async def assert_nothing_is_lost(bot: Bot) -> None:
    """Every acknowledged row is in the file and pending, once; the next start delivers each, once."""
    stored = [str(name) for (name,) in rows(bot.path, "select id from outbox where state = 'pending'")]
    assert len(bot.acknowledged) >= ENOUGH
    assert set(bot.acknowledged) <= set(stored)
    assert len(set(stored)) == len(stored) == rows(bot.path)[0][0]
    remote = FakeRemote()
    async with Outbox.open(Settings(path=bot.path, _env_file=None), transport=remote) as outbox:
        report = await outbox.drain(timeout=200)
    sent = [str(row["id"]) for request in remote.requests for row in remote.decoded(request)]
    assert (report.pending, report.dead, sorted(sent)) == (0, 0, sorted(stored))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        pytest.param(program(), signal.SIGTERM, id="asyncio, SIGTERM"),
        pytest.param(program("import uvloop\n", run="uvloop.run(main())"), signal.SIGTERM, id="uvloop, SIGTERM"),
        pytest.param(program(WINDOWS), signal.SIGINT, id="as on Windows, SIGINT"),
    ],
)
@run_async
async def test_a_signal_while_the_server_hangs_ends_the_bot_in_time_and_loses_nothing(
    text: str, number: signal.Signals, tmp_path: Path
) -> None:
    with started(tmp_path, text) as bot:
        await asyncio.to_thread(bot.end, number)
        assert bot.process.stderr is not None
        assert (bot.process.returncode, bot.printed[-1]) == (0, "stopped"), bot.process.stderr.read()
    assert bot.closed_cleanly
    await assert_nothing_is_lost(bot)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@run_async
async def test_control_without_the_handler_the_block_is_not_left_and_still_nothing_is_lost(
    number: signal.Signals, tmp_path: Path
) -> None:
    with started(tmp_path, program(handler=False)) as bot:
        await asyncio.to_thread(bot.end, number)
        assert bot.process.returncode == -number
    assert "stopped" not in bot.printed
    assert not bot.closed_cleanly
    await assert_nothing_is_lost(bot)


@run_async
async def test_leaving_the_block_stops_the_flusher_before_it_commits_what_stands_in_line_and_closes(
    tmp_path: Path,
) -> None:
    remote = FakeRemote()
    remote.hold()
    events: list[str] = []
    async with Outbox.open(Settings(path=tmp_path / "bot.db", _env_file=None), transport=remote) as outbox:
        async with outbox.flushing():
            await outbox.put("events", {"n": 1})
            future = outbox.put_nowait("events", {"n": 2})
            future.add_done_callback(lambda _: events.append("committed"))
            remote.release()
        assert not (await outbox.stats()).flusher.running
        late = outbox.put_nowait("events", {"n": 3})
    assert late.done() and (await future).seq == 2 and (await late).seq == 3
    assert events == ["committed"]
    assert rows(tmp_path / "bot.db", "select count(*) from outbox") == [(3,)]


@run_async
async def test_a_stop_while_the_file_is_being_opened_leaves_it_free_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    for hundredths in range(12):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(hundredths / 200), Outbox.open(Settings(path=path, _env_file=None)) as outbox:
                await outbox.put("events", {"n": hundredths})
        async with Outbox.open(Settings(path=path, _env_file=None)) as outbox:
            await outbox.put("events", {"n": hundredths})
    assert rows(path, "pragma integrity_check") == [("ok",)]
