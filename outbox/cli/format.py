"""How output is formatted: consoles, ages, moments, sizes, and what a server said. Fits 80 columns."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TextIO, cast

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from outbox.doctor.findings import typed as quote

_LONGEST_QUOTE = 400
_BLANKS = re.compile(r"[ \t]+(?=\n)")
# "outbox requeue" in a sentence, but not `outbox status` in backticks, which is only mentioned.
_COMMAND = re.compile(
    r"(?<!`)\boutbox (?:acknowledge|adopt|dead|discard|doctor|drain|edit|find|ls|outages|reload|requeue|resend|salvage"
    r"|show|status)\b"
)
_given: ContextVar[Path | None] = ContextVar("_given", default=None)
# The range of datetime: the first second of the year 1, the last one of 9999. A shell may have put any number.
_FIRST_S, _LAST_S = -62_135_596_800, 253_402_300_799


class _Console(Console):
    """Stops writing when nobody reads any more: `| head`. Rich would exit with 1, a code with a meaning of its own."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        hang_up()


def hang_up() -> None:
    """Discard any further output to stdout: otherwise Python complains again when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console(*, stderr: bool = False) -> Console:
    """Return a console that shows text as it is: a server's words are not markup."""
    stream = sys.stderr if stderr else sys.stdout
    out = None if stream.isatty() else cast("IO[str]", _Trimmed(stream))
    return _Console(file=out, stderr=stderr, markup=False, highlight=False, emoji=False)


def say(words: str) -> None:
    """Print a sentence that is never wrapped: a path or a command in it is there to be copied."""
    console().print(words, soft_wrap=True)


def complain(words: str) -> None:
    """Print what went wrong to stderr, never wrapped."""
    console(stderr=True).print(f"outbox: {words}", soft_wrap=True)


def indented(words: str | Text, by: int = 2) -> Padding:
    """Return words of which each line begins `by` columns to the right."""
    return Padding(words, (0, 0, 0, by))


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows the progress on a terminal."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    out = console(stderr=True)
    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Trimmed:
    """A stream that strips trailing blanks from lines: a table pads its last column. Rich writes whole lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(_BLANKS.sub("", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def remember_path(path: Path | None) -> None:
    """Note the file given with --path: suggested commands must name it, too."""
    _given.set(path)


def typed(words: str, path: Path | None = None) -> str:
    """Return `words` with each command in them as it is to be typed: with the --path given to this one.

    path: added in any case.
    """
    named = path or _given.get()
    return words if named is None else _COMMAND.sub(lambda found: f"{found[0]} --path {quote(named)}", words)


def age(seconds: float) -> str:
    """Return `seconds` in its two largest units: `3 min 20 s`, `2 d 4 h`; below one second `0 s`."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for name, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        number, left = divmod(left, length)
        if number or parts:
            parts.append(f"{number} {name}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 ")) or "0 s"


def ago(unix_ms: int, now_ms: int) -> str:
    """Return how long before `now_ms` a moment was: `3 min 20 s ago`."""
    return f"{age((now_ms - unix_ms) / 1000)} ago"


def moment(unix_ms: int) -> str:
    """Return a Unix time in milliseconds as UTC, ISO 8601, to the second; the nearest one in the years 1 to 9999."""
    return _second(min(max(unix_ms // 1000, _FIRST_S), _LAST_S))


def utc(unix_ms: int) -> str:
    """Return a moment without its offset, for a sentence that says UTC."""
    return moment(unix_ms)[:19]


@lru_cache(maxsize=4096)  # a million rows of an export share their seconds
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")


def fields(found: object, *names: str, **renamed: str) -> dict[str, Any]:
    """Return fields of a result as `--json` prints them, under their own names or others: `last_look="looked_ms"`.

    A field whose name ends with _ms is a time: it becomes a moment, or null, under the name without that ending.
    """

    def value_of(name: str) -> Any:
        value = getattr(found, name)
        return moment(value) if name.endswith("_ms") and value is not None else value

    asked = {name.removesuffix("_ms"): name for name in names} | renamed
    return {shown: value_of(name) for shown, name in asked.items()}


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: `1 entry`, `2 entries`. many: the plural, if it is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def size(number: int) -> str:
    """Return bytes in the unit that suits them: `512 B`, `4.0 MiB`."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{number} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def plain(words: str) -> str:
    """Return a line that cannot control the terminal, uncut."""
    return "".join(char if char.isprintable() else " " for char in words)


def quoted(words: str) -> str:
    """Return what a server said on one line, cut to 400 characters; it must not control the terminal."""
    text = plain(words)
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."


def said(status: int | None, code: str | None, message: str | None) -> str:
    """Return a server's answer on one line."""
    return quoted(" ".join(str(part) for part in (status, code, message) if part))
