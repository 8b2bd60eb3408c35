"""What the library logs: fixed phrases with their facts beside them, each in the table of docs/logs.md."""

from __future__ import annotations

import ast
import asyncio
import functools
import logging
import pickle
import queue
import re
import subprocess
import sys
from collections.abc import Iterator
from logging.handlers import QueueHandler
from pathlib import Path

import pytest

from outbox.logs import named
from tests.doc_blocks import run_page

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "logs.md"

Line = tuple[str, str, str, frozenset[str]]

# `outbox.flusher.means.facts` gives these with every line that is about a refusal.
REFUSAL = frozenset({"destination", "status", "code"})
PLAIN = re.compile(r"^logger\b.* = logging", re.MULTILINE)
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module]]:
    """Return each call of a logger's method with the function it stands in, the innermost one."""
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr=method)) if method in LEVELS:
                inside = [scope for scope in scopes if node in ast.walk(scope)]
                yield node, inside[-1] if inside else tree


def line_of(call: ast.Call, scope: ast.AST, tree: ast.Module, logger: str) -> Line:
    """Return what `call` logs. Raises AssertionError: it is no fixed phrase, or its facts cannot be told."""
    match call:
        case ast.Call(func=ast.Attribute(attr=level), args=[ast.Constant(value=str(phrase))]):
            extra = next((each.value for each in call.keywords if each.arg == "extra"), None)
            level = "error" if level == "exception" else level  # that one adds a traceback
            return level, logger, phrase, frozenset() if extra is None else keys(extra, scope, tree)
        case _:
            raise AssertionError(f"no fixed phrase: {ast.unparse(call)}")


def keys(extra: ast.expr, scope: ast.AST, tree: ast.Module) -> frozenset[str]:
    match extra:
        case ast.Dict():
            parts = [
                keys(value, scope, tree) if key is None else frozenset({ast.literal_eval(key)})
                for key, value in zip(extra.keys, extra.values, strict=True)
            ]
            return frozenset().union(*parts)
        case ast.Call(func=ast.Name(id="facts")):
            return REFUSAL | {str(each.arg) for each in extra.keywords}
        case ast.Name(id="news"):  # `outbox.logs.Repeating.news`
            return frozenset({"repeated"})
        case ast.Name(id=name):
            for node in ast.walk(scope):
                match node:
                    case ast.Assign(targets=[ast.Name(id=its)]) if its == name:
                        return keys(node.value, scope, tree)
        case ast.Attribute(attr=name):  # an object's own, which its module sets
            for node in ast.walk(tree):
                match node:
                    case ast.Assign(targets=[ast.Attribute(attr=its)]) if its == name:
                        return keys(node.value, scope, tree)
    raise AssertionError(f"these facts cannot be told from the code: {ast.unparse(extra)}")


def logger_of(tree: ast.Module) -> str:
    for node in tree.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id="logger"), value=ast.Call(args=[ast.Constant(value=str(name))])):
                return name
    raise AssertionError("it logs without a logger of its own")


