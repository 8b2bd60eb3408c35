"""Reads what is intact in a broken JSON text: a list's whole objects, an object's whole members.

A crash during writing cuts a file short, leaves zeros in it, or leaves two files in one; whole parts are still there.
A list is read through a window that moves along it, so that a large one is never entirely in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_DECODER = json.JSONDecoder()
_BETWEEN = re.compile(r"[\s,\ufeff]*")
_KEY = re.compile(r"[\s,]*(?=\")")
_COLON = re.compile(r"\s*:\s*")
_END_OF_MEMBER = re.compile(r"\s*[,}]")
NOT_UTF8 = re.compile("[\udc80-\udcff]")

# If a value ends beyond the window, a window of twice the size is tried, up to this: no row is larger. It bounds the
# cost of brackets that are never closed, each of which is tried.
LONGEST = 1 << 20
# The longest word of JSON, or escape in a string, that may have been cut: \ud83d\ude00.
_WORD = 12


class Place(NamedTuple):
    """Where something begins or ends: characters and bytes from 0, lines from 1."""

    character: int
    byte: int
    line: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text. value: the object that it holds; None: `problem` says what is wrong."""

    start: Place
    end: Place
    value: Mapping[str, Any] | None = None
    problem: str = ""


EMPTY = "it is empty: the old module was cut off while it wrote"
CUT_SHORT = "the list is not closed: what stood behind this was never written, or is lost"
BEHIND = "it stands behind the end of the list"
NOT_ONE = "it is not what this file should hold"
BROKEN = "it is not JSON"
NO_UTF8 = "it is not UTF-8"


class Text(str):
    """A text whose lines are never counted.

    `JSONDecodeError` counts the lines before the error: a text with many errors would take quadratic time.
    """

    __slots__ = ()

    def count(self, *_: object) -> int:
        return 0

    def rfind(self, *_: object) -> int:
        return -1


class Window:
    """A part of a text that comes in blocks. Positions are characters from the window's start.

    Bytes that are not UTF-8 become surrogates, as with Python's `surrogateescape`.
    """

    def __init__(self, blocks: Iterable[str]) -> None:
        self.text: Text = Text()
        self._blocks = iter(blocks)
        self._start = 0  # in characters of the whole text
        self._known = Place(0, 0, 1)  # the last place asked for, or the window's start

    def grow(self) -> bool:
        """Double the window; False: it already reaches the end of the text."""
        parts: list[str] = [self.text]
        longer = 0
        while longer < max(len(self.text), 1) and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            longer += len(block)
        if longer:
            self.text = Text("".join(parts))
        return longer > 0

    def place(self, position: int) -> Place:
        """Return the place of `position`, which must not be before an earlier one asked for."""
        between = self.text[self._known.character - self._start : position]
        size = len(between) if between.isascii() else len(between.encode("utf-8", "surrogateescape"))
        lines = self._known.line + str.count(between, "\n")
        self._known = Place(self._start + position, self._known.byte + size, lines)
        return self._known

    def drop(self, position: int) -> int:
        """Drop the text before `position` once it is half the window, and return its new position.

        The last word before it stays, for lookbehind.
        """
        if 2 * position < len(self.text):
            return position
        kept = len(self.text[:position].rstrip()) - 1
        if kept <= 0:
            return position
        if self._start + kept > self._known.character:
            self.place(kept)
        self.text, self._start = Text(self.text[kept:]), self._start + kept
        return position - kept


Found = tuple[Any, int]


