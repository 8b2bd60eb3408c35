"""scripts/release: the same commit gives the same bytes, with a README that an index can show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def released(out: Path, at: int) -> dict[str, bytes]:
    """Return what is built, by name; the script itself builds twice and fails if the two differ."""
    command = [sys.executable, str(ROOT / "scripts" / "release"), "--only-build", "--out", str(out)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=800, env={**os.environ, "SOURCE_DATE_EPOCH": str(at)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {file.name: file.read_bytes() for file in out.iterdir()}


def test_a_commit_gives_the_same_bytes_and_a_readme_without_dead_links(tmp_path: Path) -> None:
    first = released(tmp_path / "first", 1_700_000_000)
    other = released(tmp_path / "other", 1_800_000_000)

    assert sorted(name.split("-")[0] for name in first) == ["durable_outbox", "durable_outbox"]
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)  # control: the time that it is given is in the bytes
    [wheel] = (tmp_path / "first").glob("*.whl")
    [sdist] = (tmp_path / "first").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    assert {"outbox/py.typed", "outbox/_docs/using.md", "outbox/_migrations/0001_outbox.sql"} <= set(names)
    assert re.findall(r"\]\((?!https?://)[^)]*\)", text) == []
    assert "(`outbox help using`)" in text
    with tarfile.open(sdist) as archive_of_sources:
        assert any(name.endswith("/tests/test_release.py") for name in archive_of_sources.getnames())
