"""Where the tests keep their files: in memory where there is room, since a sync costs nothing there.

What a test proves is the same: what was synced is told from the calls (tests/proof/power), and a killed process leaves
on a disk what it leaves in memory. With TMPDIR set they are where it says: TMPDIR=/tmp scripts/test takes the disk.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# A whole run kept 0.6 GB there at most; the rest is for its servers and processes.
NEEDED_BYTES = 4 << 30
# Of the reserve of each outbox that nobody says more of: 8 MiB in memory are twice as many to fill, and then to look
# through for keys. The full disks (tests/proof/disk) have reserves of their own.
RESERVE_BYTES = 1 << 16


def keep_files_in_memory(memory: Path = Path("/dev/shm")) -> None:
    """Let this process and its children make their temporary files in `memory`, unless it or TMPDIR forbids."""
    if "TMPDIR" not in os.environ and has_room(memory):
        os.environ["TMPDIR"] = str(memory)
        os.environ.setdefault("OUTBOX_RESERVE_BYTES", str(RESERVE_BYTES))
        tempfile.tempdir = None  # found anew


def has_room(memory: Path) -> bool:
    """Tell whether files may be made in `memory`, programs run from there, and a whole run's files fit there."""
    try:
        facts = os.statvfs(memory)
    except (AttributeError, OSError):  # no POSIX, or no such folder
        return False
    runs = not facts.f_flag & getattr(os, "ST_NOEXEC", 0)
    return runs and os.access(memory, os.W_OK) and min(facts.f_bavail * facts.f_frsize, free_memory()) >= NEEDED_BYTES


def free_memory() -> int:
    """Return the bytes that may still be used without swapping; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)
