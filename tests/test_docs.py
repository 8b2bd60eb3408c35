"""What the pages show works: every block of Python runs, against a real server, with the rows counted by SQL."""

from __future__ import annotations

import json
import re
import traceback
from pathlib import Path
from typing import Any

import psycopg
import pytest
from supabase_lite import SupabaseLite
from typer.testing import CliRunner

from outbox.cli.app import app
from tests.doc_blocks import blocks_of, run_page
from tests.support import run_async

# As the old module left it: an event's data are a text.
OLD_PENDING = [
    {"table": "events", "data": {"event_type": "OLD", "timestamp": "2026-01-01T00:00:00Z",
     "data": '{"from": "the old file"}'}},
]  # fmt: skip
DOCS = Path(__file__).parents[1] / "docs"
MIGRATING = DOCS / "migrating.md"
SUPABASE = DOCS / "supabase.md"


@pytest.fixture
def project(clean_remote: SupabaseLite, monkeypatch: pytest.MonkeyPatch) -> SupabaseLite:
    """A reader's project: its URL and key in the environment, its tables empty."""
    for name in ("SUPABASE_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SUPABASE_URL", clean_remote.url)
    monkeypatch.setenv("SUPABASE_SECRET_KEY", clean_remote.secret_key)
    return clean_remote


@run_async
async def test_the_migration_guide_runs_from_top_to_bottom(
    tmp_path: Path, project: SupabaseLite, sql: psycopg.Connection[Any]
) -> None:
    left = tmp_path / "pending_uploads.json"
    left.write_text(json.dumps(OLD_PENDING), encoding="utf-8")

    assert await run_page(MIGRATING, tmp_path) >= 5

    assert not left.exists()
    assert left.with_name("pending_uploads.json.imported").exists()
    query = "select data ->> 'from' from events where event_type = 'OLD'"
    assert sql.execute(query).fetchall() == [("the old file",)]
    for table in ("trades", "events", "sessions"):
        found = sql.execute(f"select count(*) from {table}").fetchone()
        assert found is not None
        assert found[0] > 0, f"the page sends nothing to {table}"


@pytest.mark.parametrize(("name", "blocks"), [("testing.md", 8), ("monitoring.md", 2), ("for-assistants.md", 3)])
@run_async
async def test_the_page_runs_without_a_remote_end(
    name: str, blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("SUPABASE_URL", "SUPABASE_KEY", "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SECRET_KEY"):
        monkeypatch.delenv(variable, raising=False)
    assert await run_page(DOCS / name, tmp_path) == blocks


def test_every_page_is_named_where_a_program_and_a_person_look_first() -> None:
    root = DOCS.parent
    for first in (root / "llms.txt", root / "README.md"):
        named = set(re.findall(r"\]\(docs/([\w-]+\.md)\)", first.read_text(encoding="utf-8")))
        assert named == {page.name for page in DOCS.glob("*.md")}, first.name


@pytest.mark.parametrize(
    "page",
    [*sorted(DOCS.rglob("*.md")), *sorted(DOCS.parent.glob("*.md")), DOCS.parent / "llms.txt"],
    ids=lambda page: page.name,
)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(((?!https?://)[^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["reading.md", "using.md"])
@run_async
async def test_a_page_runs_from_top_to_bottom(tmp_path: Path, project: SupabaseLite, name: str) -> None:
    page = MIGRATING.with_name(name)
    assert await run_page(page, tmp_path) == len(blocks_of(page))


def test_every_command_on_the_page_on_supabase_exists() -> None:
    commands = re.findall(r"^outbox ([a-z ]+)|`outbox ([^`]+)`", SUPABASE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        words = "".join(command).split()
        dry = ["--dry-run"] if words[0] == "schema" else ["--help"]
        assert CliRunner().invoke(app, [*words, *dry]).exit_code == 0, words


def test_every_block_that_does_not_run_is_the_old_module() -> None:
    assert {block.not_run for block in blocks_of(MIGRATING)} == {None, "old module"}


# ------------------------------------------------------------------------------------------------ the runner


def page(folder: Path, text: str) -> Path:
    file = folder / "page.md"
    file.write_text(text, encoding="utf-8")
    return file


@run_async
async def test_blocks_share_a_namespace_a_loop_and_a_folder(tmp_path: Path) -> None:
    file = page(
        tmp_path,
        "# A\n```python\nimport asyncio\nfrom pathlib import Path\nlock = asyncio.Lock()\nPath('a').touch()\n```\n"
        "```sh\nexit 1\n```\n- list\n  ```python\n  async with lock:\n      there = Path('a').exists()\n  ```\n"
        "```python\nassert there and __name__ == '__main__'\n```\n",
    )

    assert await run_page(file, tmp_path) == 3


@run_async
async def test_a_program_of_its_own_runs_too(tmp_path: Path) -> None:
    text = "```python\nimport asyncio\nran = []\nasync def main():\n    ran.append(1)\nasyncio.run(main())\n```\n"

    assert await run_page(page(tmp_path, text + "```python\nassert ran == [1]\n```\n"), tmp_path) == 2


@run_async
async def test_blocks_may_have_folders_of_their_own(tmp_path: Path) -> None:
    block = "```python\nfrom pathlib import Path\nassert not Path('a').exists()\nPath('a').touch()\n```\n"
    file = page(tmp_path, block * 2 + "```python\nassert not Path('a').exists()\n```\n")

    assert await run_page(file, tmp_path, fresh_folders=True) == 3
    with pytest.raises(AssertionError):
        await run_page(file, tmp_path)


@run_async
async def test_a_wrong_block_fails_with_its_line_in_the_page(tmp_path: Path) -> None:
    file = page(tmp_path, "# A\n\n```python\nx = 1\n\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        await run_page(file, tmp_path)

    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno, last.line) == (str(file), 6, "assert x == 2")


@run_async
async def test_a_block_that_is_not_run_must_still_be_python(tmp_path: Path) -> None:
    mark = "<!-- not run: old module -->\n"
    assert await run_page(page(tmp_path, mark + "```python\nraise SystemExit\n```\n"), tmp_path) == 0
    with pytest.raises(SyntaxError):
        await run_page(page(tmp_path, mark + "```python\nthis is no python\n```\n"), tmp_path)
    with pytest.raises(ZeroDivisionError):  # the mark counts for one block
        await run_page(page(tmp_path, mark + "```python\n0\n```\n```python\n1 / 0\n```\n"), tmp_path)


@pytest.mark.parametrize("text", ["no code\n", "```sh\nls\n```\n", "```python\n1\n"], ids=["none", "shell", "open"])
def test_a_page_without_blocks_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="has no block"):
        blocks_of(page(tmp_path, text))
