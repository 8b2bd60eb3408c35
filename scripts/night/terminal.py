"""An operator's terminal: runs what is typed, keeps what came back, and holds the operator to what he was told.

The commands run for real, in the bot's folder, 80 columns wide. `outbox` is this checkout's, `psql` PostgreSQL's own,
`sqlite3` the system's.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TIMEOUT_S: Final = 200


class NightError(RuntimeError):
    """The night did not go as it should: nothing suggested a command, one failed, or a condition never came."""


@dataclass(frozen=True, slots=True)
class Typed:
    """One command and its answer. name: of its block on the page. varies: its numbers differ from night to night."""

    name: str
    command: str
    answer: str
    code: int
    varies: bool


def flat(text: str) -> str:
    """Return the text with each run of spaces and line ends as one space: a suggestion may be cut into lines."""
    return re.sub(r"\s+", " ", text)


class Terminal:
    """What is typed and what comes back, in order."""

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, str],
        programs: Mapping[str, list[str]],
        say: Callable[[str], None],
    ) -> None:
        """environment: added to a clean one. programs: what each first word runs. say: told each line as it comes."""
        self.typed: list[Typed] = []
        self._folder = folder
        self._programs = programs
        self._environment = environment
        self._say = say

    def types(
        self,
        name: str,
        command: str,
        *,
        told: str = "",
        codes: tuple[int, ...] = (0,),
        answers: str = "",
        editor: str = "",
        varies: bool = False,
    ) -> Typed:
        """Run the command and return it with its answer.

        told: the words of an earlier answer that suggest it; "": it only looks, as the README says. codes: the exit
        codes that are expected. answers: what is typed at a question. editor: what stands for the operator's editor.
        Raises NightError: nothing suggested it, or it ended with another code.
        """
        if told and not any(flat(told) in flat(typed.answer) for typed in self.typed):
            raise NightError(f"{command!r}: no answer so far says {told!r}")
        answer, code = self._run(command, answers, {"EDITOR": editor, "VISUAL": editor} if editor else {})
        typed = Typed(name, command, answer, code, varies)
        if code not in codes:
            raise NightError(f"{command!r} ended with code {code}:\n{answer}")
        self.typed.append(typed)
        self._say(f"$ {command}\n{answer}")
        return typed

    def _run(self, command: str, answers: str, more: Mapping[str, str]) -> tuple[str, int]:
        program, *arguments = shlex.split(command)
        arguments = [self._environment["SUPABASE_DB_URL"] if word == "$SUPABASE_DB_URL" else word for word in arguments]
        call = [*self._programs.get(program, [shutil.which(program) or program]), *arguments]
        env = {"COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
        done = subprocess.run(
            call,
            cwd=self._folder,
            env={**clean_environment(), **env, **self._environment, **more},
            input=answers + "\n" if answers else "",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=_TIMEOUT_S,
            check=False,
        )
        # A terminal echoes what is typed at a question; a pipe does not.
        answer = re.sub(r"(\[y/N\]: )", rf"\1{answers}\n", done.stdout) if answers else done.stdout
        return "\n".join(line.rstrip() for line in answer.rstrip().splitlines()), done.returncode


def clean_environment() -> dict[str, str]:
    """Return this process's environment without the reader's own project: the night has its own, in .env."""
    ours = ("OUTBOX_", "SUPABASE_", "PG")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def outbox_command() -> list[str]:
    """Return what the word `outbox` runs."""
    return [sys.executable, "-m", "outbox"]
