"""What a process asked of its disk, as plain values: the recorder makes them, the image builder reads them.

A node is a number that stands for one file or folder, whatever its name is at the moment; 0 is the recorded folder
itself, which was there before and is on the disk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ROOT = 0
NEVER = math.inf  # the process died inside the call


@dataclass(frozen=True, slots=True)
class Operation:
    """One call. begun, ended: places in the recording; between them another thread's calls may stand."""

    begun: int
    ended: float


@dataclass(frozen=True, slots=True)
class Write(Operation):
    """`data` at `offset` of a file."""

    node: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resize(Operation):
    """The file is `size` bytes long from here on."""

    node: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync(Operation):
    """What was done to the node before this began is on the disk when this has ended."""

    node: int


@dataclass(frozen=True, slots=True)
class Enter(Operation):
    """`name` in a folder is a node: a new file, or a folder if `is_folder`."""

    folder: int
    name: str
    node: int
    is_folder: bool = False


@dataclass(frozen=True, slots=True)
class Leave(Operation):
    """`name` in a folder is nothing any more."""

    folder: int
    name: str


@dataclass(frozen=True, slots=True)
class Move(Operation):
    """`name` in a folder is called `to` from here on; what was called so is gone."""

    folder: int
    name: str
    to: str


@dataclass(frozen=True, slots=True)
class Mark(Operation):
    """The process said something to the outside, such as an acknowledgement."""

    text: str
