"""From a process to its operations: runs it under strace and reads what it asked of the operating system.

Everything that changes a file below the recorded folder becomes an operation. A call that could change one in a way
that is not modelled (a child process, a shared writable mapping, …) raises NotModelled, so that a new habit
of the library or of SQLite cannot slip through unseen. The one exception is the `-shm` file: SQLite writes it through
a mapping and makes it anew after a crash, and no image has it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.proof.power.operations import (
    NEVER,
    ROOT,
    Enter,
    Leave,
    Mark,
    Move,
    Operation,
    Resize,
    Sync,
    Write,
)

MARK_DESCRIPTOR = 1
_MODELLED = (
    "openat open creat close write pwrite64 ftruncate fallocate fsync fdatasync unlink unlinkat rename mkdir lseek dup2"
    " dup3 dup"
)
_REFUSED = (
    "writev pwritev pwritev2 truncate renameat renameat2 link linkat symlink symlinkat mkdirat rmdir msync"
    " sync_file_range copy_file_range sendfile splice io_uring_setup fork vfork"
)
_LOOKED_AT = "mmap clone clone3"
_CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (\?|-?\w+)")
_UNFINISHED = re.compile(r"(\d+) +(\w+)\((.*?)(?:, )? ?<unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(?:, )?(.*)\) += (\?|-?\w+)")


class NotModelled(Exception):
    """The process did something to a recorded file that the image builder knows nothing of."""


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL as the process enters its `count`-th `call`, which is not carried out any more."""

    call: str
    count: int


def run(
    command: Sequence[str], *, cwd: Path, log: Path, environment: Mapping[str, str], kill: Kill | None = None
) -> str:
    """Run `command` to its end and return what strace saw. Raises CalledProcessError: it failed by itself."""
    calls = ",".join(f"?{name}" for name in f"{_MODELLED} {_REFUSED} {_LOOKED_AT}".split())
    # -s: all of each write.  -xx: every text as hexadecimal digits, so that no comma or quote stands in one.
    options = ["-f", "-xx", "-s", "100000000", "-o", str(log), "-e", f"trace={calls}"]
    # With --seccomp-bpf strace stops at these calls alone, and three times as fast; but 6.1 then injects nothing.
    options += ["--seccomp-bpf"] if kill is None else ["-e", f"inject={kill.call}:signal=SIGKILL:when={kill.count}"]
    done = subprocess.run(
        ["strace", *options, *command], cwd=cwd, env={**os.environ, **environment}, capture_output=True, check=False
    )
    killed = done.returncode in (-9, 128 + 9)
    if killed != (kill is not None) or (done.returncode and not killed):
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return log.read_text(encoding="ascii")


@dataclass(slots=True)
class _Open:
    """One descriptor of the process that leads to a recorded node."""

    node: int
    position: int = 0


@dataclass(slots=True)
class _Call:
    """One line of strace, or two that belong together. result: None if the process died inside."""

    name: str
    arguments: list[str]
    result: int | None
    begun: int
    ended: float


