"""Choosing entries: one selection for all commands, and dead letters by what they died of."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.cli.test_changes import as_json, call
from tests.cli.test_tools import SETTLED, execute

pytestmark = pytest.mark.usefixtures("alone")


CHOICES = [
    pytest.param(["--where", "n=1"], ["t1"], id="a number"),
    pytest.param(["--where", "n=1.0"], ["t1"], id="a number in other digits"),
    pytest.param(["--where", "symbol=EURUSD"], ["t0", "t1"], id="a text"),
    pytest.param(["--where", "paper=true"], ["t0"], id="a truth"),
    pytest.param(["--where", "n=x"], [], id="no number is zero"),
    pytest.param(["--where", "symbol=EURUSD", "--where", "n=0"], ["t0"], id="two columns"),
    pytest.param(["--where", "symbol=USDJPY"], [], id="a value that none has"),
    pytest.param(["--session", "s-1"], ["t2"], id="a session"),
    pytest.param(["--since", "2h"], ["t1", "t2"], id="a time"),
    pytest.param(["--until", "2h"], ["t0"], id="before a time"),
    pytest.param(["--said", "other"], ["t2"], id="words"),
]


@pytest.fixture
def told_apart(dead: Path) -> Path:
    """Three dead letters with a symbol, a truth, a session, a time and words of their own."""
    execute(
        dead,
        """update outbox set payload = '{"n": 0, "symbol": "EURUSD", "paper": true}', settled_at_ms = 1000,
                  created_at_ms = 1000 where id = 't0'""",
        """update outbox set payload = '{"n": 1, "symbol": "EURUSD"}' where id = 't1'""",
        """update outbox set payload = '{"n": 2, "session_id": "s-1"}', error_message = 'other text' where id = 't2'""",
    )
    return dead


@pytest.mark.parametrize(("choice", "ids"), CHOICES)
def test_every_command_that_chooses_entries_means_the_same_ones(
    told_apart: Path, choice: list[str], ids: list[str]
) -> None:
    assert sorted(each["id"] for each in as_json("ls", "--path", told_apart, *choice)[1]["entries"]) == ids
    exported = call("export", "--path", told_apart, *choice).stdout.splitlines()
    assert [json.loads(line)["id"] for line in exported] == ids
    for verb in (["requeue"], ["discard"]):
        code, would = as_json(*verb, "--path", told_apart, *choice, "--dry-run")
        assert (code, would["would"], [each["id"] for each in would["entries"]]) == (0, len(ids), ids)
        assert "nothing was changed" in call(*verb, "--path", told_apart, *choice, "--dry-run").stdout
    code, done = as_json("requeue", "--path", told_apart, *choice, "--yes")
    assert [each["id"] for each in done["entries"]] == ids
    execute(told_apart, "update outbox set state = 'delivered', settled_at_ms = created_at_ms where state = 'pending'")
    assert as_json("resend", "--path", told_apart, *choice, "--dry-run")[1]["resent"] == len(ids)


def test_a_choice_that_makes_no_sense_names_its_option(dead: Path) -> None:
    for command in ("ls", "requeue", "resend", "export"):
        code, found = as_json(command, "--path", dead, "--where", "EURUSD", *(["--dry-run"] * (command != "ls")))
        assert code == 3
        assert found["error"].startswith("--where: 'EURUSD' is no COLUMN=VALUE")


def test_an_export_can_be_counted_first(dead: Path) -> None:
    assert call("export", "--path", dead, "--where", "n=1", "--dry-run").stdout == "1 entries would be written.\n"


def test_dead_letters_stand_by_cause_each_with_the_command_for_just_these(dead: Path) -> None:
    execute(
        dead,
        "update outbox set error_message = 'invalid input syntax for type integer: \"' || id || '\"'",
        f"{SETTLED} ('fills', '{{\"n\": 3}}', 'dead', 5), ('events', '{{}}', 'dead', 5)",
        "update outbox set error_status = 400, error_code = '22P02', error_message = 'date/time field out of range:"
        ' "x"\' where seq > 3',
    )
    code, found = as_json("dead", "--path", dead)
    assert code == 0
    assert [(each["destination"], each["entries"]) for each in found["causes"]] == [
        ("fills", 3), ("events", 1), ("fills", 1),
    ]  # fmt: skip
    assert found["causes"][0]["example"] == "t2"
    for each in found["causes"]:
        _, *command = shlex.split(each["requeue"])
        assert as_json(*command, "--dry-run")[1]["would"] == each["entries"]
    shown = call("dead", "--path", dead).stdout
    assert shown.count("outbox requeue --path") == 3
    assert max(map(len, shown.splitlines())) < 200
    # The control: without the words the two causes of fills are one.
    assert as_json("requeue", "--path", dead, "--destination", "fills", "--code", "22P02", "--dry-run")[1]["would"] == 4
    execute(dead, "delete from outbox")
    assert call("dead", "--path", dead).stdout == "No entry is dead.\n"
