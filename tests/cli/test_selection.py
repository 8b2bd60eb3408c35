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


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("eurusd", ["t0", "t1"]), ("T2", ["t2"]), ("1", ["t1", "t2"]), ("s-1", ["t2"]), ("symbol", []), ("%", []),
    ],
)  # fmt: skip
def test_find_looks_into_values_and_ids_not_into_names(told_apart: Path, text: str, ids: list[str]) -> None:
    found = as_json("find", text, "--path", told_apart)[1]["entries"]
    assert sorted(each["id"] for each in found) == ids


def test_find_looks_into_what_an_update_matches_and_into_what_is_nested(dead: Path) -> None:
    execute(
        dead,
        """insert into outbox (destination, operation, payload, match) values
           ('trades', 'update', '{"legs": [{"ticket": 4711}]}', '{"trade_id": "T-4712"}')""",
    )
    for text in ("4711", "4712"):
        (entry,) = as_json("find", text, "--path", dead)[1]["entries"]
        assert entry["columns"]["trade_id"] == "T-4712"
    assert as_json("find", "471", "--path", dead, "--destination", "fills")[1]["entries"] == []


def test_a_list_shows_what_tells_its_rows_apart(told_apart: Path) -> None:
    shown = call("ls", "--path", told_apart).stdout
    assert "  symbol=EURUSD n=1\n" in shown
    assert "  n=0 paper=true\n" in call("ls", "--path", told_apart, "--columns", "n,paper", "--until", "2h").stdout
    assert all(len(line) <= 80 for line in shown.splitlines() if "outbox " not in line)
    (entry,) = as_json("ls", "--path", told_apart, "--columns", "n,absent", "--session", "s-1")[1]["entries"]
    assert entry["columns"] == {"n": 2, "absent": None}
    put = next(
        line for line in call("tail", "--path", told_apart, "--columns", "n,symbol").stdout.splitlines() if "n=" in line
    )
    assert put.strip() == "n=0 symbol=EURUSD"


def test_an_id_may_be_cut_short_where_only_one_begins_so(dead: Path) -> None:
    execute(
        dead, "update outbox set id = 'order-17' where id = 't0'", "update outbox set id = 'order-21' where id = 't1'"
    )
    assert as_json("show", "order-1", "--path", dead)[1]["entries"][0]["id"] == "order-17"
    code, found = as_json("show", "order-", "--path", dead)
    assert (code, found["error"]) == (3, "IDS: 'order-' is how several begin: order-17, order-21; nothing was changed")
    assert as_json("requeue", "order", "--path", dead, "--yes")[0] == 3
    assert as_json("discard", "order-1", "order-2", "--reason", "r", "--path", dead, "--yes")[1]["done"] == 2
    execute(dead, "update outbox set id = 't', state = 'dead', settled_at_ms = 1 where id = 'order-17'")
    assert as_json("show", "t", "--path", dead)[1]["entries"][0]["id"] == "t"  # a whole id is no beginning


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
        assert found["error"].startswith("--where: 'EURUSD' is not COLUMN=VALUE")


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
    assert max(map(len, shown.replace(str(dead), "bot.db").splitlines())) < 200
    # The control: without the words the two causes of fills are one.
    assert as_json("requeue", "--path", dead, "--destination", "fills", "--code", "22P02", "--dry-run")[1]["would"] == 4
    execute(dead, "delete from outbox")
    assert call("dead", "--path", dead).stdout == "No entry is dead.\n"
