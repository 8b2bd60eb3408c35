"""`BlockingOutbox` as a bot without asyncio calls it: from its threads, its hooks, and on its way out."""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from outbox import (
    BlockingOutbox,
    DeadlinePassed,
    ForkedProcess,
    InsideTransaction,
    InvalidEntry,
    OutboxClosed,
    OutcomeUnknown,
    Settings,
    StoreInUse,
    TransactionExpired,
    UsageError,
    WrongJournalMode,
)
from outbox.testing import FakeRemote, ScriptedTransport
from tests.store.tools import count, python, rows, shell
from tests.support import FORKS_WITH_THREADS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bot.db"


def blocking(path: Path, *, transport: Any = None, **more: Any) -> BlockingOutbox:
    return BlockingOutbox(Settings(_env_file=None, path=path, **more), transport=transport)


def payloads(path: Path) -> list[Any]:
    return [json.loads(str(text)) for (text,) in rows(path, "select payload from outbox order by seq")]


def ended(process: subprocess.Popen[str], give: str = "") -> tuple[int, str, str]:
    out, err = process.communicate(give, timeout=200)
    return process.returncode, out, err


# ---------------------------------------------------------------------------------------------- writing


def test_a_put_is_in_the_file_when_it_returns_and_the_flusher_runs(path: Path) -> None:
    remote = FakeRemote()
    with blocking(path, transport=remote) as outbox:
        receipt = outbox.put("trades", {"n": 1})
        assert rows(path, "select id, seq from outbox") == [(receipt.id, receipt.seq)]
        assert outbox.put("trades", {"n": 1}, id=receipt.id).duplicate
        assert outbox.drain(timeout=200).pending == 0
        assert outbox.stats().flusher.running
        with pytest.raises(InvalidEntry):
            outbox.put("trades", {})
    assert [row["n"] for row in remote.rows("trades")] == [1]


def test_all_of_a_transaction_is_stored_or_nothing(path: Path) -> None:
    heard: list[bool] = []
    with blocking(path) as outbox:
        with outbox.transaction() as tx:
            tx.when_over(heard.append)
            tx.execute("create table positions (symbol text, qty real)")
            tx.put("trades", {"n": 1})
            tx.executemany("insert into positions values (?, ?)", [("EURUSD", 1.5), ("GBPUSD", 2.0)])
        with pytest.raises(ZeroDivisionError), outbox.transaction() as tx:
            tx.when_over(heard.append)
            tx.put("trades", {"n": 2})
            tx.execute("delete from positions")
            raise ZeroDivisionError
        assert outbox.read_local("select qty from positions order by qty") == [(1.5,), (2.0,)]
    assert payloads(path) == [{"n": 1}]
    assert heard == [True, False]


def test_a_put_beside_the_own_transaction_is_told_so_and_another_thread_waits_its_turn(path: Path) -> None:
    with blocking(path) as outbox:
        other = threading.Thread(target=outbox.put, args=("trades", {"n": 2}))
        with outbox.transaction() as tx:
            for call in (outbox.put, outbox.put_nowait):
                with pytest.raises(InsideTransaction):
                    call("trades", {"n": 0})
            with pytest.raises(InsideTransaction), outbox.transaction():
                pytest.fail("it began")
            other.start()
            tx.put("trades", {"n": 1})
        other.join()
        outbox.put("trades", {"n": 3})
    assert payloads(path) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_transaction_that_is_held_too_long_is_rolled_back(path: Path) -> None:
    with blocking(path) as outbox:
        outbox_is_free = threading.Thread(target=outbox.put, args=("trades", {"n": 2}))
        with pytest.raises(TransactionExpired), outbox.transaction(limit_s=0.2) as tx:
            outbox_is_free.start()
            tx.put("trades", {"n": 1})
            outbox_is_free.join()  # it had to wait for the limit
        outbox_is_free.join()  # where the machine is so slow that the limit came before the put
        assert outbox.stats().pending == 1
    assert payloads(path) == [{"n": 2}]


def test_many_threads_lose_nothing(path: Path) -> None:
    with blocking(path) as outbox:

        def work(thread: int) -> None:
            for n in range(25):
                outbox.put("trades", {"n": n, "thread": thread})

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert count(path) == 200


