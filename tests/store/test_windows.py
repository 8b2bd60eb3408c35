"""What the library does on Windows and macOS, forced here: a stand-in for `msvcrt`, and `os` by another name.

That the systems do as the stand-ins do is for the public CI to show (.github/workflows/ci.yml).
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from outbox import Outbox, Settings
from outbox.admin import inbox
from outbox.errors import StoreInUse
from outbox.postgrest import network
from outbox.store import files, lock, parts, sidecar
from outbox.testing import FakeRemote
from tests.support import run_async


class OsOfWindows:
    """`os`, as a module sees it that asks for its name; what it closes gives its locked bytes back."""

    name = "nt"

    def __init__(self, msvcrt: Msvcrt) -> None:
        self._msvcrt = msvcrt

    def close(self, descriptor: int) -> None:
        self._msvcrt.forget(descriptor)
        os.close(descriptor)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


class Msvcrt(types.ModuleType):
    """Locks bytes as Windows does: for one descriptor of one process, until it is closed. `deaf`: it locks nothing."""

    LK_NBLCK, LK_UNLCK = 2, 0

    def __init__(self, *, deaf: bool = False) -> None:
        super().__init__("msvcrt")
        self.locked: dict[tuple[int, int, int], int] = {}
        self._deaf = deaf

    def locking(self, descriptor: int, mode: int, length: int) -> None:
        facts, place = os.fstat(descriptor), os.lseek(descriptor, 0, os.SEEK_CUR)
        byte = (facts.st_dev, facts.st_ino, place)
        assert length == 1
        if mode == self.LK_UNLCK:
            assert self.locked.pop(byte) == descriptor
            return
        if byte in self.locked and not self._deaf:
            raise PermissionError(13, "Permission denied")
        self.locked[byte] = descriptor

    def forget(self, descriptor: int) -> None:
        self.locked = {byte: holder for byte, holder in self.locked.items() if holder != descriptor}


def lock_of_windows(monkeypatch: pytest.MonkeyPatch, msvcrt: Msvcrt) -> Any:
    """Return `outbox.store.lock` as a process on Windows has it, with nothing in common with another one's."""
    spec = importlib.util.spec_from_file_location("lock_of_windows", lock.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as windows:
        windows.setattr(sys, "platform", "win32")
        windows.setitem(sys.modules, "msvcrt", msvcrt)
        windows.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    monkeypatch.setattr(module, "os", OsOfWindows(msvcrt))
    return module


def test_of_two_processes_one_gets_the_file_and_the_other_learns_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, msvcrt = tmp_path / "bot.db", Msvcrt()
    one, other = (lock_of_windows(monkeypatch, msvcrt) for _ in range(2))
    assert one.look(path).running is False
    with one.WriterLock(path):
        ((_, _, byte),) = msvcrt.locked
        assert byte > lock.lock_path(path).stat().st_size  # a locked byte cannot be read there
        with pytest.raises(StoreInUse) as caught:
            other.WriterLock(path)
        assert (caught.value.pid, other.look(path).running) == (os.getpid(), True)
    assert other.look(path).running is False
    other.WriterLock(path).release()


def test_control_where_nothing_is_locked_both_get_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    msvcrt = Msvcrt(deaf=True)
    one, other = (lock_of_windows(monkeypatch, msvcrt) for _ in range(2))
    with one.WriterLock(tmp_path / "bot.db"):
        other.WriterLock(tmp_path / "bot.db").release()


@run_async
async def test_an_outbox_lives_with_all_that_is_done_otherwise_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    msvcrt, remote = Msvcrt(), FakeRemote()
    windows = lock_of_windows(monkeypatch, msvcrt)
    monkeypatch.setattr(lock, "_try_lock", windows._try_lock)
    monkeypatch.setattr(lock, "_locked_by", windows._locked_by)
    monkeypatch.setattr(lock, "sys", types.SimpleNamespace(platform="win32"))
    for module in (files, inbox, lock, parts, sidecar):
        monkeypatch.setattr(module, "os", OsOfWindows(msvcrt))
    settings = Settings(path=tmp_path / "bot.db", _env_file=None)
    for n in range(2):  # made, and opened again
        async with Outbox.open(settings, transport=remote) as outbox:
            await outbox.put("trades", {"n": n})
            assert (await outbox.drain(timeout=60)).delivered == 1
    assert [row["n"] for row in remote.rows("trades")] == [0, 1]


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_the_systems_own_proxy_is_used_where_the_system_has_one(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://proxy.example:8080"})
    assert network._named("https", os.environ) is None  # the control: here nobody asks the system
    monkeypatch.setattr(network, "sys", types.SimpleNamespace(platform=platform))
    assert network._named("https", os.environ) == ("the system's settings", "http://proxy.example:8080")
