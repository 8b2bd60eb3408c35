"""Forks the victims of the kill tests: one process imports the library once, and each life begins within milliseconds.

A fork of a process with nothing but its main thread is a fresh start as far as the outbox can tell; an interpreter of
its own would cost half a second for each of hundreds of lives. Not on Windows, which cannot fork, nor on macOS, whose
system libraries do not bear it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

AVAILABLE = sys.platform.startswith("linux")
_LONGEST = 1 << 16


class Nursery:
    """The process that forks, as its owner sees it; as a context manager it ends with the block."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(its.fileno())],
                pass_fds=[its.fileno()],
                env={**os.environ, **environment},
            )
        self._channel = mine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        self._process.wait()

    def start(self, arguments: Sequence[str], *, log: IO[bytes], cwd: Path, env: Mapping[str, str]) -> Child:
        """Fork a child that runs a script of `SCRIPTS`; its standard output is a pipe, its errors go to `log`."""
        reading, writing = os.pipe()
        order = {"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}
        try:
            socket.send_fds(self._channel, [json.dumps(order).encode()], [writing, log.fileno()])
        finally:
            os.close(writing)
        return Child(self, self._answer(), os.fdopen(reading, "rb"))

    def ask(self, **order: Any) -> Any:
        self._channel.send(json.dumps(order).encode())
        return self._answer()

    def _answer(self) -> Any:
        return json.loads(self._channel.recv(_LONGEST))


class Child:
    """One life. It is the nursery's child and no one else waits for it, so that its number stays its own."""

    def __init__(self, nursery: Nursery, pid: int, stdout: IO[bytes]) -> None:
        self.stdout: IO[bytes] | None = stdout
        self.returncode: int | None = None
        self._nursery = nursery
        self._pid = pid

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.ask(wait=self._pid, options=os.WNOHANG)
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            self._nursery.ask(kill=self._pid)

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = self._nursery.ask(wait=self._pid, options=0)
        assert self.returncode is not None
        return self.returncode


# ------------------------------------------------------------------------------------------ in the process that forks


def serve(channel: socket.socket, scripts: Mapping[str, Callable[[list[str]], object]]) -> None:
    """Do what the owner says until it closes the channel."""
    children: set[int] = set()
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, _LONGEST, 2)
        if not message:
            break
        order = json.loads(message)
        answer: object = None
        if "arguments" in order:
            answer = pid = os.fork()
            if pid == 0:
                channel.close()
                _live(order, descriptors, scripts)
            children.add(pid)
            for descriptor in descriptors:
                os.close(descriptor)
        elif "kill" in order:
            os.kill(order["kill"], signal.SIGKILL)
        else:
            pid, status = os.waitpid(order["wait"], order["options"])
            answer = os.waitstatus_to_exitcode(status) if pid else None
            children.discard(pid)
        channel.send(json.dumps(answer).encode())
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _live(order: dict[str, Any], descriptors: list[int], scripts: Mapping[str, Callable[[list[str]], object]]) -> None:
    """Be the script that was asked for, and never return."""
    code = 1
    try:
        for descriptor, standard in zip(descriptors, (1, 2), strict=True):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        random.seed()  # or all children would throw the same dice
        script, *arguments = order["arguments"]
        scripts[Path(script).name](arguments)
        code = 0
    except BaseException:  # noqa: BLE001 - a child's end, whatever it is, must not become the nursery's
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    from tests.proof.crash import entrances, writer

    serve(socket.socket(fileno=int(sys.argv[1])), {"writer.py": writer.run, "entrances.py": entrances.run})