# ---------------------------------------------------------------------------------------------- deadlines


def test_a_put_whose_deadline_passes_names_its_id_and_may_be_put_again(path: Path) -> None:
    with blocking(path, busy_timeout_s=200) as outbox:
        outbox.put("trades", {"n": 0})
        with shell(path) as other:
            other.execute("begin immediate")
            with outbox.deadline(0.2), pytest.raises(OutcomeUnknown) as caught:
                outbox.put("trades", {"n": 1})
            other.execute("rollback")
        assert caught.value.id is not None
        assert "Put the same id again: it is stored once" in str(caught.value)
        outbox.put("trades", {"n": 1}, id=caught.value.id)
    assert payloads(path) == [{"n": 0}, {"n": 1}]


def test_a_call_that_puts_nothing_says_so_when_its_deadline_passes(path: Path) -> None:
    with blocking(path, busy_timeout_s=200) as outbox, shell(path) as other:
        other.execute("begin immediate")
        with outbox.deadline(0.2):
            with pytest.raises(DeadlinePassed, match="put no entry"):
                outbox.requeue(everything=True)
            with pytest.raises(DeadlinePassed, match="put no entry"), outbox.transaction():
                pytest.fail("it began")
        other.execute("rollback")
        outbox.put("trades", {"n": 1})


def test_a_drain_may_take_its_own_time(path: Path) -> None:
    remote = ScriptedTransport()
    remote.gate.clear()
    with blocking(path, transport=remote) as outbox:
        outbox.put("trades", {"n": 1})
        with outbox.deadline(0.2):
            assert outbox.drain(timeout=0.5).timed_out


# ---------------------------------------------------------------------------------------------- its own thread


def test_waiting_in_its_own_thread_is_refused_and_put_nowait_works_there(path: Path) -> None:
    heard: list[BaseException | None] = []
    done = threading.Event()
    with blocking(path) as outbox:

        def callback(_: object) -> None:
            calls: tuple[Callable[[], object], ...] = (
                lambda: outbox.put("trades", {"n": 2}),
                outbox.stats,
                outbox.close,
                lambda: outbox.put_nowait("trades", {"n": 3}).result(),
            )
            for call in calls:
                try:
                    call()
                except UsageError as error:
                    heard.append(error)
            done.set()

        outbox.put_nowait("trades", {"n": 1}).add_done_callback(callback)
        assert done.wait(200)
        outbox.put("trades", {"n": 4})
    assert [type(error) for error in heard] == [UsageError] * 4
    assert payloads(path) == [{"n": 1}, {"n": 3}, {"n": 4}]


# ---------------------------------------------------------------------------------------------- opening, closing


def test_hooks_open_and_close_as_often_as_they_are_called(path: Path) -> None:
    outbox = BlockingOutbox(path=path)
    with pytest.raises(OutboxClosed, match="call open"):
        outbox.put("trades", {"n": 0})
    outbox.close()
    for n in range(2):
        assert outbox.open() is outbox
        assert outbox.open() is outbox
        outbox.put("trades", {"n": n})
        outbox.close()
        outbox.close()
    at_once = BlockingOutbox.open(path=path)
    with at_once as same:
        assert same is at_once
        same.put("trades", {"n": 2})
    assert payloads(path) == [{"n": 0}, {"n": 1}, {"n": 2}]
    with pytest.raises(OutboxClosed):
        at_once.stats()


def test_a_file_that_cannot_be_opened_raises_in_the_callers_thread(path: Path) -> None:
    with blocking(path), pytest.raises(StoreInUse):
        blocking(path).open()
    with shell(path.with_name("other.db")) as other:
        other.execute("create table other_programs (n)")
    before = set(threading.enumerate())
    with pytest.raises(WrongJournalMode):
        blocking(path.with_name("other.db")).open()
    for thread in set(threading.enumerate()) - before:  # some thread may be on its last steps
        thread.join(timeout=200)
        assert not thread.is_alive()


