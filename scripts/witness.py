"""A process that acknowledges its writes through a pipe, and the means to kill it: for the demo and the kill tests.

The process prints one JSON line `[destination, number]` after the outbox has returned, and not before. What the pipe
has delivered is known outside of the process and of its file, whatever happens to both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class Witness:
    """Starts the process, again after each kill, and remembers every number that it acknowledged in any life."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        popen: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        """arguments: a Python script and its arguments. folder: where it runs; its stderr goes to `bot.log` there.

        popen: starts it, as `subprocess.Popen` does.
        """
        self.acknowledged: dict[str, set[str]] = defaultdict(set)
        self.log_path = folder / "bot.log"
        self._arguments = list(arguments)
        self._popen = popen
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._arrived = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Start the process."""
        with self.log_path.open("ab") as log:
            process = self._popen(
                [sys.executable, *self._arguments],
                stdout=subprocess.PIPE, stderr=log, cwd=self._folder, env=self._environment,
            )  # fmt: skip
        self._process = process
        self._reader = threading.Thread(target=self._listen, args=(process,), daemon=True)
        self._reader.start()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if line.endswith(b"\n"):  # a line that the kill cut off acknowledges nothing
                    destination, number = json.loads(line)
                    with self._arrived:
                        self.acknowledged[destination].add(number)
                        self._arrived.notify_all()
        with self._arrived:
            self._arrived.notify_all()

    def total(self) -> int:
        """Return how many numbers have been acknowledged in all lives."""
        return sum(map(len, self.acknowledged.values()))

    def wait_for(self, total: int, *, timeout_s: float) -> None:
        """Return once `total` numbers have been acknowledged. Raises RuntimeError: it ended or fell silent."""
        process, reader = self._started()
        with self._arrived:
            self._arrived.wait_for(lambda: self.total() >= total or not reader.is_alive(), timeout_s)
        if self.total() < total:
            raise RuntimeError(f"{self.total()} of {total} acknowledged, exit code {process.poll()}:\n{self._tail()}")

    def watch(self, seconds: float) -> None:
        """Return after `seconds`. Raises RuntimeError: it ended by itself meanwhile."""
        process, reader = self._started()
        with self._arrived:
            if self._arrived.wait_for(lambda: not reader.is_alive(), seconds):
                raise RuntimeError(f"exit code {process.poll()}:\n{self._tail()}")

    def kill(self) -> None:
        """SIGKILL (Windows: TerminateProcess): no handler runs, nothing is flushed."""
        process, reader = self._started()
        process.kill()
        process.wait()
        reader.join()

    def end(self) -> None:
        """Kill it if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def ended(self) -> bool:
        """Whether the process has ended by itself. Raises RuntimeError: it failed."""
        process, reader = self._started()
        if process.poll() is None:
            return False
        reader.join()
        if process.returncode != 0:
            raise RuntimeError(f"exit code {process.returncode}:\n{self._tail()}")
        return True

    def _tail(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")[-2000:]

    def _started(self) -> tuple[subprocess.Popen[bytes], threading.Thread]:
        if self._process is None or self._reader is None:
            raise RuntimeError("not started")
        return self._process, self._reader
