"""The broker: starts the bot, reports fills to it, and remembers what it acknowledged in any life."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from night.terminal import clean_environment

BOT = Path(__file__).with_name("bot.py")


class Broker:
    """One bot at a time, fed through its standard input and heard through its standard output."""

    def __init__(self, folder: Path, log: Path) -> None:
        """folder: where the bot runs. log: the file for what it says on stderr."""
        self.told: dict[str, set[int]] = defaultdict(set)
        self.log = log
        self._folder = folder
        self._bot: subprocess.Popen[bytes] | None = None
        self._ear: threading.Thread | None = None
        self._mouth: threading.Thread | None = None

    def start(self) -> None:
        """Start the bot."""
        with self.log.open("ab") as log:
            self._bot = subprocess.Popen(
                [sys.executable, str(BOT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._folder,
                env=clean_environment(),
            )
        assert self._bot.stdout is not None
        self._ear = threading.Thread(target=self._listen, args=(self._bot.stdout,), daemon=True)
        self._ear.start()

    def _listen(self, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                if line.endswith(b"\n"):  # a line that the kill cut off acknowledges nothing
                    what, number = json.loads(line)
                    self.told[what].add(int(number))

    def report(self, fills: Iterable[object]) -> None:
        """Report fills, from a thread: the bot may read them slowly, or be killed."""
        assert self._bot is not None
        assert self._bot.stdin is not None
        lines = [json.dumps(fill).encode() + b"\n" for fill in fills]
        self._join_mouth()
        self._mouth = threading.Thread(target=_write, args=(self._bot.stdin, lines), daemon=True)
        self._mouth.start()

    def kill(self) -> None:
        """SIGKILL (Windows: TerminateProcess), if it runs: no handler runs, nothing is flushed."""
        if self._bot is not None:
            self._bot.kill()
            self._end()

    def hang_up(self) -> None:
        """Report nothing more, and wait until the bot has ended by itself. Raises RuntimeError: it failed."""
        assert self._bot is not None
        assert self._bot.stdin is not None
        self._join_mouth()
        self._bot.stdin.close()
        code = self._bot.wait(timeout=300)
        self._end()
        if code != 0:
            raise RuntimeError(f"exit code {code}:\n{self.last_words()}")

    def last_words(self) -> str:
        """Return the end of the bot's log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:]

    def _end(self) -> None:
        assert self._bot is not None
        assert self._bot.stdin is not None
        assert self._ear is not None
        self._bot.wait()
        self._ear.join()
        self._join_mouth()
        with contextlib.suppress(OSError):  # what was still to be written is gone with its reader
            self._bot.stdin.close()
        self._bot = None

    def _join_mouth(self) -> None:
        if self._mouth is not None:
            self._mouth.join()
            self._mouth = None


def _write(pipe: IO[bytes], lines: Sequence[bytes]) -> None:
    with contextlib.suppress(OSError):  # it was killed meanwhile
        for line in lines:
            pipe.write(line)
            pipe.flush()
