"""Looks for keys in what a test leaves behind and in what it, or a process of its own, says.

`tests/conftest.py` asks after every test; `tests/test_secrets.py` plants a key in each of these places.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer.testing

# Every secret key of a project begins like that, the local server's and the tests' made-up ones too.
MARK = b"sb_secret_"
HIDDEN = "sb_<a key, hidden>_"
# Only what the library writes, and what its processes say: a test's own .env holds a key on purpose.
_OURS = (".db", ".log")
# The remote end's own log: Supabase Lite greets with its keys.
_NOT_OURS = "lite.log"
_MOST_BYTES = 20_000_000
# A process that has ended leaves at most a full pipe to be read; one that has left a child of its own is not awaited.
_DRAINED_S = 1.0


def leaks(folder: Path) -> list[Path]:
    """Return the files below `folder` that the library has written and that hold a key."""
    named = (file for file in sorted(folder.rglob("*")) if any(end in str(file.relative_to(folder)) for end in _OURS))
    ours = (file for file in named if file.name != _NOT_OURS and file.is_file())
    return [file for file in ours if file.stat().st_size <= _MOST_BYTES and MARK in file.read_bytes()]


def redacted(text: str) -> str:
    """Return `text` with every key's beginning replaced, so that a report may say where one stood."""
    return text.replace(MARK.decode(), HIDDEN)


class Finder:
    """Looks for a key in what comes in pieces, and keeps no more of it than a key's beginning."""

    def __init__(self) -> None:
        self.found = False
        self._tail = b""

    def feed(self, piece: bytes) -> None:
        """Look at one more piece; a key that two of them share is found as well."""
        seen = self._tail + piece
        self.found = self.found or MARK in seen
        self._tail = seen[1 - len(MARK) :]


@dataclass(slots=True)
class _Pipe:
    """One pipe of a process: which, whose, and the thread that reads it."""

    what: str
    process: subprocess.Popen[Any]
    finder: Finder = field(default_factory=Finder)
    thread: threading.Thread | None = None
    waited_for: bool = False


class Overheard:
    """All that is said while tests run: by their processes, by the commands that they call, to whoever captures it.

    A process that writes to a pipe is read here first and its reader gets every byte after that; one that writes to
    /dev/null writes to a file of ours. Where a test names a file instead, that is looked through. What a process
    inherits is pytest's own: `tests/conftest.py` looks at the report. Pipes and /dev/null on POSIX alone.
    """

    def __init__(self) -> None:
        self._found: list[str] = []
        self._pipes: list[_Pipe] = []
        self._files: dict[Path, tuple[str, int]] = {}  # who writes it; how far it was looked through
        self._undo: list[Callable[[], None]] = []
        self._void = tempfile.NamedTemporaryFile(prefix="outbox-void-", buffering=0)  # noqa: SIM115 - closed by `stop`

    def start(self) -> None:
        """Listen from here on."""
        self._replace(subprocess.Popen, "_get_handles", self._handles if os.name == "posix" else self._known_files)
        self._replace(typer.testing.CliRunner, "invoke", self._invoked)
        self._replace(pytest.CaptureFixture, "readouterr", self._captured)
        self._files[Path(self._void.name)] = ("a process whose output nobody reads", 0)

    def stop(self) -> None:
        """Put everything back."""
        for undo in self._undo:
            undo()
        self._void.close()

    def take(self) -> list[str]:
        """Return where a key was seen since the last time; each place is named once."""
        for pipe in list(self._pipes):
            if pipe.process.returncode is not None and pipe.thread is not None and not pipe.waited_for:
                pipe.thread.join(_DRAINED_S)
                pipe.waited_for = True  # once: nobody may read it, or a grandchild may hold it
            if pipe.finder.found:
                self._found.append(pipe.what)
                pipe.finder.found = False
            if pipe.thread is None or not pipe.thread.is_alive():
                self._pipes.remove(pipe)
        for path, (what, start) in list(self._files.items()):
            self._found += self._searched(path, what, start)
        found, self._found = self._found, []
        return list(dict.fromkeys(found))

    def listen(self, what: str, texts: Iterable[str | bytes]) -> None:
        """Look through something that was said."""
        raw = (text.encode(errors="replace") if isinstance(text, str) else text for text in texts)
        if any(MARK in each for each in raw):
            self._found.append(f"{what} ({_test()})")

    def _searched(self, path: Path, what: str, start: int) -> Iterator[str]:
        """Look through what a file has got since the last time; from a little earlier, for a key that was cut."""
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < start:  # it was begun anew
                    start = 0
                file.seek(max(0, start - len(MARK) + 1))
                content = file.read(_MOST_BYTES)
                end = file.tell()
        except OSError:  # removed with its folder
            del self._files[path]
            return
        if MARK in content:
            yield f"{what} to {path.name}"
        self._files[path] = (what, end)

    # ------------------------------------------------------------------------------------------ where it is overheard

    def _replace(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        setattr(owner, name, lambda *arguments, **named: wrapper(original, *arguments, **named))
        self._undo.append(lambda: setattr(owner, name, original))

    def _handles(self, original: Any, process: Any, stdin: Any, stdout: Any, stderr: Any) -> tuple[int, ...]:
        """`Popen`'s own step that makes its six descriptors; asyncio's processes come by here, too."""
        void = self._void.fileno()
        outs = [void if each == subprocess.DEVNULL else each for each in (stdout, stderr)]
        handles = list(self._known_files(original, process, stdin, *outs))
        for place, name in ((2, "stdout"), (4, "stderr")):
            if handles[place] != -1:
                handles[place] = self._through(_Pipe(_whose(process, name), process), handles[place])
        return tuple(handles)

    def _known_files(self, original: Any, process: Any, stdin: Any, stdout: Any, stderr: Any) -> tuple[int, ...]:
        for name, each in (("stdout", stdout), ("stderr", stderr)):
            path = getattr(each, "name", None)
            if isinstance(path, str) and Path(path).is_file() and Path(path).name != _NOT_OURS:
                self._files.setdefault(Path(path), (_whose(process, name), 0))
        handles: tuple[int, ...] = original(process, stdin, stdout, stderr)
        return handles

    def _through(self, pipe: _Pipe, source: int) -> int:
        """Read `source` in a thread and return the descriptor that gives what was read."""
        reading, writing = os.pipe()
        pipe.thread = threading.Thread(target=_pump, args=(source, writing, pipe.finder), daemon=True)
        self._pipes.append(pipe)
        pipe.thread.start()
        return reading

    def _invoked(self, original: Any, *arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        self.listen("a command's output", (result.output_bytes,))
        return result

    def _captured(self, original: Any, fixture: Any) -> Any:
        result = original(fixture)
        self.listen("captured output", result)
        return result


def _pump(source: int, sink: int, finder: Finder) -> None:
    try:
        while piece := os.read(source, 1 << 16):
            finder.feed(piece)
            left = memoryview(piece)
            while left:
                left = left[os.write(sink, left) :]
    except OSError:  # its reader has gone: closing the other end lets the process feel it, as without us
        pass
    finally:
        os.close(source)
        os.close(sink)


def _whose(process: Any, name: str) -> str:
    return f"{name} of a process ({_test()})"


def _test() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "outside any test")


overheard = Overheard()
