"""The library fits into real bots: with old and new versions of what it needs, and without changing theirs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from tests.store.tools import ROOT

# The oldest that pyproject.toml allows; the newest is what every other test runs with. By hand: AIOSQLITE=0.20.0.
AIOSQLITE = os.environ.get("AIOSQLITE", "0.17.0")
# What stores and finds, commits and fails, opens and closes, waits and is cancelled.
OF_AIOSQLITE = [
    "tests/store/test_commits.py", "tests/store/test_read_only.py", "tests/test_lifecycle.py",
]  # fmt: skip
BOTS = ["supabase", "freqtrade", "nautilus_trader", "python-telegram-bot", "octobot"]
UV = [str(Path(sys.executable).with_name("uv")), "--system-certs"]
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]


def test_the_oldest_aiosqlite_works(tmp_path: Path) -> None:
    install = [*UV, "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), f"aiosqlite=={AIOSQLITE}"]
    subprocess.run(install, check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    seen = subprocess.run(
        [sys.executable, "-c", "import aiosqlite; print(aiosqlite.__version__)"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert seen.stdout.strip() == AIOSQLITE
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *OF_AIOSQLITE],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


def resolved(*requirements: str) -> dict[str, str]:
    """Return the versions that a resolver chooses; nothing is installed."""
    done = subprocess.run(
        [*UV, "pip", "compile", "-q", "--no-header", "--no-annotate", "--python-version", "3.12", "-"],
        input="\n".join(requirements), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^([\w.-]+)==(\S+)", done.stdout, re.MULTILINE))


def changed(bot: str, ours: list[str]) -> dict[str, str]:
    """Return which versions of what `bot` brings are others with `ours` beside it."""
    with ThreadPoolExecutor() as pool:
        alone, both = pool.map(lambda requirements: resolved(*requirements), ([bot], [bot, *ours]))
    assert alone
    return {name: f"{version} → {both[name]}" for name, version in alone.items() if both[name] != version}


def test_the_library_beside_a_bot_changes_no_version_of_the_bots() -> None:
    """And the control: a narrow range downgrades in silence. All at once, since a resolver mostly waits for answers."""
    narrow = [each if not each.startswith("httpx") else "httpx<0.28" for each in DEPENDENCIES]
    asked = [*((bot, DEPENDENCIES) for bot in BOTS), ("python-telegram-bot", narrow)]
    with ThreadPoolExecutor(len(asked)) as pool:
        *ours, control = pool.map(lambda each: changed(*each), asked)
    assert dict(zip(BOTS, ours, strict=True)) == {bot: {} for bot in BOTS}
    assert "httpx" in control


def test_the_lock_of_the_lowest_versions_holds_the_lowest() -> None:
    lock = (ROOT / "scripts" / "lowest.lock").read_text(encoding="utf-8")
    pinned = {name: Version(version) for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE)}
    for requirement in map(Requirement, DEPENDENCIES):
        lowest = [Version(bound.version) for bound in requirement.specifier if bound.operator == ">="]
        assert [pinned[requirement.name]] == lowest, requirement