def test_it_belongs_to_its_process(path: Path) -> None:
    with blocking(path) as outbox:
        for copied in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(UsageError, match="an outbox belongs to its process; open one in the worker"):
                copied(outbox)


@FORKS_WITH_THREADS
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_child_gets_a_typed_error_and_leaves_cleanly(path: Path) -> None:
    with blocking(path) as outbox:
        outbox.put("trades", {"n": 1})
        child = os.fork()
        if not child:
            status = 9
            try:
                signal.alarm(100)
                with suppress(ForkedProcess):
                    outbox.put("trades", {"n": 2})
                    os._exit(1)
                outbox.close()
                with blocking(path.with_name("child.db")) as own:
                    own.put("trades", {"n": 3})
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        outbox.put("trades", {"n": 4})
    assert payloads(path) == [{"n": 1}, {"n": 4}]
    assert payloads(path.with_name("child.db")) == [{"n": 3}]


AT_EXIT = """
import logging, os, sys, threading
from outbox import BlockingOutbox
logging.basicConfig()
outbox = BlockingOutbox.open(path=sys.argv[1])
outbox.put("trades", {"n": 1})
if "fork" in sys.argv:
    if not (child := os.fork()):
        sys.exit(0)  # runs what atexit has been told, in the child
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    outbox.put("trades", {"n": 2})
if "thread" in sys.argv:
    main = threading.main_thread()
    threading.Thread(target=lambda: (main.join(), outbox.put("trades", {"n": 2}))).start()
"""


@pytest.mark.parametrize(
    "how", ["", "thread", pytest.param("fork", marks=pytest.mark.skipif(os.name == "nt", reason="there is no fork"))]
)
def test_a_program_that_forgets_to_close_leaves_cleanly(path: Path, how: str) -> None:
    code, out, err = ended(python(AT_EXIT, str(path), how))
    assert (code, out) == (0, "")
    expected = ("entries cannot be sent", "use of fork()")  # the second is said by Python, from 3.12 on
    assert [line for line in err.splitlines() if not any(words in line for words in expected)] == []
    assert not path.with_name("bot.db-wal").exists(), "it was not closed"
    assert payloads(path) == [{"n": 1}, {"n": 2}][: 2 if how else 1]


def test_control_a_program_that_is_killed_leaves_its_wal(path: Path) -> None:
    code, _, _ = ended(python(AT_EXIT + "\nos.kill(os.getpid(), 9)", str(path)))
    assert code != 0
    assert path.with_name("bot.db-wal").exists()


INTERRUPTED = """
import signal, sqlite3, sys, threading
from outbox import BlockingOutbox, Settings
from outbox.blocking import calls

plain, waits = calls.wait_for, threading.Semaphore(0)

def wait_for(*how):
    waits.release()
    plain(*how)

def interrupt():
    waits.acquire()  # the call waits for its outcome
    signal.raise_signal(signal.SIGINT)  # in this thread
    waits.acquire()  # and now, interrupted, for what has become of its data
    other.execute("rollback")

path = sys.argv[1]
with BlockingOutbox(Settings(path=path, busy_timeout_s=200), call_timeout_s=200) as outbox:
    outbox.put("trades", {"n": 0})
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("begin immediate")
    calls.wait_for, calls._INTERRUPTED_S = wait_for, 200
    threading.Thread(target=interrupt).start()
    try:
        if "transaction" in sys.argv:
            with outbox.transaction(limit_s=200) as tx:
                tx.put("trades", {"n": 1})
        else:
            outbox.put("fills", {"n": 1}, id="a")
    except KeyboardInterrupt as error:
        print(*error.__notes__)
    print(outbox.stats().pending)
    outbox.put("trades", {"n": 2})
"""


@pytest.mark.parametrize(
    ("what", "note", "pending"),
    [("put", "outbox: a: done", "2"), ("transaction", "outbox: the call: cancelled, nothing was written", "1")],
)
def test_an_interrupt_leaves_nothing_undecided(path: Path, what: str, note: str, pending: str) -> None:
    code, out, err = ended(python(INTERRUPTED, str(path), what))
    assert (code, out.splitlines()) == (0, [note, pending]), err
    assert count(path) == int(pending) + 1
