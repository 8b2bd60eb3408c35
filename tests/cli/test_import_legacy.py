"""`outbox import-legacy` from a shell: what it says, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from outbox.cli.app import app
from tests.admin.test_inbox import bot
from tests.store.tools import shell

ITEMS = [{"table": "trades", "data": {"symbol": "EURUSD", "n": n}, "operation": "insert"} for n in range(3)]


pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "pending_uploads.json").write_text(json.dumps(ITEMS, indent=2))
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["import-legacy", *map(str, arguments)])


def as_json(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = call(*arguments, "--json")
    return result.exit_code, json.loads(result.stdout)


def test_it_moves_in_once(tmp_path: Path, old: Path) -> None:
    first, again = call(old, "--path", "bot.db"), call(old, "--path", "bot.db")

    assert (first.exit_code, again.exit_code) == (0, 0)
    assert first.stdout.splitlines() == [
        "pending_uploads.json: 3 taken; it is now pending_uploads.json.imported",
        "3 moved into bot.db; nothing was deleted.",
    ]
    assert "holds none of the old module's files; nothing was changed" in again.stdout
    with shell(tmp_path / "bot.db") as file:
        assert file.execute("select count(*) from outbox where state = 'pending'").fetchall() == [(3,)]


def test_what_cannot_be_read_is_exit_code_1_with_its_place(old: Path) -> None:
    path = old / "pending_uploads.json"
    path.write_text(path.read_text()[:-40])

    code, found = as_json(old, "--path", "bot.db")

    (file,) = found["files"]
    assert (code, found["exit_code"], found["taken"], found["left"]) == (1, 1, 2, 2)
    assert file["left"][0]["line"] == 18
    assert Path(file["rest"]).read_text().startswith("{")
    assert Path(file["renamed"]).name == "pending_uploads.json.imported"


def test_the_text_names_line_byte_and_the_file_that_keeps_the_rest(old: Path) -> None:
    path = old / "pending_uploads.json"
    path.write_text(path.read_text()[:-40])

    lines = call(old, "--path", "bot.db").stdout.splitlines()

    assert lines[1].startswith("  line 18, byte ")
    assert lines[1].endswith("bytes: it is not JSON")
    assert "kept in" in lines[-2] and lines[-2].endswith("pending_uploads.json.unread")


def test_beside_a_running_bot_it_says_what_to_do_and_changes_nothing(tmp_path: Path, old: Path) -> None:
    with bot(tmp_path / "bot.db") as process:
        result = call(old, "--path", "bot.db")

    assert result.exit_code == 3
    assert f"open for writing by process {process.pid}" in result.stderr
    assert "Stop that bot, or let it call outbox.legacy.import_legacy(outbox, folder)" in result.stderr
    assert [path.name for path in old.iterdir()] == ["pending_uploads.json"]


def test_a_folder_that_is_none_is_exit_code_3_and_no_file_is_made(tmp_path: Path) -> None:
    code, found = as_json(tmp_path / "nowhere", "--path", "bot.db")

    assert (code, found["exit_code"]) == (3, 3)
    assert "is not a folder; nothing was changed" in found["error"]
    assert list(tmp_path.iterdir()) == []


def test_the_session_belongs_to_the_source_that_is_named(tmp_path: Path, old: Path) -> None:
    state = {"session_id": "ab12cd34", "start_time": "2026-01-01T00:00:00+00:00", "status": "RUNNING"}
    (old / ".session_state.json").write_text(json.dumps(state))

    assert call(old, "--path", "bot.db", "--source", "bot-b").exit_code == 0

    with shell(tmp_path / "bot.db") as file:
        assert file.execute("select source, session_id from outbox_sessions").fetchall() == [("bot-b", "ab12cd34")]


def test_every_name_of_the_json_object_is_described_in_the_help(old: Path) -> None:
    path = old / "pending_uploads.json"
    path.write_text(path.read_text()[:-40])
    _, found = as_json(old, "--path", "bot.db")
    help_text = call("--help").stdout

    names = {*found, *found["files"][0], *found["files"][0]["left"][0]}

    assert {name for name in names if name not in help_text} == set()
