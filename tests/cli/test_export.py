"""`outbox export`: what is written, what a kill leaves, and what a row costs, counted."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from outbox.cli import export
from outbox.store import read_only
from tests import forked
from tests.admin.test_inbox import bot
from tests.cli.test_changes import as_json, call
from tests.cli.test_tools import ROOT, execute, posix

pytestmark = pytest.mark.usefixtures("alone")


def test_export_writes_what_the_filters_mean_as_ndjson_and_csv(dead: Path) -> None:
    execute(dead, 'update outbox set payload = \'{"id":"t0",\n"n":1.10}\' where id = \'t0\'')
    lines = call("export", "--path", dead).stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["t0", "t1", "t2"]
    assert '"n":1.10}' in lines[0]  # the digits that were put
    assert json.loads(lines[1])["error"]["code"] == "22P02"
    assert call("export", "--path", dead, "--state", "pending").stdout == ""

    rows = list(csv.DictReader(io.StringIO(call("export", "--path", dead, "--format", "csv").stdout)))
    assert [(row["id"], row["error_status"], json.loads(row["payload"])["n"]) for row in rows] == [
        ("t0", "400", 1.1), ("t1", "400", 1), ("t2", "400", 2),
    ]  # fmt: skip


def test_export_to_a_file_overwrites_nothing(dead: Path) -> None:
    code, found = as_json("export", "--path", dead, "--output", "out.ndjson", "--destination", "fills")
    assert (code, found["entries"]) == (0, 3)
    assert len(Path("out.ndjson").read_text(encoding="utf-8").splitlines()) == 3
    if os.name != "nt":
        assert stat.S_IMODE(Path("out.ndjson").stat().st_mode) == 0o600
    assert as_json("export", "--path", dead, "--output", "out.ndjson")[0] == 3
    assert as_json("export", "--path", dead)[0] == 3  # stdout has the entries


def test_export_goes_on_behind_a_number_and_publishes_only_what_is_whole(dead: Path) -> None:
    folder = dead.parent / "exports"
    folder.mkdir()
    assert call("export", "--path", dead, "--output", folder / "1", "--code", "none").exit_code == 0
    code, found = as_json("export", "--path", dead, "--output", folder / "2")
    execute(dead, "insert into outbox (destination, payload) values ('events', json_object('x', char(8232)))")
    code, more = as_json("export", "--path", dead, "--output", folder / "3", "--after", found["newest"])
    assert (code, found["entries"], more["entries"], more["newest"]) == (0, 3, 1, found["newest"] + 1)
    (line,) = (folder / "3").read_text(encoding="utf-8").split("\n")[:-1]
    assert json.loads(line)["payload"] == {"x": "\u2028"}  # a line end for Python, none for JSON
    code, none = as_json("export", "--path", dead, "--output", folder / "4", "--after", more["newest"] + 5)
    assert (code, none["entries"], none["newest"]) == (0, 0, more["newest"] + 5)
    assert sorted(file.name for file in folder.iterdir()) == ["1", "2", "3", "4"]
    assert (folder / "1").read_bytes() == b""


@posix
def test_an_export_that_is_killed_leaves_nothing_under_its_name_and_the_next_one_takes_it_away(dead: Path) -> None:
    execute(dead, *["insert into outbox (destination, payload) values ('events', '{}')"] * 2000)
    folder = dead.parent / "exports"
    folder.mkdir()
    code = (
        "import outbox.cli.export as export, os, signal, outbox.cli as c; line = export._on_one_line; seen = []\n"
        "def killed(text):\n"
        "    seen.append(text)\n"
        "    if len(seen) == 1000: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return line(text)\n"
        "export._on_one_line = killed; c.main()"
    )
    command = [sys.executable, "-c", code, "export", "--path", str(dead), "--output", str(folder / "all")]
    done = forked.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=200)
    assert done.returncode == -signal.SIGKILL
    assert [file.suffix for file in sorted(folder.iterdir())] == [".part", ".lock"]
    assert as_json("export", "--path", dead, "--output", folder / "all")[1]["entries"] == 2003
    assert [file.name for file in folder.iterdir()] == ["all"]


def test_export_goes_through_the_file_page_by_page(dead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outbox.cli.export._PAGE_ROWS", 2)
    assert len(call("export", "--path", dead, "--code", "22P02").stdout.splitlines()) == 3


@posix
def test_a_reader_that_has_seen_enough_ends_an_export_quietly(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with bot(path):
        put = "insert into outbox (destination, payload) values ('events', json_object('x', hex(zeroblob(2000))))"
        execute(path, *[put] * 300)
    command = f"{sys.executable} -m outbox export --path {path} | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True, timeout=200,
    )  # fmt: skip
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)


# ------------------------------------------------------------------------------------------ as ls has it

ODD = (
    """insert into outbox (id, destination, payload, operation, match, key, source, error_message, created_at_ms)
    values ('é"\\', 'events', '{"a": "\u2028",\n"b":1.10}', 'update', '{"x": "ä"}', 'k\t' || char(1), 'bot "1"',
    'said\n' || char(127), 1767225600999)""",
    "insert into outbox (id, destination, payload, created_at_ms) values ('early', 'events', '{}', -1)",
    "insert into outbox (id, destination, payload, created_at_ms) values ('first', 'events', '{}', -99999999999999999)",
    "insert into outbox (id, destination, payload, settled_at_ms) values ('last', 'events', '{}', 999999999999999999)",
    "insert into outbox (id, destination, payload, key) values ('bytes', 'events', '{}', cast(x'6bff' as text))",
)


def test_a_line_says_what_ls_says_and_what_is_sent_whatever_stands_there(dead: Path) -> None:
    execute(dead, *ODD)
    listed = [{**each, "columns": None} for each in as_json("ls", "--path", dead)[1]["entries"]]
    lines = [json.loads(line) for line in call("export", "--path", dead).stdout.split("\n")[:-1]]
    sent = [{name: line.pop(name) for name in ("on_conflict", "match", "payload")} for line in lines]

    assert [{**line, "columns": None} for line in lines] == listed[::-1]
    assert sent[3] == {"on_conflict": None, "match": {"x": "ä"}, "payload": {"a": "\u2028", "b": 1.1}}
    (row,) = [each for each in csv.DictReader(io.StringIO(call("export", "--path", dead, "--format", "csv").stdout))
              if each["id"] == 'é"\\']  # fmt: skip
    facts = {name: "" if value is None else str(value) for name, value in lines[3].items() if name != "error"}
    assert {name: row[name] for name in facts} == facts
    assert row["error_message"] == lines[3]["error"]["message"]


# ------------------------------------------------------------------------------------------ what a row costs


def work(dead: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """Return how many Python functions were called, looks taken and statements run by one export."""
    calls = looks = statements = 0
    opened = read_only.ReadOnlyStore.open
    read = read_only.ReadOnlyStore.read

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    async def looked(*arguments: Any, **named: Any) -> read_only.ReadOnlyStore:
        nonlocal looks
        looks += 1
        return await opened(*arguments, **named)

    async def asked(*arguments: Any) -> list[Any]:
        nonlocal statements
        statements += 1
        return await read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(read_only.ReadOnlyStore, "open", looked)
        patch.setattr(read_only.ReadOnlyStore, "read", asked)
        sys.setprofile(count)
        try:
            assert call("export", "--path", dead, "-o", dead.with_name(str(time.monotonic_ns()))).exit_code == 0
        finally:
            sys.setprofile(None)
    return calls, looks, statements


def grown(dead: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[float, int, int]:
    """Return the same for 4,000 more rows: calls for each, looks and statements for all."""
    before = work(dead, monkeypatch)
    execute(dead, *["insert into outbox (destination, payload) values ('events', '{}')"] * 4000)
    after = work(dead, monkeypatch)
    calls, looks, statements = (more - less for more, less in zip(after, before, strict=True))
    return calls / 4000, looks, statements


def parsed(line: Callable[[str], str]) -> Callable[[str], str]:
    """A line that is read and written again."""
    return lambda text: line(json.dumps(json.loads(text)))


def test_a_row_costs_two_calls_of_python_and_a_page_one_look(dead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_PAGE_ROWS", 1000)
    calls, looks, statements = grown(dead, monkeypatch)
    assert calls < 3.5  # the line, and the loop over lines; what a page costs is a part of the rest
    assert looks == 4
    assert statements == 4 * 3  # begin, where the page ends, the page


def test_control_a_row_that_is_decoded_is_detected(dead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(export, "_PAGE_ROWS", 1000)
    monkeypatch.setattr(export, "_on_one_line", parsed(export._on_one_line))
    assert grown(dead, monkeypatch)[0] > 8
