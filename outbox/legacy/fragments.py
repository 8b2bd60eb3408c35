"""What can be read of a broken JSON text: a list's whole objects, an object's whole members.

A crash while it was written cuts a file short, leaves zeros in it, or two files in one; what is whole is still there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_DECODER = json.JSONDecoder()
_BETWEEN = re.compile(r"[\s,\ufeff]*")
_KEY = re.compile(r"[\s,]*(?=\")")
_COLON = re.compile(r"\s*:\s*")
_END_OF_MEMBER = re.compile(r"\s*[,}]")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text, from `start` up to `end`. value: the object that it is; None: `problem` says what it is."""

    start: int
    end: int
    value: Mapping[str, Any] | None = None
    problem: str = ""


CUT_SHORT = "the list is not closed: what stood behind this was never written, or is lost"
BEHIND = "it stands behind the end of the list"
NOT_ONE = "it is not what this file should hold"
BROKEN = "it is no JSON"


class Text(str):
    """A text whose lines nobody counts.

    `JSONDecodeError` counts those before the error: a text with many errors would cost the square of its length.
    """

    __slots__ = ()

    def count(self, *_: object) -> int:
        return 0

    def rfind(self, *_: object) -> int:
        return -1


def pieces(text: str, wanted: Callable[[Mapping[str, Any]], bool]) -> Iterator[Piece]:
    """Yield the objects of the list that `text` should be, and between them what cannot be read, in order.

    wanted: tells an object of the list from one inside of a broken one. Reading goes on at the next wanted object.
    """
    text = text if isinstance(text, Text) else Text(text)
    position = _BETWEEN.match(text).end()  # type: ignore[union-attr]
    opened = text.startswith("[", position)
    position += opened
    while True:
        position = _BETWEEN.match(text, position).end()  # type: ignore[union-attr]
        if position == len(text):
            if opened:
                yield Piece(position, position, problem=CUT_SHORT)
            return
        if opened and text[position] == "]":
            yield from _behind(text, position + 1)
            return
        piece = _one(text, position)
        if piece is None:
            piece = Piece(position, _next_wanted(text, position + 1, wanted), problem=BROKEN)
        elif piece.value is None or not wanted(piece.value):
            piece = Piece(piece.start, piece.end, problem=NOT_ONE)
        yield piece
        position = piece.end


def _behind(text: str, position: int) -> Iterator[Piece]:
    # Not read: in a file that two have written, it is an older version of what stands before it.
    start = _BETWEEN.match(text, position).end()  # type: ignore[union-attr]
    if start < len(text):
        yield Piece(start, len(text), problem=BEHIND)


def _one(text: str, position: int) -> Piece | None:
    """Return the JSON value that begins at `position`, with `value` if it is an object; None: none does."""
    try:
        value, end = _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError):  # too many digits are a ValueError, too many brackets the other
        return None
    # A number that the file's end has cut looks like a shorter one.
    cut = end == len(text) and not isinstance(value, dict | list | str)
    return None if cut else Piece(position, end, value if isinstance(value, dict) else None)


def _next_wanted(text: str, position: int, wanted: Callable[[Mapping[str, Any]], bool]) -> int:
    """Return where the next wanted object begins; the text's length: there is none."""
    while (position := text.find("{", position)) >= 0:
        # Behind a colon it is a value inside of the broken one.
        piece = None if _is_value(text, position) else _one(text, position)
        if piece is not None and piece.value is not None and wanted(piece.value):
            return position
        position = position + 1 if piece is None else piece.end
    return len(text)


def _is_value(text: str, position: int) -> bool:
    before = position - 1
    while before >= 0 and text[before].isspace():
        before -= 1
    return before >= 0 and text[before] == ":"


def members(text: str) -> tuple[dict[str, Any], int]:
    """Return the whole members of the object that `text` should be, and where reading ended: at its end, if all is.

    A value counts only once what follows it is there: 100 may be the beginning of 10000.
    """
    start = text.find("{")
    if start < 0:
        return {}, 0
    piece = _one(text, start)
    if piece is not None and piece.value is not None:
        return dict(piece.value), len(text.rstrip()) if not text[piece.end :].strip() else piece.end
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