@dataclass(slots=True)
class Recorder:
    """Reads one trace after another of processes that work on `root`; `operations` grows in the order they began."""

    root: str
    operations: list[Operation] = field(default_factory=list)
    _entries: dict[tuple[int, str], int] = field(default_factory=dict)  # (folder, name): node, as the process sees it
    _shared: set[int] = field(default_factory=set)  # the -shm files
    _descriptors: dict[int, _Open] = field(default_factory=dict)
    _lines: int = 0
    _nodes: int = ROOT

    def read(self, trace: str) -> None:
        """Add the life of one process. Raises NotModelled."""
        self._descriptors = {}
        for call in self._calls(trace):
            handler = _HANDLERS.get(call.name, Recorder._refuse)
            if call.result is None or call.result >= 0:  # one that failed did nothing
                handler(self, call)
        self.operations.sort(key=lambda operation: operation.begun)

    def _calls(self, trace: str) -> Iterator[_Call]:
        """Yield the calls in the order they ended: only then is the number of a new descriptor known.

        A close counts from its beginning: another thread may get the number before this one has returned.
        """
        open_calls: dict[str, _Call] = {}
        for line in trace.splitlines():
            self._lines += 1
            if found := _UNFINISHED.match(line):
                thread, name, arguments = found.groups()
                open_calls[thread] = _Call(name, arguments.split(", "), None, self._lines, NEVER)
                if name == "close":
                    yield open_calls.pop(thread)
            elif found := _RESUMED.match(line):
                thread, _, arguments, result = found.groups()
                if thread not in open_calls:  # a close
                    continue
                call = open_calls.pop(thread)
                call.arguments += arguments.split(", ") if arguments else []
                call.result, call.ended = _number(result), self._lines if result != "?" else NEVER
                yield call
            elif found := _CALL.match(line):
                _, name, arguments, result = found.groups()
                ended = self._lines if result != "?" else NEVER
                yield _Call(name, arguments.split(", "), _number(result), self._lines, ended)
        yield from open_calls.values()

    # ------------------------------------------------------------------------------------------ names

    def _place(self, quoted: str) -> tuple[int, str] | None:
        """Return (folder, name) of a path below the root, or None: it is elsewhere, or the root itself."""
        relative = self._below(quoted)
        if not relative:
            return None
        *above, name = relative.split("/")
        folder = ROOT
        for part in above:
            found = self._entries.get((folder, part))
            if found is None:
                return None  # the call failed, or will
            folder = found
        return folder, name

    def _below(self, quoted: str) -> str | None:
        path = os.path.normpath(_bytes(quoted).decode())
        if path == self.root:
            return ""
        return path[len(self.root) + 1 :] if path.startswith(self.root + "/") else None

    def _new_node(self) -> int:
        self._nodes += 1
        return self._nodes

    # ------------------------------------------------------------------------------------------ the calls

    def _openat(self, call: _Call) -> None:
        folder, path, flags, *_ = call.arguments
        self._open(call, path, flags, known=folder == "AT_FDCWD")

    def _plain_open(self, call: _Call) -> None:
        self._open(call, call.arguments[0], call.arguments[1], known=True)

    def _open(self, call: _Call, path: str, flags: str, *, known: bool) -> None:
        if call.result is None:
            return
        if not known and ("O_CREAT" in flags or "O_TRUNC" in flags):
            raise NotModelled(f"{call.name} beside another folder: {call.arguments}")
        self._descriptors.pop(call.result, None)
        if self._below(path) == "":
            self._descriptors[call.result] = _Open(ROOT)
        place = self._place(path)
        if place is None:
            return
        node = self._entries.get(place)
        if node is None:
            node = self._new_node()
            self._entries[place] = node
            if place[1].endswith("-shm"):
                self._shared.add(node)
            self.operations.append(Enter(call.begun, call.ended, *place, node))
        elif "O_TRUNC" in flags:
            self.operations.append(Resize(call.begun, call.ended, node, 0))
        if "O_APPEND" in flags:
            raise NotModelled(f"O_APPEND: {call.arguments}")
        self._descriptors[call.result] = _Open(node)

    def _close(self, call: _Call) -> None:
        self._descriptors.pop(int(call.arguments[0]), None)

    def _dup(self, call: _Call) -> None:
        if int(call.arguments[0]) in self._descriptors:
            raise NotModelled(f"{call.name} of a recorded file")
        if call.result is not None:
            self._descriptors.pop(call.result, None)

    def _write(self, call: _Call) -> None:
        descriptor, data = int(call.arguments[0]), _bytes(call.arguments[1])
        if descriptor == MARK_DESCRIPTOR:
            for line in data.decode().splitlines():
                self.operations.append(Mark(call.begun, call.ended, line))
            return
        found = self._descriptors.get(descriptor)
        if found is not None:
            self._written(call, found.node, found.position, data)
            found.position += len(data)

    def _pwrite(self, call: _Call) -> None:
        found = self._descriptors.get(int(call.arguments[0]))
        if found is not None:
            self._written(call, found.node, int(call.arguments[3]), _bytes(call.arguments[1]))

    def _written(self, call: _Call, node: int, offset: int, data: bytes) -> None:
        if call.result is not None and call.result != len(data):
            raise NotModelled(f"a short write: {call.result} of {len(data)}")
        self.operations.append(Write(call.begun, call.ended, node, offset, data))

    def _lseek(self, call: _Call) -> None:
        found = self._descriptors.get(int(call.arguments[0]))
        if found is not None and call.result is not None:
            found.position = call.result

    def _ftruncate(self, call: _Call) -> None:
        found = self._descriptors.get(int(call.arguments[0]))
        if found is not None:
            self.operations.append(Resize(call.begun, call.ended, found.node, int(call.arguments[1])))

    def _fallocate(self, call: _Call) -> None:
        """A file that is still empty gets its length: the reserve. Another use would not be a change of size alone."""
        found = self._descriptors.get(int(call.arguments[0]))
        if found is None:
            return
        mode, offset, length = map(int, call.arguments[1:4])
        if (
            mode
            or offset
            or any(isinstance(each, Write | Resize) and each.node == found.node for each in self.operations)
        ):
            self._refuse(call)
        self.operations.append(Resize(call.begun, call.ended, found.node, length))

    def _sync(self, call: _Call) -> None:
        found = self._descriptors.get(int(call.arguments[0]))
        if found is not None:
            self.operations.append(Sync(call.begun, call.ended, found.node))

    def _unlink(self, call: _Call) -> None:
        self._gone(call, call.arguments[0])

    def _unlinkat(self, call: _Call) -> None:
        if call.arguments[0] != "AT_FDCWD":
            raise NotModelled(f"unlinkat beside another folder: {call.arguments}")
        self._gone(call, call.arguments[1])

    def _gone(self, call: _Call, path: str) -> None:
        place = self._place(path)
        if place is not None and self._entries.pop(place, None) is not None:
            self.operations.append(Leave(call.begun, call.ended, *place))

    def _rename(self, call: _Call) -> None:
        old, new = (self._place(path) for path in call.arguments[:2])
        if old is None and new is None:
            return
        if old is None or new is None or old[0] != new[0]:
            raise NotModelled(f"a rename from one folder to another: {call.arguments}")
        self._entries[new] = self._entries.pop(old)
        self.operations.append(Move(call.begun, call.ended, *old, new[1]))

    def _mkdir(self, call: _Call) -> None:
        place = self._place(call.arguments[0])
        if place is not None and place not in self._entries:
            node = self._new_node()
            self._entries[place] = node
            self.operations.append(Enter(call.begun, call.ended, *place, node, is_folder=True))

    def _mmap(self, call: _Call) -> None:
        _, _, access, kind, descriptor, _ = call.arguments
        found = self._descriptors.get(int(descriptor))
        if found is None or "PROT_WRITE" not in access or "MAP_SHARED" not in kind:
            return
        if found.node not in self._shared:
            raise NotModelled(f"a writable mapping of a recorded file: {call.arguments}")

    def _clone(self, call: _Call) -> None:
        if "CLONE_FILES" not in ", ".join(call.arguments):
            raise NotModelled("the process made a child process")

    def _refuse(self, call: _Call) -> None:
        raise NotModelled(f"{call.name}({', '.join(call.arguments)[:200]})")


