"""Programs out of Debian's packages, unpacked below .cache and not installed: nothing is started, nobody is root."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "debian"


class NoPackage(Exception):
    """The program is neither on the PATH nor to be had from Debian; the message says what to do."""


def program(package: str, name: str) -> Path:
    """Return the program `name`: from the PATH, else from /usr/bin of the unpacked package. Raises NoPackage."""
    if found := shutil.which(name):
        return Path(found)
    unpacked = CACHE / package / "usr" / "bin" / name
    if not unpacked.exists():
        _unpack(package)
    return unpacked


def main() -> None:
    """Have a program ready, before a test with a time limit asks for it; one that cannot be had fails that test."""
    try:
        print(program(*sys.argv[1:]))
    except NoPackage as error:
        print(error, file=sys.stderr)


def _unpack(package: str) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        if (said := _run(folder, "apt-get", "download", package)) is not None:
            _run(folder, "apt-get", "-qq", "update")  # a new machine has no lists yet
            said = _run(folder, "apt-get", "download", package)
        files = list(Path(folder).glob("*.deb"))
        if said is None and files:
            said = _run(folder, "dpkg", "-x", str(files[0]), "unpacked")
        if said is not None or not files:
            raise NoPackage(f"{package} cannot be unpacked: {said or 'no package came'}; install it, then try again")
        target = CACHE / package
        if not target.exists():  # another process may have been faster
            (Path(folder) / "unpacked").rename(target)


def _run(folder: str, *command: str) -> str | None:
    """Run a command; return what it said if it failed."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr.strip() or done.stdout.strip())


if __name__ == "__main__":
    main()
