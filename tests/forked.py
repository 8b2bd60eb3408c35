"""Python processes that begin within milliseconds: forks of one that has imported the library already.

`Popen` and `run` take what subprocess's do, for `[sys.executable, SCRIPT, ...]` and with `-m MODULE` or `-c CODE`. The
child is as real: it has a number of its own, it is killed, it ends as an interpreter does. A new interpreter would
spend 0.7 seconds of processor time on its imports. What the start itself does is tested with subprocess. Where there
are no forks that one may trust (Windows, macOS), these are subprocess's own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import select
import socket
import subprocess
import sys
import threading
import time
from types import ModuleType
from typing import Any, AnyStr

import outbox

_LONGEST = 1 << 20
_ENVIRONMENT = dict(os.environ)  # whatever the test that asks first has changed
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - for sys.path


class _Server:
    """The process that forks; started when the first child is asked for, it ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None

    def ask(self, descriptors: list[int], **order: Any) -> Any:
        with self._lock:
            channel = self._channel = self._channel or self._started()
            socket.send_fds(channel, [json.dumps(order).encode()], descriptors)
            return json.loads(channel.recv(_LONGEST))

    def _started(self) -> socket.socket:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (mine, its):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _LONGEST)
        with its:
            command = [sys.executable, "-m", "tests.forked", str(its.fileno())]
            process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env=_ENVIRONMENT,
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

        def stop() -> None:
            mine.close()
            process.wait()

        atexit.register(stop)
        return mine


_server = _Server()


class _Forked(subprocess.Popen[AnyStr]):
    """Starts and waits by way of the server, whose child it is; the rest is `Popen`'s own."""

    def _execute_child(self, args: list[str], executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any,
                       env: Any, startupinfo: Any, creationflags: Any, shell: Any, *more: Any) -> None:  # fmt: skip
        assert args[0] == sys.executable, args
        read, theirs_in, ours_out, out, ours_error, error = more[:6]
        streams = [each if each != -1 else standard for standard, each in enumerate((read, out, error))]
        self.pid = _server.ask(
            streams, arguments=list(map(str, args[1:])), cwd=os.fspath(cwd or os.getcwd()),  # noqa: PTH109
            env=dict(os.environ if env is None else env),
        )  # fmt: skip
        self._child_created = True
        void = getattr(self, "_devnull", None)
        for its, ours in ((read, theirs_in), (out, ours_out), (error, ours_error)):
            if its != -1 and ours != -1 and its != void:
                os.close(its)
        if void is not None:
            os.close(void)
        self._closed_child_pipe_fds = True

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if not wait_flags:  # the server waits for nobody: it has others to serve
            descriptor = os.pidfd_open(self.pid)
            try:
                select.select([descriptor], [], [])
            finally:
                os.close(descriptor)
        pid, status = _server.ask([], wait=self.pid)
        return pid, status

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid == self.pid:
                        self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


Popen = _Forked if sys.platform == "linux" else subprocess.Popen


def run(
    command: list[str], *, input: str | None = None, check: bool = False, timeout: float | None = None,
    capture_output: bool = False, **options: Any,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """As `subprocess.run`, in text mode."""
    options["text"] = True
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **options) as process:
        try:
            out, error = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, error)
    if check:
        done.check_returncode()
    return done


# ------------------------------------------------------------------------------------------ in the process that forks


def _next_child(channel: socket.socket) -> list[str] | None:
    """Fork for each order. In a child: return its arguments. In the server: None once the owner has ended."""
    children: set[int] = set()
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, _LONGEST, 3)
        if not message:
            for pid in children:
                os.kill(pid, 9)
            return None
        order = json.loads(message)
        answer: Any
        if "wait" in order:
            answer = pid, _ = os.waitpid(order["wait"], os.WNOHANG)
            children.discard(pid)
        else:
            answer = pid = os.fork()
            if not pid:
                channel.close()
                _become(order, descriptors)
                return list(order["arguments"])
            children.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(json.dumps(answer).encode())


def _become(order: dict[str, Any], descriptors: list[int]) -> None:
    for standard, descriptor in enumerate(descriptors):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    # Those of the server have found out what its files can do.
    for name, standard, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        errors, buffering = ("backslashreplace", 1) if name == "stderr" else ("strict", -1)
        stream = open(standard, mode, buffering, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    random.seed()  # or all children would throw the same dice


def _live(arguments: list[str]) -> None:
    """Do what an interpreter with these arguments does."""
    first, *rest = arguments
    if first == "-m":
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    else:
        sys.argv[:] = arguments
        runpy.run_path(first, run_name="__main__")


def _import_all() -> None:
    """Import what children will find imported: all but the pages and the metrics, which need more than the library."""
    for found in pkgutil.walk_packages(outbox.__path__, "outbox."):
        if not found.name.startswith(("outbox.web", "outbox.metrics", "outbox._")) and "__main__" not in found.name:
            importlib.import_module(found.name)


if __name__ == "__main__":
    _import_all()
    gc.freeze()  # what no collection visits stays shared
    asked = _next_child(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        _live(asked)
