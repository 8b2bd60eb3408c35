"""One process opens the file for writing, always."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from outbox.clock import SystemClock
from outbox.errors import StoreInUse
from outbox.recovery.open import open_store
from outbox.store import lock
from outbox.store.lock import WriterLock, lock_path
from outbox.store.store import Store
from tests.store.tools import count, entry, opened, python, raised
from tests.support import FORKS_WITH_THREADS, run_async

HOLD = """
import asyncio, sys
from pathlib import Path
from outbox.clock import SystemClock
from outbox.recovery.open import open_store
from outbox.store.store import Store

async def main():
    store = await open_store(Path(sys.argv[1]), clock=SystemClock())
    print("held", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await store.close()
    print("closed", flush=True)

asyncio.run(main())
"""
FORK_AND_DIE = """
import os, sys, time
from pathlib import Path
from outbox.store.lock import WriterLock

lock = WriterLock(Path(sys.argv[1]))
child = os.fork()
if not child:
    sys.stdin.readline()  # stays behind until the test lets it go
    os._exit(0)
print(child, flush=True)
os._exit(0)
"""


@run_async
async def test_a_second_opener_in_the_same_process_learns_who_has_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path / "bot.db"):
        error = await raised(open_store(tmp_path / "bot.db", clock=SystemClock()))

    assert isinstance(error, StoreInUse)
    assert error.pid == os.getpid()
    assert error.since is not None and error.since.endswith("+00:00")


@run_async
async def test_of_many_that_open_at_once_one_gets_the_file(tmp_path: Path) -> None:
    for _ in range(10):
        openings = (open_store(tmp_path / "bot.db", clock=SystemClock()) for _ in range(8))
        results = await asyncio.gather(*openings, return_exceptions=True)
        stores = [each for each in results if isinstance(each, Store)]
        for store in stores:
            await store.close()
        assert len(stores) == 1
        assert sum(isinstance(each, StoreInUse) for each in results) == 7


def test_another_process_is_kept_out_until_this_one_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with python(HOLD, str(path)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

        with pytest.raises(StoreInUse) as caught:
            asyncio.run(open_store(path, clock=SystemClock()))
        assert caught.value.pid == holder.pid
        assert str(holder.pid) in str(caught.value)
        assert caught.value.since is not None

        holder.kill()
        holder.wait()

    asyncio.run(_put_one(path))  # at once: no lease to wait for
    assert count(path) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill with 0 means something else there")
def test_without_the_lock_two_processes_would_both_get_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above."""
    path = tmp_path / "bot.db"
    monkeypatch.setattr(lock, "_try_lock", lambda _: True)
    with python(HOLD, str(path)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        asyncio.run(_put_one(path))
        os.kill(holder.pid, 0)  # it still runs, and holds its lock
        holder.communicate("go\n")


async def _put_one(path: Path) -> None:
    async with opened(path) as store:
        await store.put(*entry())


@run_async
async def test_one_that_waits_gets_the_file_when_it_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with python(HOLD, str(path)) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        await asyncio.to_thread(holder.stdout.readline)
        waiting = asyncio.create_task(open_store(path, clock=SystemClock(), wait_s=30))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.1)
        assert not waiting.done()

        holder.stdin.write("go\n")
        holder.stdin.flush()
        store = await waiting
        await store.close()


@run_async
async def test_one_that_waits_in_vain_says_so_after_its_time(tmp_path: Path) -> None:
    async with opened(tmp_path / "bot.db"):
        loop = asyncio.get_running_loop()
        started = loop.time()
        error = await raised(open_store(tmp_path / "bot.db", clock=SystemClock(), wait_s=0.2))
        assert isinstance(error, StoreInUse)
        assert loop.time() - started >= 0.2


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_child_that_outlives_its_parent_does_not_keep_the_file_locked(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with python(FORK_AND_DIE, str(path)) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        holder.wait()
        os.kill(child, 0)  # it is there
        asyncio.run(_put_one(path))
        holder.stdin.close()  # type: ignore[union-attr]  # lets the child go
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    assert count(path) == 1


@FORKS_WITH_THREADS
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_child_cannot_take_the_lock_that_its_parent_has_but_one_of_its_own(tmp_path: Path) -> None:
    with WriterLock(tmp_path / "bot.db"), lock._taking:  # the mutex is copied while it is taken
        child = os.fork()
        if not child:
            status = 9
            try:
                WriterLock(tmp_path / "other.db").release()
                WriterLock(tmp_path / "bot.db")
            except StoreInUse as error:
                status = 0 if error.pid == os.getppid() else 8
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    WriterLock(tmp_path / "bot.db").release()


def test_a_lock_is_given_back_once_and_the_sidecar_stays(tmp_path: Path) -> None:
    held = WriterLock(tmp_path / "bot.db")
    held.release()
    held.release()
    with WriterLock(tmp_path / "bot.db"):
        assert lock_path(tmp_path / "bot.db").is_file()


def test_an_unreadable_sidecar_names_no_holder(tmp_path: Path) -> None:
    lock_path(tmp_path / "bot.db").write_bytes(b"\xff{")
    assert lock.written(tmp_path / "bot.db").holder is None


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_a_full_disk_does_not_keep_the_bot_from_its_file(tmp_path: Path) -> None:
    """The sidecar's text is news for people. A file size limit of 0 bytes makes its write fail for real."""
    code = """
import resource, signal, sys
from pathlib import Path
from outbox.store.lock import WriterLock

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
with WriterLock(Path(sys.argv[1])):
    print("held")
"""
    with python(code, str(tmp_path / "bot.db")) as process:
        out, err = process.communicate()
    assert (out, err) == ("held\n", "")