def pieces(window: Window, wanted: Callable[[Mapping[str, Any]], bool]) -> Iterator[Piece]:
    """Yield the objects of the list that a text should be, and the unreadable parts between them, in order.

    wanted: tells an object of the list from one inside a broken one. Reading continues at the next wanted object.
    """
    start = window.place(0)
    position = _behind_blanks(window, 0)
    if position == len(window.text):
        yield Piece(start, window.place(position), problem=EMPTY)
        return
    opened = window.text[position] == "["
    position += opened
    while True:
        position = _behind_blanks(window, window.drop(position))
        start = window.place(position)
        if position == len(window.text):
            if opened:
                yield Piece(start, start, problem=CUT_SHORT)
            return
        if opened and window.text[position] == "]":
            yield from _rest(window, position + 1)
            return
        value, problem = None, BROKEN
        found = _value(window, position)
        if found is None:
            position = _next_wanted(window, position + 1, wanted)
        else:
            value, end = found
            text = NOT_UTF8.search(window.text, position, end) is None
            fits = isinstance(value, dict) and wanted(value)
            value, problem = (value, "") if fits and text else (None, NO_UTF8 if fits else NOT_ONE)
            position = end
        yield Piece(start, window.place(position), value, problem)


def _rest(window: Window, position: int) -> Iterator[Piece]:
    # Not read: if two processes wrote the file, it is an older version of what comes before it.
    position = _behind_blanks(window, position)
    start = window.place(position)
    while position < len(window.text):
        position = window.drop(len(window.text))
        if not window.grow():
            yield Piece(start, window.place(position), problem=BEHIND)
            return


def _behind_blanks(window: Window, position: int) -> int:
    while True:
        position = _BETWEEN.match(window.text, position).end()  # type: ignore[union-attr]
        if position < len(window.text) or not window.grow():
            return position


def _value(window: Window, position: int) -> Found | None:
    """Return the JSON value that begins at `position`, and where it ends; None: there is none."""
    while True:
        found, cut = _one(window.text, position)
        if not cut or len(window.text) - position > LONGEST or not window.grow():
            return found


def _one(text: str, position: int) -> tuple[Found | None, bool]:
    """Return the same for a text that may continue, and whether more text may change it."""
    try:
        value, end = _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        return None, error.pos >= len(text) - _WORD or error.msg.startswith("Unterminated")
    except (ValueError, RecursionError):  # too many digits raise ValueError, too many brackets RecursionError
        return None, False
    # A number cut off by the text's end looks like a shorter one.
    cut = end == len(text) and not isinstance(value, dict | list | str)
    return None if cut else (value, end), cut


def _next_wanted(window: Window, position: int, wanted: Callable[[Mapping[str, Any]], bool]) -> int:
    """Return where the next wanted object begins; the text's length: there is none."""
    while True:
        bracket = window.text.find("{", position)
        if bracket < 0:
            position = window.drop(len(window.text))
            if not window.grow():
                return position
            continue
        position = window.drop(bracket)
        # After a colon it is a value inside the broken one.
        found = None if _is_value(window.text, position) else _value(window, position)
        if found is not None and wanted(found[0]):
            return position
        position = position + 1 if found is None else found[1]


def _is_value(text: str, position: int) -> bool:
    before = position - 1
    while before >= 0 and text[before].isspace():
        before -= 1
    return before >= 0 and text[before] == ":"


def members(text: str) -> tuple[dict[str, Any], int]:
    """Return the whole members of the object that `text` should be, and where reading ended: at its end if it is whole.

    A value counts only if the character after it is there: 100 may be the beginning of 10000.
    """
    text = Text(text)
    start = text.find("{")
    if start < 0:
        return {}, 0
    whole, _ = _one(text, start)
    if whole is not None:
        return dict(whole[0]), len(text.rstrip()) if not text[whole[1] :].strip() else whole[1]
    found: dict[str, Any] = {}
    position = start + 1
    while (member := _member(text, position)) is not None:
        name, found[name], position = member
    return found, position


def _member(text: str, position: int) -> tuple[str, Any, int] | None:
    key_at = _KEY.match(text, position)
    try:
        name, end = _DECODER.raw_decode(text, key_at.end()) if key_at else (None, 0)
        colon = _COLON.match(text, end)
        if not isinstance(name, str) or colon is None:
            return None
        value, end = _DECODER.raw_decode(text, colon.end())
    except (ValueError, RecursionError):
        return None
    return (name, value, end) if _END_OF_MEMBER.match(text, end) else None
