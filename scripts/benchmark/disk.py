"""Where the files are written, and what that says: a file system in memory makes every figure meaningless."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_SYNCS = 50


def kind(folder: Path) -> str:
    """Return the name of the file system that holds `folder`, "" where the system does not tell."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = [(point, name) for _, point, name, *_ in map(str.split, mounts.splitlines())]
    inside = [(len(point), name) for point, name in found if folder.resolve().is_relative_to(point)]
    return max(inside, default=(0, ""))[1]


def is_in_memory(folder: Path) -> bool:
    """Tell whether what is written into `folder` never reaches a disk."""
    return kind(folder) in _IN_MEMORY


def sync_ms(folder: Path) -> float:
    """Return how long one append of 4 KiB with its fsync takes in `folder`: the median, in milliseconds."""
    path = folder / "sync.probe"
    costs = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_SYNCS):
            file.write(bytes(4096))
            before = time.perf_counter()
            os.fsync(file.fileno())
            costs.append(time.perf_counter() - before)
    path.unlink()
    return statistics.median(costs) * 1e3


def slow_sync_library(folder: Path) -> Path | None:
    """Compile `slow_sync.c` into `folder` and return the library; None: not Linux, or no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not sys.platform.startswith("linux") or compiler is None:
        return None
    library = folder / "slow_sync.so"
    source = Path(__file__).with_name("slow_sync.c")
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
    return library if subprocess.call(command) == 0 else None
