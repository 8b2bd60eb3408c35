"""The documentation site, built from the pages that other tests run: what is missing or leads nowhere fails it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The site's own configuration with other pages: one leads nowhere, one is in no menu, one names an unknown argument.
FAULTY = """
INHERIT: {config}
docs_dir: {docs}
hooks: []
nav: [index.md, api.md]
plugins:
  mkdocstrings: {{handlers: {{python: {{paths: ["{docs}"]}}}}}}
"""
FUNCTION = '''def put(row: object) -> None:
    """Put.

    Args:
        rwo: The row.
    """
'''


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_a_page_for_each_thing(tmp_path: Path) -> None:
    before = tree()
    done = subprocess.run(
        [sys.executable, "scripts/site", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert tree() == before
    api, commands, errors, tables = (
        (tmp_path / "reference" / f"{name}.html").read_text(encoding="utf-8")
        for name in ("api", "commands", "errors", "tables")
    )
    assert 'id="outbox.Outbox.put"' in api
    assert 'id="outbox-schema-apply"' in commands
    assert 'id="outbox.errors.OutcomeUnknown"' in errors
    assert 'id="v_health"' in tables


def tree() -> set[str]:
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())


@pytest.mark.slow
def test_a_dead_link_a_lost_page_and_an_unknown_argument_fail_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("[gone](gone.md)", encoding="utf-8")
    (docs / "lost.md").write_text("# Lost", encoding="utf-8")
    (docs / "api.md").write_text("::: faulty.put", encoding="utf-8")
    (docs / "faulty.py").write_text(FUNCTION, encoding="utf-8")
    config = tmp_path / "mkdocs.yml"
    config.write_text(FAULTY.format(config=ROOT / "mkdocs.yml", docs=docs), encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 1
    assert [fault for fault in ("gone.md", "lost.md", "'rwo'") if fault not in done.stderr] == []
