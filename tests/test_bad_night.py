"""docs/forensics.md keeps its word: the night is played again, ends well, and says what the page says."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from night import page
from night.home import Home
from night.play import Played, play
from night.story import Count, count
from night.terminal import NightError, Terminal, Typed, outbox_command

ROOT = Path(__file__).parents[1]
# CI installs one.
needs_shell = pytest.mark.skipif(
    shutil.which("sqlite3") is None and not os.environ.get("CI"), reason="no sqlite3 shell on this machine"
)
DISK = "disk-"


@pytest.fixture(scope="module")
def tampered() -> dict[str, Count]:
    """What was counted after somebody had spoiled the remote tables, filled in when the night is over."""
    return {}


@pytest.fixture(scope="module")
def played(tampered: dict[str, Count]) -> Played:
    def spoil(home: Home) -> None:
        with home.sql() as sql:
            sql.execute(
                "insert into trades (session_id, trade_id, timestamp, symbol) values ('s', '7', now(), 'EURUSD')"
            )
            tampered["a trade that is there twice"] = count(home)
            sql.execute("delete from trades where trade_id = '7'")
            tampered["a trade that is missing"] = count(home)

    return play(say=lambda _: None, last=spoil)


@needs_shell
def test_in_the_morning_all_is_at_the_remote_end_exactly_once(played: Played) -> None:
    assert played.count.exactly_once(), played.count
    assert played.count.fills >= 330


@needs_shell
def test_a_trade_that_is_missing_or_there_twice_would_be_found(played: Played, tampered: dict[str, Count]) -> None:
    """The control of the test above."""
    assert played.count.exactly_once()
    assert [name for name, counted in tampered.items() if counted.exactly_once()] == []
    assert len(tampered) == 2


@needs_shell
def test_the_page_shows_what_the_night_has_shown(played: Played) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    differing = page.differences(text, played.typed)
    if not any(typed.name.startswith(DISK) for typed in played.typed):  # no disk may be mounted here
        differing = [name for name in differing if not name.startswith(DISK)]
    assert differing == [], "scripts/bad_night --write renews the page"


# ------------------------------------------------------------------------------------------ what keeps it honest


def typed(answer: str, *, name: str = "a-b", command: str = "outbox status", varies: bool = False) -> Typed:
    return Typed(name, command, answer, 0, varies)


def a_page(*steps: Typed) -> str:
    return "prose\n" + "".join(f"<!-- night: {each.name} -->\n```text\n{page.shown(each)}\n```\n" for each in steps)


def test_a_command_that_no_answer_has_suggested_is_not_run(tmp_path: Path) -> None:
    programs = {"outbox": [sys.executable, "-c", "print('Dead 1: outbox ls\\n  --state dead')"]}
    terminal = Terminal(tmp_path, environment={}, programs=programs, say=lambda _: None)
    with pytest.raises(NightError, match="no answer so far says"):
        terminal.types("ls", "outbox ls --state dead", told="outbox ls --state dead")
    terminal.types("status", "outbox status")
    terminal.types("ls", "outbox ls --state dead", told="outbox ls --state dead")

    assert [each.name for each in terminal.typed] == ["status", "ls"]


def test_a_command_that_fails_ends_the_night(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, environment={}, programs={"outbox": outbox_command()}, say=lambda _: None)
    with pytest.raises(NightError, match="ended with code 3"):
        terminal.types("status", "outbox status --path none.db")


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ("Pending  33, the oldest for 9 s", "Pending  33, the oldest for 1 min 2 s"),
        ("process 1 since 2026-01-01T00:00:00+00:00", "process 22222 since 2026-02-02T10:00:00+00:00"),
        ("http://127.0.0.1:20001 cannot", "http://127.0.0.1:20002\n   cannot"),
        ("Size     4.0 KiB, WAL 0 B", "Size     12.5 KiB, WAL 3.9 MiB"),
        ("01a208a1-7069-7b57-a53b-45b61b6fcc8d", "01a208a1-7069-7b57-a53b-000000000000"),
    ],
    ids=["age", "process", "port", "size", "id"],
)
def test_what_differs_from_night_to_night_does_not_matter(then: str, now: str) -> None:
    assert page.differences(a_page(typed(then)), [typed(now)]) == []


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ("Pending  33, the oldest for 9 s", "Pending  34, the oldest for 9 s"),
        ("401 Invalid API key", "401 Invalid key"),
        (f"{'a' * 8}-1111-7111-8111-{'1' * 12} {'a' * 8}-1111-7111-8111-{'1' * 12}",
         f"{'a' * 8}-1111-7111-8111-{'1' * 12} {'a' * 8}-1111-7111-8111-{'2' * 12}"),
    ],
    ids=["a number", "a word", "one id or two"],
)  # fmt: skip
def test_what_has_changed_is_found(then: str, now: str) -> None:
    """The control: a page that is out of date."""
    assert page.differences(a_page(typed(then)), [typed(now)]) == ["a-b"]


def test_a_block_that_was_not_typed_is_found_and_not_all_that_was_typed_need_be_shown() -> None:
    one, two = typed("1", name="one"), typed("2", name="two")
    assert page.differences(a_page(one, two), [one]) == ["two"]
    assert page.differences(a_page(one), [one, two]) == []


def test_only_where_they_differ_from_night_to_night_numbers_do_not_matter() -> None:
    before, now = typed("trades 30", varies=True), typed("trades 1,031", varies=True)
    assert page.differences(a_page(before), [now]) == []
    assert page.differences(a_page(before), [replace(now, varies=False)]) == ["a-b"]


def test_the_page_names_no_place_on_this_machine() -> None:
    assert str(ROOT) not in page.PAGE.read_text(encoding="utf-8")
    assert page.shown(typed(f"-f {ROOT.as_posix()}/supabase_sql/0001.sql")).endswith("-f supabase_sql/0001.sql")
