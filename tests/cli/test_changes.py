"""`requeue`, `discard`, `reload`, `ls` and `show`: with a bot, without one, and with one that does not answer."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from outbox import Outbox
from outbox.cli.app import app
from tests.admin.test_inbox import bot, states, until
from tests.store.tools import shell

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("alone")


def editor(folder: Path, text: str) -> str:
    """Return an editor, for $EDITOR, that replaces whatever it is given with `text`."""
    program = folder / "editor.py"
    program.write_text(f"import pathlib, sys\npathlib.Path(sys.argv[-1]).write_text({text!r})\n", encoding="utf-8")
    return shlex.join([sys.executable, str(program)])


def call(*arguments: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=answer)


def as_json(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = call(*arguments, "--json")
    found: dict[str, Any] = json.loads(result.stdout)
    return result.exit_code, found


def test_without_a_bot_the_command_does_it_itself(dead: Path) -> None:
    code, found = as_json("requeue", "t0", "--path", dead, "--yes")
    assert (code, found["by"], found["outcomes"]) == (0, "this command", {"requeued": 1})
    assert states(dead) == {"dead": 2, "pending": 1}

    code, found = as_json("discard", "--code", "22P02", "--reason", "test rows", "--path", dead, "--yes")
    assert (code, found["done"]) == (0, 2)
    assert states(dead) == {"discarded": 2, "pending": 1}


def test_with_a_bot_it_is_asked_of_the_bot(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with bot(path):
        code, found = as_json("discard", "t1", "--reason", "x", "--path", path, "--yes")
        assert (code, found["by"]) == (0, "the running bot")
        result = call("reload", "--path", path)
        assert result.exit_code == 0
        assert "read its settings again" in result.stdout
    assert states(path) == {"dead": 2, "discarded": 1}


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_bot_that_does_not_answer_in_time_still_has_the_request(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with bot(path) as process:
        process.send_signal(signal.SIGSTOP)
        try:
            result = call("discard", "t1", "--reason", "x", "--path", path, "--yes", "--timeout", "0.2")
        finally:
            process.send_signal(signal.SIGCONT)
        assert result.exit_code == 2
        assert "still there" in result.stdout
        until(lambda: states(path).get("discarded"))


def test_answering_no_changes_nothing(dead: Path) -> None:
    result = call("requeue", "--all", "--path", dead, answer="n\n")
    assert result.exit_code == 1
    assert "3 dead entries" in result.stderr
    assert states(dead) == {"dead": 3}
    assert call("requeue", "--all", "--path", dead, answer="y\n").exit_code == 0  # the control
    assert states(dead) == {"pending": 3}


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["requeue"], id="nothing is selected"),
        pytest.param(["requeue", "t0", "--all"], id="a contradiction"),
        pytest.param(["discard", "t0"], id="no reason"),
        pytest.param(["requeue", "--destination", "no table"], id="no name of a table"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_one_line(arguments: list[str], dead: Path) -> None:
    result = call(*arguments, "--path", dead, "--yes")
    assert result.exit_code == 3
    assert len(result.stderr.strip().splitlines()) == 1
    assert states(dead) == {"dead": 3}


def test_a_missing_file_is_not_created(tmp_path: Path) -> None:
    for command in (["requeue", "--all", "--yes"], ["reload"], ["ls"], ["show", "x"]):
        assert call(*command, "--path", tmp_path / "none.db").exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_ls_lists_what_the_filters_mean(dead: Path) -> None:
    def ids(*arguments: object) -> list[str]:
        code, found = as_json("ls", "--path", dead, *arguments)
        assert code == 0
        return [entry["id"] for entry in found["entries"]]

    assert ids() == ["t2", "t1", "t0"]
    assert ids("--state", "dead", "--limit", 2) == ["t2", "t1"]
    assert ids("--state", "pending") == []
    assert ids("--code", "22P02", "--destination", "fills") == ["t2", "t1", "t0"]
    assert ids("--code", "23514") == []


def test_a_list_with_dead_entries_says_what_to_type_next(dead: Path) -> None:
    said = call("ls", "--path", dead, "--state", "dead").stdout
    assert f"outbox show --path {dead} ID" in said
    assert f"outbox dead --path {dead}" in said
    assert "outbox show" not in call("ls", "--path", dead, "--state", "pending").stdout


def test_show_tells_an_entrys_story_and_what_to_do_next(dead: Path) -> None:
    call("requeue", "t0", "--path", dead, "--yes")
    code, found = as_json("show", "t1", "--path", dead)
    (entry,) = found["entries"]

    assert code == 0
    assert entry["payload"] == {"id": "t1", "n": 1}
    assert entry["error"]["message"] == "bad text"
    assert [line["event"] for line in entry["history"]] == ["refused"]
    assert any(f"outbox requeue --path {dead} t1" in sentence for sentence in entry["next"])

    text = call("show", "t0", "--path", dead).stdout
    assert "requeued" in text
    assert max(len(line) for line in text.splitlines() if str(dead) not in line) <= 80
    assert call("show", "nobody", "--path", dead).exit_code == 1


@pytest.mark.parametrize("odd", ["two words", "$(touch pwned)", "-x", "it's"])
def test_the_commands_that_show_advises_mean_just_this_entry_also_with_an_odd_id(
    odd: str, dead: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", editor(dead.parent, '{"n": 5}'))
    with shell(dead) as connection:
        connection.execute("update outbox set id = ? where id = 't0'", (odd,))
    (entry,) = json.loads(call("show", "--path", dead, "--json", "--", odd).stdout)["entries"]

    for sentence in entry["next"]:
        words = shlex.split(sentence.partition("outbox ")[2])
        assert words[-1] == odd
        result = call(words[0], "--path", dead, *words[1:], answer="n\n")
        assert (result.exit_code, odd in result.stderr, "1 dead entry?" in result.stderr) == (1, True, True)
    assert states(dead) == {"dead": 3}


def test_an_unknown_id_changes_nothing_and_is_exit_code_1(dead: Path) -> None:
    code, found = as_json("requeue", "nobody", "--path", dead, "--yes")
    assert (code, found["outcomes"], found["done"]) == (1, {"unknown id": 1}, 0)
    code, found = as_json("show", "nobody", "--path", dead)
    assert (code, found["entries"]) == (1, [])
    assert states(dead) == {"dead": 3}


def test_the_fields_of_each_answer_are_those_that_the_help_promises(dead: Path) -> None:
    _, listed = as_json("ls", "--path", dead)
    _, shown = as_json("show", "t0", "--path", dead)
    _, done = as_json("requeue", "t0", "--path", dead, "--yes")
    _, ended = as_json("reload", "--path", dead)
    promised = {name: call(name, "--help").stdout for name in ("ls", "show", "requeue", "reload")}

    assert {name for name in listed["entries"][0] if name not in promised["ls"]} == set()
    assert {name for name in shown["entries"][0] if name not in promised["ls"] + promised["show"]} == set()
    assert set(done) == {"path", "exit_code", "outcomes", "done", "entries", "left_out", "by"}
    assert {name for name in {*done, *done["entries"][0]} if name not in promised["requeue"]} == set()
    assert {name for name in ended if name not in promised["reload"] + promised["requeue"]} == set()


HELPED = [
    "status", "drain", "tail", "ls", "find", "show", "outages", "lives", "dead",
    "requeue", "edit", "discard", "reload", "prune", "backup",
    "export", "adopt", "doctor", "resend", "import-legacy", "salvage", "acknowledge",
]  # fmt: skip
# It runs until it is ended; tests/web starts it as its example does.
ENDLESS = ["inspect"]


@pytest.mark.parametrize("command", HELPED)
def test_the_examples_in_each_commands_help_run(command: str, dead: Path) -> None:
    text = call(command, "--help").stdout
    examples = re.findall(r"^\s+outbox (.+)$", text.partition("Example")[2].partition("Exit codes")[0], re.MULTILINE)
    Path("corrected.json").write_text('{"n": 9}', encoding="utf-8")
    assert examples, text
    for example in examples:
        result = call(*shlex.split(example), "--path", dead)
        # Unknown ids and dead letters have codes of their own; 2 with a usage text is what a wrong example gives.
        assert "Usage:" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)


def test_help_prints_a_commands_help_and_each_page() -> None:
    assert call("help", "requeue").stdout.startswith("Usage:")
    assert "Pages: any-table," in call("help").stdout
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert call("help", "scale").stdout == call("help", "scale.md").stdout == page + "\n"
    assert (call("help", "nothing").exit_code, call("help", "../README").exit_code) == (3, 3)


def test_every_command_is_among_those_whose_help_is_tested() -> None:
    listed = call("--help").stdout
    found = set(re.findall(r"^  ([\w-]+)  ", listed.partition("Commands:")[2], re.MULTILINE))
    assert found == {
        *HELPED,
        *ENDLESS,
        "schema",
        "put",
        "help",
    }  # that one needs a database: tests/integration/test_schema_apply.py


def test_the_command_of_the_page_frees_what_waits(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "any-table.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^outbox (edit --rename-column symbl=symbol --all-matching)$", page, re.MULTILINE)
    path = tmp_path / "bot.db"

    async def put() -> None:
        async with Outbox.open(path=path) as outbox:
            for values in ({"colour": "red"}, {"lots": 1}):
                await outbox.put("orders", {"order_id": 1, **values}, operation="upsert", on_conflict=("order_id",))

    asyncio.run(put())
    ((first, second),) = [[entry["id"] for entry in as_json("ls", "--path", path)[1]["entries"]][::-1]]
    assert call(*line.replace("symbl=symbol", "colour=color").split(), "--yes", "--path", path).exit_code == 0
    assert as_json("show", first, "--path", path)[1]["entries"][0]["payload"] == {"order_id": 1, "color": "red"}
    assert as_json("show", second, "--path", path)[1]["entries"][0]["waits"] == "turn"
    corrected = tmp_path / "corrected.json"
    corrected.write_text('{"order_id": 1, "color": "blue"}', encoding="utf-8")
    assert call("edit", first, "--from", corrected, "--yes", "--path", path).exit_code == 0
    assert as_json("show", first, "--path", path)[1]["entries"][0]["payload"] == {"order_id": 1, "color": "blue"}