@functools.cache
def logged() -> dict[Line, str]:
    """Return every line that the package logs, and the file where it stands."""
    found = {}
    for path in sorted((ROOT / "outbox").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for call, scope in calls(tree):
            found[line_of(call, scope, tree, logger_of(tree))] = path.name
    return found


def documented() -> list[Line]:
    rows = [
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ") and "`outbox" in line
    ]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [
        (level, logger.strip("`"), phrase, frozenset(facts.replace("`", "").replace(",", " ").split()))
        for level, logger, phrase, facts, _ in cells
    ]


@pytest.mark.slow
def test_the_table_is_what_the_code_logs() -> None:
    lines, table = logged(), documented()
    assert len(table) == len(set(table)) > 20
    assert set(lines) - set(table) == set(), "not in docs/logs.md"
    assert set(table) - set(lines) == set(), "logged nowhere"


def test_no_fact_has_a_name_that_logging_keeps_for_itself() -> None:
    common = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
    assert {line for line in logged() if line[3] & common} == set()


def test_no_phrase_has_room_for_a_value() -> None:
    assert [phrase for _, _, phrase, _ in logged() if "%" in phrase or "{" in phrase] == []


@pytest.mark.parametrize(
    "code",
    [
        'logger.info("put %s", row)',
        'logger.info(f"put {row}")',
        "logger.info(phrase)",
        'logger.warning("put", extra=made_elsewhere)',
    ],
    ids=["with a value", "f-string", "variable", "unknown facts"],
)
def test_a_line_of_another_kind_would_be_found(code: str) -> None:
    tree = ast.parse(f"def function():\n    {code}\n")
    with pytest.raises(AssertionError):
        for call, scope in calls(tree):
            line_of(call, scope, tree, "outbox")


# ------------------------------------------------------------------------------------------------ how they read


def shown(caplog: pytest.LogCaptureFixture, **extra: object) -> str:
    caplog.clear()
    caplog.set_level(logging.INFO)
    named("outbox.test").info("entry refused", extra=extra)
    (record,) = caplog.records
    assert record.msg == "entry refused"  # what an error tracker groups by
    return logging.Formatter("%(levelname)s %(message)s").format(record)


def test_the_facts_stand_behind_the_phrase_whatever_the_formatter(caplog: pytest.LogCaptureFixture) -> None:
    assert shown(caplog, id="a-1", code="23514", status=400) == "INFO entry refused id=a-1 code=23514 status=400"
    assert shown(caplog) == "INFO entry refused"


def test_a_fact_cannot_pass_for_another_one_or_for_another_line(caplog: pytest.LogCaptureFixture) -> None:
    assert shown(caplog, error='no\nid="x"', ids=["a", "b"], subject="") == (
        'INFO entry refused error="no\\nid=\\"x\\"" ids=["a", "b"] subject=""'
    )


def test_a_fact_cannot_steer_the_terminal(caplog: pytest.LogCaptureFixture) -> None:
    told = shown(caplog, code="\x1b[31m\x9b1m\u202e", word="\u2066💹", said="all is\u2028 well\x9b")
    assert (
        told
        == 'INFO entry refused code="\\u001b[31m\\u009b1m\\u202e" word="\\u2066💹" said="all is\\u2028 well\\u009b"'
    )


def test_a_queue_between_logger_and_handler_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    shown(caplog, id="a")
    record = QueueHandler(queue.SimpleQueue()).prepare(caplog.records[0])
    assert logging.Formatter("%(message)s").format(pickle.loads(pickle.dumps(record))) == "entry refused id=a"


def test_every_logger_of_the_package_shows_its_facts() -> None:
    """The control is Python's own way to get one."""
    plain = [path.name for path in (ROOT / "outbox").rglob("*.py") if PLAIN.search(path.read_text(encoding="utf-8"))]
    assert plain == []
    assert PLAIN.search('logger = logging.getLogger("outbox")')


def test_the_pages_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    assert asyncio.run(run_page(PAGE, tmp_path)) == 1


WARNS = """
import logging, sys
from outbox import logs
{setup}
logs.named("outbox.flusher").warning("sending paused", extra={{"why": "no answer"}})
logs.named("outbox.flusher").info("sending still paused")
"""


def told_by(setup: str) -> str:
    """Return what a bot with this logging writes to stderr."""
    code = WARNS.format(setup=setup)
    return subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=True, encoding="utf-8"
    ).stderr


def test_a_bot_without_logging_sees_time_level_and_logger() -> None:
    line = r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING outbox\.flusher: sending paused why="no answer"\n'
    assert re.fullmatch(line, told_by(""))


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        ("logging.basicConfig(format='mine %(msg)s')", "mine sending paused\n"),
        ("logging.getLogger('outbox').addHandler(logging.NullHandler())", ""),
        ("logging.lastResort = None", ""),
        ("logging.lastResort.setLevel(logging.ERROR)", ""),
        ("sys.stderr = None", ""),
    ],
)
def test_a_bots_own_logging_is_all_that_it_sees(setup: str, said: str) -> None:
    assert told_by(setup) == said
