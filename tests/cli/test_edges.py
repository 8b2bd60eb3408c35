"""What people do to commands at 3 a.m.: the wrong file, another user, a closed pipe, a full disk, odd times."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked
from tests.cli.test_changes import as_json, call
from tests.cli.test_tools import ROOT
from tests.store.tools import shell

pytestmark = pytest.mark.usefixtures("alone")
posix = pytest.mark.skipif(os.name == "nt", reason="named pipes and users of POSIX")
READING = ("status", "tail", "ls", "show t0", "export", "backup copy.db", "drain --timeout 0", "requeue --all --yes")


def said(*arguments: object) -> tuple[int, str, str]:
    """Call a command here; return its exit code and what it said, each line end and its indent as one space."""
    result = call(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.stdout.split()), " ".join(result.stderr.split())


def command(stdout: int, *arguments: object) -> tuple[int, str]:
    """Run a command in a process of its own; return its exit code and what it said to stderr."""
    line = [sys.executable, "-c", "import outbox.cli as c; c.main()", *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = forked.run(line, stdout=stdout, stderr=subprocess.PIPE, text=True, env=env, timeout=200)
    return done.returncode, done.stderr


def closed_pipe() -> int:
    """Return the end of a pipe that a command writes to, and that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@posix
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_that_is_started_with_closed_streams_ends_with_its_own_code(closed: str, dead: Path) -> None:
    other, missing = shlex.quote(str(dead)), shlex.quote(str(dead.with_name("missing.db")))
    for words, expected in (
        (f"requeue --all --yes --path {other}", 0),  # done once: none is dead any more
        (f"ls --json --path {other}", 0),
        (f"put events - --path {other}", 0),
        (f"status --path {missing}", 3),
    ):
        stdin = "" if "<" in closed else "</dev/null"
        line = f"{shlex.quote(sys.executable)} -m outbox {words} {stdin} {closed}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, check=False, timeout=200, cwd=ROOT)
        assert done.returncode == expected, (words, done.stderr)


@pytest.mark.parametrize(
    "words", ["ls --limit", "find x --limit", "tail --lines", "export --after", "outages --limit", "lives --limit"]
)
def test_a_number_that_no_file_can_hold_is_a_mistyped_one(words: str, dead: Path) -> None:
    code, _, complaints = said(*words.split(), 10**20, "--path", dead)

    assert code == 2 and "a number is larger than SQLite can hold" in complaints


# ------------------------------------------------------------------------------------------ the wrong file