_HANDLERS: dict[str, Callable[[Recorder, _Call], None]] = {
    "openat": Recorder._openat,
    "open": Recorder._plain_open,
    "close": Recorder._close,
    "dup": Recorder._dup,
    "dup2": Recorder._dup,
    "dup3": Recorder._dup,
    "write": Recorder._write,
    "pwrite64": Recorder._pwrite,
    "lseek": Recorder._lseek,
    "ftruncate": Recorder._ftruncate,
    "fallocate": Recorder._fallocate,
    "fsync": Recorder._sync,
    "fdatasync": Recorder._sync,
    "unlink": Recorder._unlink,
    "unlinkat": Recorder._unlinkat,
    "rename": Recorder._rename,
    "mkdir": Recorder._mkdir,
    "mmap": Recorder._mmap,
    "clone": Recorder._clone,
    "clone3": Recorder._clone,
}


def _number(result: str) -> int | None:
    return None if result == "?" else int(result, 0)


def _bytes(quoted: str) -> bytes:
    """Return the bytes of one of strace's texts, which is all `\\xNN` between quotes."""
    if not (quoted.startswith('"') and quoted.endswith('"')):
        raise NotModelled(f"strace cut a text off: {quoted[-40:]}")
    return bytes.fromhex(quoted[1:-1].replace("\\x", ""))
