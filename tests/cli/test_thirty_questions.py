"""Each question of docs/forensics.md has one command and one query, and both answer it on the page's file."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.test_changes import call
from tests.forensics_file import make

PAGE = Path(__file__).parents[2] / "docs" / "forensics.md"
ROW = re.compile(r"^\| (\d+) \| (.+?) \| `outbox (.+?)` \| `(.+?)` \|$", re.MULTILINE)
QUESTIONS = {int(number): more for number, *more in ROW.findall(PAGE.read_text(encoding="utf-8"))}
# What the command's answer and the query's rows must say.
ANSWERS = {
    1: (r"removed\n.*^all .* 1$", r"^\[\(1,\)\]$"),
    2: (r"^stalled", r"stalled"),
    3: (r"forbidden.*403 42501 permission denied for table events", r"forbidden.*42501"),
    4: (r"f-1 .*pending", r"f-1.*a try at"),
    5: (r"events +7 .*fills +1 ", r"'events', 7.*'fills', 1"),
    6: (r"next try.*23503", r"f-1.*23503"),
    7: (r"o-1 .*t-comma", r"t-comma.*22P02.*o-1.*23514|o-1.*23514.*t-comma.*22P02"),
    8: (r"1 orders.*23514.*requeue .*--destination orders --code 23514", r"'orders', '23514', 1"),
    9: (r'"volume": "0,1"', r'"volume":"0,1"'),
    10: (r"a later entry of its key was delivered", r"^\[\(1,\)\]$"),
    11: (r"requeue would change 1 dead entry; nothing was changed", r"^\[\(1,\)\]$"),
    12: (r"refused: 400 22P02.*edited.*requeued", r"refused.*requeued"),
    13: (r'it was.*"volume":"0,1"', r'"volume":"0,1"'),
    14: (r"discarded: a test row", r"t-test.*a test row"),
    15: (r"^delivered  trades  t-7", r"delivered"),
    16: (r"o-2 .*delivered.*o-1 .*dead", r"'o-2', 'delivered'.*'o-1', 'dead'"),
    17: (r"t-14 .*t-7 ", r"t-14.*t-7"),
    18: (r"t-14 .*symbol=EURUSD", r"t-14"),
    19: (r"t-14 .*t-7 ", r"^\[\(\d\d,\)\]$"),
    20: (r"delivered.*status=RUNNING", r"bot-1.*RUNNING"),
    21: (r"^\d\d entries would be written", r"^\[\(\d\d,\)\]$"),
    22: (r"put +trades +t-14.*delivered +trades +t-14", r"requeued.*t-typo|discarded.*t-test"),
    23: (r"Writer +none; the last was process \d+", r"20\d\d-"),
    24: (r"UTC: .*process \d+.*closed 20\d\d", r"20\d\d-.*20\d\d-.*20\d\d-"),
    25: (r'"ended": "closed"', r"closed"),
    26: (r"and still: events: insert of", r"events: insert of.*20\d\d.*\d d "),
    27: (r'"refused": 0', r"^\[\(0,\)"),
    28: (r"^12 would be sent again", r"^\[\(12,\)\]$"),
    29: (r"^0 entries would be written", r"'trades', 4"),
    30: (r"^ok +integrity", r"ok"),
}


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "bot.db"
    asyncio.run(make(path))
    return path


def test_there_are_thirty() -> None:
    assert sorted(QUESTIONS) == sorted(ANSWERS) == list(range(1, 31))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("number", range(1, 31))
def test_a_question_is_answered_by_its_command_and_by_its_query(number: int, _made: Path, tmp_path: Path) -> None:
    for file in _made.parent.glob("bot.db*"):
        if file.is_file():
            shutil.copy2(file, tmp_path)
    _, command, query = QUESTIONS[number]
    said, found = ANSWERS[number]
    with closing(sqlite3.connect(f"file:{tmp_path / 'bot.db'}?mode=ro", uri=True)) as connection:
        assert re.search(found, str(connection.execute(query).fetchall()), re.DOTALL)
    name, *arguments = shlex.split(command)
    result = call(name, "--path", tmp_path / "bot.db", *arguments)
    assert re.search(said, result.stdout, re.DOTALL | re.MULTILINE), result.output