@pytest.mark.parametrize("words", READING)
def test_another_programs_file_is_not_touched(words: str, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with shell(path) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table theirs (n integer)")
    before = path.read_bytes()

    code, _, complaints = said(*words.split(), "--path", path)

    assert (code, path.read_bytes()) == (3, before)
    assert "is not an outbox; it was not touched" in complaints


def test_an_import_of_nothing_makes_no_file(tmp_path: Path) -> None:
    code, told, _ = said("import-legacy", tmp_path, "--path", tmp_path / "bot.db")

    assert (code, list(tmp_path.iterdir())) == (0, [])
    assert "nothing was changed" in told


@posix
@pytest.mark.parametrize("words", [*READING, "doctor --offline"])
def test_a_named_pipe_makes_no_command_wait(words: str, tmp_path: Path) -> None:
    path = tmp_path / "pipe.db"
    os.mkfifo(path)

    code, told, complaints = said(*words.split(), "--path", path)

    assert code == 3
    assert "is a folder or a device, not a file" in told + complaints


def test_a_text_is_not_to_be_put_into_wal_mode(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("a text that is longer than the header of a database\n" * 9)

    findings = as_json("doctor", "--offline", "--path", path)[1]["findings"]

    assert "not a SQLite database" in findings[0]["says"]
    assert not [each for each in findings if each["fix"] and ("pragma" in each["fix"] or "chmod" in each["fix"])]


# ------------------------------------------------------------------------------------------ another user


@pytest.mark.parametrize("name", ["status", "ls", "tail", "export"])
def test_a_file_that_may_not_be_read_has_code_3(name: str, dead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, who may read everything: only the question is answered otherwise.
    monkeypatch.setattr(os, "access", lambda path, mode: False)

    code, _, complaints = said(name, "--path", dead)

    assert code == 3
    assert "cannot be read by this user: run this as the bot's user" in complaints


def test_whether_a_bot_runs_is_not_known_where_its_lock_may_not_be_read(
    dead: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(store: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("outbox.store.lock.look", refused)

    assert as_json("status", "--path", dead)[1]["writer"] == {"pid": None, "since": None, "running": None}
    assert "Writer not known" in said("status", "--path", dead)[1]
    writer = [
        each for each in as_json("doctor", "--offline", "--path", dead)[1]["findings"] if each["check"] == "writer"
    ]
    assert (writer[0]["severity"], "another user's" in writer[0]["says"]) == ("skipped", True)


# ------------------------------------------------------------------------------------------ where the output goes


@posix
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param("status", 1, id="the health"),
        pytest.param("status --watch --every 0.1 --json", 1, id="watching, for machines"),
        pytest.param("tail --follow --every 0.05", 0, id="following"),
        pytest.param("show t0", 0, id="one entry"),
    ],
)
def test_a_closed_pipe_ends_a_command_quietly_with_its_own_code(words: str, expected: int, dead: Path) -> None:
    writing = closed_pipe()
    try:
        assert command(writing, *words.split(), "--path", dead) == (expected, "")
    finally:
        os.close(writing)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
@pytest.mark.parametrize("words", ["status", "export"])
def test_a_full_disk_behind_the_output_is_said_in_one_sentence(words: str, dead: Path) -> None:
    with Path("/dev/full").open("w") as full:
        code, complaints = command(full.fileno(), *words.split(), "--path", dead)

    assert (code, complaints.count("\n")) == (3, 1)
    assert "the output cannot be written" in complaints
    assert "No space left" in complaints


# ------------------------------------------------------------------------------------------ odd rows


@pytest.mark.parametrize("ms", [-(10**16), 10**18])
def test_a_row_whose_time_is_no_date_hides_none_of_the_others(ms: int, dead: Path) -> None:
    put = "insert into outbox (id, destination, payload, created_at_ms) values ('odd', 'events', '{}', ?)"
    with shell(dead) as connection:
        connection.execute(put, (ms,))

    listed = as_json("ls", "--path", dead)[1]["entries"]
    exported = [json.loads(line)["id"] for line in call("export", "--path", dead).stdout.splitlines()]

    assert {each["id"] for each in listed} == {"t0", "t1", "t2", "odd"} == set(exported)
    for words in (("tail",), ("tail", "--json"), ("show", "odd"), ("show", "odd", "--json"), ("ls",), ("status",)):
        code, told, complaints = said(*words, "--path", dead)
        assert (code in (0, 1, 2), bool(told), complaints) == (True, True, ""), words


def test_a_row_is_shown_with_all_its_digits_even_where_python_cannot_read_them(dead: Path) -> None:
    long = f'{{"n":{"1" * 5000},"price":0.123456789012345678901}}'  # Python reads numbers of up to 4,300 digits
    short = '{"price":0.123456789012345678901}'
    with shell(dead) as connection:
        connection.executemany(
            "insert into outbox (id, destination, payload) values (?, 'events', ?)", [("long", long), ("short", short)]
        )

    for its_id in ("long", "short"):
        code, told, complaints = said("show", its_id, "--path", dead)
        assert (code, complaints) == (0, "") and "0.123456789012345678901" in told
    assert as_json("show", "long", "--path", dead)[1]["entries"][0]["payload"] == long


def test_what_lists_entries_shows_their_digits_as_they_stand_in_the_file(dead: Path) -> None:
    digits = '{"volume": 12345678901234567890, "price": 0.123456789012345678901, "legs": [1.10, "a, \\"b\\""]}'
    with shell(dead) as connection:
        connection.execute("insert into outbox (id, destination, payload) values ('odd', 'ticks', ?)", (digits,))

    for words in (("ls", "--destination", "ticks"), ("tail", "--destination", "ticks"), ("show", "odd")):
        _, told, _ = said(*words, "--json", "--path", dead)
        assert digits in told, words
        json.loads(told)
    for words in (("ls", "--destination", "ticks"), ("tail", "--destination", "ticks")):
        _, told, _ = said(*words, "--columns", "price,legs", "--path", dead)
        assert 'price=0.123456789012345678901 legs=[1.10, "a, \\"b\\""]' in told, words


@pytest.mark.parametrize("words", [("find",), ("show",), ("ls", "--session"), ("ls", "--said"), ("requeue", "--yes")])
def test_an_argument_that_is_no_unicode_is_refused_as_such(words: tuple[str, ...], dead: Path) -> None:
    code, _, complaints = said(*words, "caf\udce9", "--path", dead)
    assert (code, "is no valid Unicode" in complaints) == (3, True), complaints
    assert said(*words, "café", "--path", dead)[0] in (0, 1), "the control"


def test_a_pause_does_not_say_its_reason_twice(dead: Path) -> None:
    pause = "insert into outbox_pauses values ('everything', '', 'unreachable', null, null, 'unreachable', 4, 1, 2)"
    with shell(dead) as connection:
        connection.execute(pause)

    told = said("status", "--path", dead)[1]
    found = as_json("doctor", "--offline", "--path", dead)[1]["findings"]

    assert told.count("unreachable") == 1
    assert [each["says"] for each in found if each["check"] == "pauses"] == ["nothing is sent: unreachable"]


def test_an_unchanged_entry_is_not_reported_as_changed(dead: Path) -> None:
    code, told, _ = said("requeue", "nope", "--yes", "--path", dead)

    assert (code, told) == (1, "1 not changed: unknown id nope: unknown id")


# ------------------------------------------------------------------------------------------ editors


@pytest.mark.parametrize(
    ("editor", "sentence"),
    [
        pytest.param(
            "vi 'unfinished", "EDITOR: vi 'unfinished is not a command: No closing quotation", id="no command"
        ),
        pytest.param("no-such-editor", "EDITOR: no-such-editor cannot be started", id="not installed"),
        pytest.param(shlex.join([sys.executable, "-c", "raise SystemExit(7)"]), "ended with code 7", id="failed"),
    ],
)
def test_an_editor_that_fails_is_named_and_leaves_nothing_behind(
    editor: str, sentence: str, dead: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITOR", editor)
    monkeypatch.delenv("VISUAL", raising=False)

    code, _, complaints = said("edit", "t0", "--path", dead)

    assert (code, sentence in complaints, "nothing was changed" in complaints) == (3, True, True), complaints
    assert not list(dead.parent.glob("outbox-*.json"))
