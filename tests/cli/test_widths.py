"""A narrow terminal breaks no word, and what fits stands on one line."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from outbox.cli import doctor
from outbox.doctor.findings import Finding, Severity
from tests.cli.test_changes import call
from tests.forensics_file import make

LISTS = (
    "status", "ls", "ls --state dead", "find EURUSD", "find EURUSD --columns symbol,action", "show t-comma", "show e-0",
    "dead", "outages", "lives", "tail", "tail -n 50", "requeue --all --dry-run",
)  # fmt: skip
# A command, a path, an id: it may be longer than the line.
TO_COPY = re.compile("outbox |psql |/|[0-9a-f]{12}")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("widths") / "bot.db"
    asyncio.run(make(path))
    return path


def said(command: str, width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    return call(*command.split()).output


def words(text: str) -> set[str]:
    """What is said, but for figures that change from one call to the next, and what is cut with an ellipsis."""
    return {word.strip(",") for word in text.split() if not re.search(r"\d|…", word)}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("width", [50, 80])
@pytest.mark.parametrize("command", LISTS)
def test_no_word_is_broken(command: str, width: int, night: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_PATH", str(night))
    narrow, wide = said(command, width, monkeypatch), said(command, 400, monkeypatch)

    assert words(narrow) - words(wide) == set()
    too_long = [line for line in narrow.splitlines() if len(line) > width and not TO_COPY.search(line)]
    assert too_long == []


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("command", LISTS)
def test_what_fits_on_a_line_is_on_one(command: str, night: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above, too: a row of a list that is short enough is the same at 50 columns."""
    monkeypatch.setenv("OUTBOX_PATH", str(night))
    narrow, wide = (said(command, width, monkeypatch).splitlines() for width in (50, 400))

    fits = [line for line in wide if 0 < len(line) <= 50 and not re.search(r"\d (?:s|min|h|d)\b", line)]
    assert [line for line in fits if _squeezed(line) not in map(_squeezed, narrow)] == []


def _squeezed(line: str) -> str:
    return " ".join(line.split())


@pytest.mark.usefixtures("alone")
def test_the_doctor_breaks_no_word_either(night: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its findings are taken once: a commit that it tries takes another time each time."""
    monkeypatch.setenv("OUTBOX_PATH", str(night))
    findings = json.loads(call("doctor", "--offline", "--json").stdout)["findings"]
    whole = {word for each in findings for word in f"{each['says']} {each['check']}".split()}
    for width in (50, 80):
        console = Console(width=width, markup=False, highlight=False)
        with console.capture() as captured:
            doctor.show(night, [Finding(each["check"], Severity.OK, each["says"]) for each in findings], console)
        assert set(captured.get().split()) - whole == {"ok", str(night)}


def test_control_a_console_that_folds_is_seen() -> None:
    console = Console(width=10, file=None)
    with console.capture() as captured:
        console.print("a-word-that-is-longer-than-that", overflow="fold")
    assert words(captured.get()) - {"a-word-that-is-longer-than-that"}
