"""The project's own environment, `.venv`: made when there is none or when its recipe changed, then entered.

One that somebody made there by another way, as by `uv sync`, is used as it is and never changed.

Every script in this folder calls `enter(__doc__)` first. Standard library only, and no syntax newer than
Python 3.6 (hence the quoted annotations): an old `python3` must still read this file and say what is missing.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "scripts" / "requirements.lock"
OLDEST = (3, 11)
NOTHING = subprocess.DEVNULL
TOOLS = ("mypy", "outbox", "pytest", "xdist")  # what an environment made elsewhere must have
NEWER = ("python3.11", "python3.12", "python3.13", "python3.14")

# Written empty before the first step and with the recipe after the last one: it tells ours from a stranger's
# environment, and a finished one from one that was cut off.
STAMP = "made-by-scripts"


def enter(usage: str) -> None:
    """Return only inside the project's environment; make it, or start the script again in it, if need be.

    `--help` prints `usage` and ends before anything is made. Ends with a sentence and code 1 if Python is
    older than 3.11 and no newer one is on PATH, or if the environment cannot be made.
    """
    if "-h" in sys.argv[1:] or "--help" in sys.argv[1:]:
        print(usage.strip())
        sys.exit(0)
    if sys.version_info < OLDEST:
        restart(newer_python())
    wanted = recipe()
    inside = Path(sys.prefix).resolve() == VENV.resolve()
    if not is_ready(VENV, wanted):
        try:
            ensure(VENV, wanted, install)
        except KeyboardInterrupt:
            sys.exit("Stopped; the next start makes .venv again.")
        except OSError as error:
            sys.exit(f"Cannot make {VENV}: {error}. If a program runs from it, end that program and try again.")
        inside = False
    if not inside:
        restart(python_of(VENV))


def recipe() -> str:
    """Return a digest of all that decides what `.venv` holds: the lock, the package's metadata, Python, the place."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    package = [project["build-system"], project["project"], project["tool"]["hatch"]]
    parts = [LOCK.read_text(encoding="utf-8"), package, sys.implementation.cache_tag, sys.platform, str(ROOT)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def is_ready(venv: Path, wanted: str) -> bool:
    """Tell whether `venv` was made to the end from the recipe `wanted`, or elsewhere with all tools, and starts."""
    made_from = stamp(venv)
    if made_from is None:
        return is_usable(str(python_of(venv)), TOOLS)
    return made_from == wanted and is_usable(str(python_of(venv)))


def stamp(venv: Path) -> "str | None":
    """Return the recipe that `venv` was made from, "" if its making was cut off, None if it is not ours."""
    try:
        return (venv / STAMP).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None


def ensure(venv: Path, wanted: str, install: "Callable[[Path, int], None]") -> None:
    """Make `venv` from the recipe `wanted` unless it is there; of several callers at once, one makes it.

    `install` receives `venv` and the lock's descriptor. An environment that these scripts did not make is
    never touched: SystemExit says so.
    """
    cache = venv.parent / ".cache"
    with alone(cache / f"{venv.name}.lock") as lock:
        if is_ready(venv, wanted):
            return
        if stamp(venv) is None and venv.exists() and not (venv.is_dir() and not any(venv.iterdir())):
            sys.exit(
                f"{venv} was not made by these scripts and lacks the development tools; "
                "run `uv sync` again, or move it away, then try again."
            )
        old = cache / f"{venv.name}.old"  # renamed first: a removal that is cut off leaves no half `.venv`
        if old.exists():
            shutil.rmtree(old)
        if venv.exists():
            venv.rename(old)
            shutil.rmtree(old)
        venv.mkdir()
        (venv / STAMP).write_text("", encoding="utf-8")
        install(venv, lock)
        finished = venv / (STAMP + ".new")
        finished.write_text(wanted, encoding="utf-8")
        finished.replace(venv / STAMP)


def install(venv: Path, lock: int) -> None:
    """Make a virtual environment in `venv` and install the locked packages and this project into it.

    pip installs uv, and uv all the rest, in a fifth of pip's time.
    """
    base = getattr(sys, "_base_executable", None) or sys.executable  # `.venv` cannot make itself again
    # -I: a PYTHONPATH or PYTHONHOME of the caller's must not decide what is installed.
    python = [str(python_of(venv)), "-I", "-m"]
    # -qq: errors alone. --no-compile: most modules are never imported here; those that are get compiled then.
    pip = [*python, "pip", "--disable-pip-version-check", "install", "-qq", "--no-input", "--no-compile"]
    uv = [*python, "uv", "pip", "install", "-q", "--system-certs", "--python", str(python_of(venv))]
    pinned = venv / "uv.txt"
    pinned.write_text(pin_of("uv", LOCK.read_text(encoding="utf-8")), encoding="utf-8")
    version = ".".join(map(str, sys.version_info[:3]))
    run_step(f"environment {venv.name}, Python {version}", [base, "-I", "-m", "venv", str(venv)], lock)
    run_step("uv", [*pip, "--require-hashes", "--no-deps", "-r", str(pinned)], lock)
    run_step(f"packages of {LOCK.relative_to(ROOT)}", [*uv, "--require-hashes", "-r", str(LOCK)], lock)
    run_step("this project", [*uv, "--no-deps", "--no-build-isolation", "-e", str(ROOT)], lock)


def pin_of(name: str, lock: str) -> str:
    """Return the lines of `lock` that pin the package `name`, with its hashes."""
    found = re.search(rf"^{name}==(.*\\\n)*.*\n", lock, re.MULTILINE)
    assert found, f"{LOCK} does not pin {name}"
    return found.group()


def run_step(name: str, command: "list[str]", lock: int) -> None:
    """Run `command`, saying its name and its seconds on one line; SystemExit if it fails."""
    print(f"{name} ... ", end="", file=sys.stderr, flush=True)
    started = time.monotonic()
    # The child holds the lock too: if we are killed, nobody starts while it still writes.
    keep = () if sys.platform == "win32" else (lock,)
    code = subprocess.call(command, stdin=NOTHING, pass_fds=keep)
    print(f"{time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    if code != 0:
        sys.exit(f"This step failed with exit code {code}: {name}. The next start makes .venv again.")


@contextlib.contextmanager
def alone(path: Path) -> "Iterator[int]":
    """Hold the lock file `path` and yield its descriptor; the system frees it however this process ends."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        if sys.platform == "win32":
            import msvcrt

            while True:
                with contextlib.suppress(OSError):  # LK_LOCK gives up after ten tries, one a second
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("waiting for another script that makes the environment", file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def restart(python: Path) -> NoReturn:
    """Start this script again, with the same arguments, under the interpreter `python`."""
    command = [str(python), str(Path(sys.argv[0]).absolute()), *sys.argv[1:]]
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.platform == "win32":  # its exec returns to the shell before the new program has ended
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)


def newer_python() -> Path:
    """Return a Python of 3.11 or newer: that of `.venv`, else one from PATH; SystemExit if there is none."""
    for candidate in (str(python_of(VENV)), *map(shutil.which, NEWER)):
        if candidate and is_usable(candidate):
            return Path(candidate)
    found = ".".join(map(str, sys.version_info[:3]))
    sys.exit(
        f"Python 3.11 or newer is needed; this is {found} ({sys.executable}), and none of "
        f"{', '.join(NEWER)} is on PATH. Install one, or name it: python3.12 {sys.argv[0]}"
    )


def is_usable(python: str, modules: "Sequence[str]" = ()) -> bool:
    """Tell whether `python` starts, is 3.11 or newer and has `modules`; a dead link or a manager's stub may not."""
    code = (
        "import importlib.util as u, sys; "
        f"sys.exit(sys.version_info < {OLDEST} or not all(map(u.find_spec, {tuple(modules)})))"
    )
    # -S leaves the packages out, and is three times as fast.
    command = [python, "-I", *([] if modules else ["-S"]), "-c", code]
    try:
        return subprocess.call(command, stdin=NOTHING, stdout=NOTHING, stderr=NOTHING) == 0
    except OSError:
        return False


def python_of(venv: Path) -> Path:
    """Return the path of the interpreter in `venv`."""
    return venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
