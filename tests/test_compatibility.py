"""What docs/compatibility.md promises of the public names."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import errno
import importlib
import inspect
import json
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import outbox
from outbox import BlockingOutbox, Destination, Outbox, Settings, blocking, errors, testing
from outbox.testing import FakeRemote, ManualClock
from tests.support import run_async

PAGE = (Path(__file__).parents[1] / "docs" / "compatibility.md").read_text(encoding="utf-8")
RESULTS = [
    *(outbox.Receipt, outbox.Handled, outbox.Stats, outbox.FlusherState, outbox.StoredPause, outbox.DrainReport),
    *(outbox.ResendReport, outbox.StoredEntry),
]
# The name that Python's own calls have that give up waiting.
TIMEOUTS = {"drain", "retry_pending"}


def test_every_public_module_can_be_imported() -> None:
    modules = re.findall(r"`(outbox(?:\.\w+)*)`", PAGE.split("## Public modules")[1].split("Every other module")[0])
    named = {name for name in modules if name != "outbox.__all__"}
    assert {"outbox", "outbox.blocking", "outbox.errors", "outbox.metrics", "outbox.testing"} <= named
    for name in named:
        importlib.import_module(name)


def test_the_top_has_at_most_thirty_names_and_all_exist() -> None:
    assert len(outbox.__all__) <= 30
    assert [name for name in outbox.__all__ if not hasattr(outbox, name)] == []


@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: str(kind.__name__))
def test_a_result_is_a_frozen_dataclass_made_by_keyword(kind: Any) -> None:
    assert not issubclass(kind, tuple)
    assert kind.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(kind))


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        (errors.InvalidEntry, ValueError),
        (errors.ConfigError, ValueError),
        (errors.UsageError, RuntimeError),
        (errors.DeadlinePassed, TimeoutError),
        (errors.Unreachable, ConnectionError),
        (errors.DiskFull, OSError),
    ],
)
def test_an_error_is_what_the_standard_library_calls_it(kind: type[Exception], known: type[Exception]) -> None:
    assert issubclass(kind, known)
    assert f"`{kind.__name__}`" in PAGE
    assert f"`{known.__name__}`" in PAGE


def test_a_full_disk_has_the_number_that_the_system_gives_it() -> None:
    full = errors.DiskFull(path=Path("bot.db"), ids=("a",))
    assert (full.errno, "no space left" in str(full)) == (errno.ENOSPC, True)


def functions() -> Iterator[tuple[str, inspect.Signature]]:
    names = ("TradeLogger", "SessionManager", "SupabaseClient", "LocalStorage")
    for kind in (Outbox, BlockingOutbox, *(getattr(where, name) for where in (outbox, blocking) for name in names)):
        for name, function in inspect.getmembers(kind, callable):
            if not name.startswith("_"):
                yield name, inspect.signature(function)


def test_every_type_that_a_call_returns_can_be_imported_from_a_public_module() -> None:
    places = (outbox, blocking, testing, contextlib, typing)
    named = {name for _, made in functions() for name in re.findall(r"\b[A-Z]\w+", str(made.return_annotation))}
    assert {"Receipt", "ResendReport", "StoredEntry"} <= named
    hidden = {name for name in named if not any(hasattr(place, name) for place in places)}
    assert hidden - {"None"} == {"Opening", "ThreadFuture"}  # awaited at once, and a concurrent.futures.Future


@run_async
async def test_stats_do_not_change_after_they_were_taken(tmp_path: Path) -> None:
    async with Outbox.open(path=tmp_path / "bot.db", clock=ManualClock(), transport=FakeRemote()) as opened:
        before = await opened.stats()
        async with opened.flushing():
            during = await opened.stats()
        assert [each.flusher.running for each in (before, during, await opened.stats())] == [False, True, False]


def test_what_bounds_a_time_says_its_unit() -> None:
    bounding = [
        (name, parameter)
        for name, signature in functions()
        for parameter in signature.parameters
        if re.search("timeout|deadline|limit_|wait", parameter)
    ]
    assert bounding
    assert [each for each in bounding if not each[1].endswith("_s") and each[0] not in TIMEOUTS] == []


@run_async
async def test_destinations_are_declared_before_anything_can_be_put(tmp_path: Path) -> None:
    remote = FakeRemote()
    orders = Destination("orders", key="order_id", on_conflict=("order_id",), integers=frozenset({"lots"}))
    opening = Outbox.open(path=tmp_path / "bot.db", destinations=[orders], clock=ManualClock(), transport=remote)
    async with opening as opened:
        assert opened.destination("orders") == orders
        await opened.put("orders", {"order_id": 7, "lots": 2.0}, operation="upsert")
        assert (await opened.drain()).delivered == 1
    assert remote.rows("orders")[0]["lots"] == 2


@run_async
async def test_what_is_no_destination_is_told_and_the_file_is_free_again(tmp_path: Path) -> None:
    wrong: Any = ["orders"]
    for _ in range(2):
        with pytest.raises(errors.ConfigError, match="destinations"):
            await Outbox.open(Settings(path=tmp_path / "bot.db", _env_file=None), destinations=wrong)
    async with Outbox.open(Settings(path=tmp_path / "bot.db", _env_file=None)) as opened:  # control: it can be opened
        assert (await opened.stats()).pending == 0


def test_a_type_checker_and_a_program_find_each_name_in_the_same_module() -> None:
    tree = ast.parse(Path(outbox.__file__).read_text(encoding="utf-8"))
    (checked,) = [each for each in tree.body if isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING"]
    imported = {
        name.name: each.module for each in checked.body if isinstance(each, ast.ImportFrom) for name in each.names
    }
    assert imported.pop("errors") == "outbox"
    assert imported.pop("*") == "outbox.errors"
    assert imported == outbox._WHEN_USED
    imported |= {
        name: "outbox.errors"
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.OutboxError)
    }
    assert not hasattr(outbox, "errno"), "what outbox.errors imports is no error"
    for name, module in imported.items():
        assert getattr(outbox, name) is getattr(importlib.import_module(str(module)), name)
    assert {"errors", *outbox.__all__, *imported} <= set(dir(outbox))


@pytest.mark.slow
def test_the_package_loads_each_name_when_it_is_used() -> None:
    code = "import outbox, sys; print(sum(name.startswith('outbox.') for name in sys.modules)); {}"
    tell = "print(*sorted({'outbox.errors', 'outbox.outbox', 'httpx'} & set(sys.modules)))"

    def told(used: str) -> list[str]:
        return subprocess.check_output([sys.executable, "-c", code.format(f"{used}; {tell}")], text=True).splitlines()

    assert told("pass") == ["0", ""]
    assert told("outbox.errors.OutboxError") == ["0", "outbox.errors"]
    assert told("from outbox import *; Outbox")[0] == "0"
    assert set(told("outbox.Outbox")[1].split()) == {"httpx", "outbox.errors", "outbox.outbox"}  # the control
    with pytest.raises(AttributeError, match="module 'outbox' has no attribute 'Outbx'"):
        outbox.__getattr__("Outbx")


# A frozen dataclass takes six times as long to define as a tuple: each of its methods is compiled.
OF_OUTBOX = """
import dataclasses, json, sys
from outbox import Outbox
if sys.argv[1:]:
    import outbox.postgrest.connecting
own = [module for name, module in sys.modules.items() if name.startswith("outbox.")]
made = [
    each for module in own for each in vars(module).values()
    if dataclasses.is_dataclass(each) and isinstance(each, type) and each.__module__ == module.__name__
]
print(json.dumps([len(own), len(made), "httpcore" in sys.modules]))
"""


def test_the_import_of_the_outbox_loads_what_every_bot_needs() -> None:
    def told(*more: str) -> list[Any]:
        return list(json.loads(subprocess.check_output([sys.executable, "-c", OF_OUTBOX, *more], text=True)))

    modules, dataclasses_made, connects = told()
    assert (modules <= 56, dataclasses_made <= 27, connects) == (True, True, False)
    assert told("connecting") == [modules + 1, dataclasses_made, True]  # the control
