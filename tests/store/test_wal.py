"""The WAL as it stands beside the file: its size, and which process keeps it from being copied back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from outbox.doctor.findings import WalFacts
from outbox.doctor.local import is_wal, read_wal
from tests.store.tools import ROOT

WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("pragma journal_mode = wal")
connection.execute("create table if not exists t (x)")
print("ready", flush=True)
for line in sys.stdin:
    connection.execute("insert into t values (1)")
    print("done", flush=True)
"""
READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("begin")
connection.execute("select * from t").fetchall()
print("ready", flush=True)
sys.stdin.readline()
"""


@contextmanager
def process(code: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        try:
            say(running, "ready")
            yield running
        finally:
            running.kill()


def say(running: subprocess.Popen[str], answer: str) -> None:
    assert running.stdout is not None
    assert running.stdout.readline().strip() == answer


def write(running: subprocess.Popen[str]) -> None:
    assert running.stdin is not None
    running.stdin.write("more\n")
    running.stdin.flush()
    say(running, "done")


@pytest.mark.skipif(os.name == "nt", reason="Windows does not say who has a lock")
def test_the_process_that_reads_an_old_state_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with process(WRITER, path) as writer:
        write(writer)
        with process(READER, path) as reader:
            assert read_wal(path).readers == ()  # it reads the newest state
            write(writer)
            assert read_wal(path).readers == (reader.pid,)
        assert read_wal(path).readers == ()  # control: it is gone


def test_a_file_that_nobody_has_open_has_no_wal(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    assert (read_wal(path), is_wal(path)) == (WalFacts(0), None)
    path.write_bytes(b"")
    assert is_wal(path) is None
    path.write_bytes(bytes(100))  # no database at all
    assert is_wal(path) is None
    path.write_bytes(b"SQLite format 3\0" + bytes(84))
    assert is_wal(path) is False
    with process(WRITER, path.with_name("other.db")):
        assert is_wal(path.with_name("other.db")) is True
        assert read_wal(path.with_name("other.db")).bytes > 0


def test_an_index_that_is_cut_short_tells_the_size_alone(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    (tmp_path / "bot.db-wal").write_bytes(bytes(5000))
    assert read_wal(path) == WalFacts(5000)
    (tmp_path / "bot.db-shm").write_bytes(bytes(7))
    assert read_wal(path) == WalFacts(5000)
