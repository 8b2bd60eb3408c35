"""OUTBOX_RPC=auto against answers that no honest server gives: nothing is lost, overtaken, stuck or asked in a loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outbox import Outbox, Settings
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.testing import Answer, ManualClock, ScriptedTransport, accepted, refused
from tests.support import run_async

Line = dict[str, Any]
APPLIED: Line = {"applied": True}
NO_TABLE: Line = {"applied": False, "code": "42P01", "message": "no such table"}


def answering(line: Callable[[Line], Line]) -> Callable[[Request], Reply]:
    """Answer as `outbox_apply` does, with what `line` says of each entry; the tables accept everything."""

    def script(request: Request) -> Reply:
        if not request.path.startswith("rpc/"):
            return accepted(request)
        told = [{"n": n} | line(entry) for n, entry in enumerate(json.loads(request.body)["entries"], 1)]
        return Reply(200, {}, json.dumps(told).encode())

    return script


def opened(folder: Path, remote: ScriptedTransport, **changes: Any) -> Any:
    values: dict[str, Any] = {"rpc": "auto"} | changes
    return Outbox.open(Settings(path=folder / "bot.db", **values), clock=ManualClock(), transport=remote)


def sent_to(remote: ScriptedTransport) -> list[str]:
    return [request.path.partition("?")[0] for request in remote.requests]


@run_async
async def test_a_table_that_only_the_plain_path_can_write_is_not_sent_row_by_row(tmp_path: Path) -> None:
    """A view, say, which the function does not know: the table's own requests are the judge of that."""
    remote = ScriptedTransport(otherwise=answering(lambda entry: NO_TABLE if entry["table"] == "a_view" else APPLIED))
    async with opened(tmp_path, remote) as outbox:
        for n in range(50):
            await outbox.put("a_view", {"n": n})
            await outbox.put("trades", {"n": n})
        async with asyncio.timeout(10):
            report = await outbox.drain(timeout=5)
        stats = await outbox.stats()

    assert (report.delivered, report.pending, report.dead) == (100, 0, 0)
    assert stats.pauses == ()
    assert sent_to(remote) == ["rpc/outbox_apply", "a_view"]


TOO_MUCH: list[Any] = [
    pytest.param(Failure.TIMEOUT, id="the deadline"),
    pytest.param(Failure.CUT, id="cut"),
    pytest.param(Reply(504, {}, b""), id="the gateway's patience"),
]


@pytest.mark.parametrize("answer", TOO_MUCH)
@run_async
async def test_a_mixed_batch_that_is_too_much_for_the_server_becomes_smaller(tmp_path: Path, answer: Answer) -> None:
    good = answering(lambda _: APPLIED)

    def script(request: Request) -> Answer:
        mixed = request.path.startswith("rpc/")
        return answer if mixed and len(json.loads(request.body)["entries"]) > 60 else good(request)

    remote = ScriptedTransport(otherwise=script)
    clock = ManualClock()
    settings = Settings(path=tmp_path / "bot.db", rpc="auto", batch_rows=400)
    async with Outbox.open(settings, clock=clock, transport=remote) as outbox:
        for n in range(400):
            await outbox.put("trades", {"n": n})
        async with outbox.flushing():
            await clock.advance_until(lambda: outbox.pending_now() == 0)

    assert len(remote.requests) < 40


STRANGE: list[Any] = [
    pytest.param(Reply(200, {}, b"null"), id="a function of that name that returns nothing"),
    pytest.param(Reply(204, {}, b""), id="no content"),
    pytest.param(Reply(200, {}, b'[{"n":1,"appl'), id="cut short"),
    pytest.param(refused(403, "42501", "permission denied for function outbox_apply"), id="not allowed"),
    pytest.param(refused(404, "42883", "function does not exist"), id="gone, and the cache does not know"),
    pytest.param(refused(409, "23503", "a deferred constraint"), id="refused at the commit"),
]


@pytest.mark.parametrize("answer", STRANGE)
@run_async
async def test_a_function_that_cannot_be_understood_is_left_alone_and_nothing_stops(
    tmp_path: Path, answer: Answer
) -> None:
    remote = ScriptedTransport(otherwise=lambda request: answer if request.path[:4] == "rpc/" else accepted(request))
    async with opened(tmp_path, remote) as outbox:
        for n in range(20):
            await outbox.put("trades", {"n": n})
            await outbox.put("events", {"n": n})
        async with asyncio.timeout(10):
            report = await outbox.drain(timeout=5)
        stats = await outbox.stats()

    assert (report.delivered, report.pending, report.dead) == (40, 0, 0)
    assert (stats.pauses, sent_to(remote).count("rpc/outbox_apply")) == ((), 1)


@run_async
async def test_a_function_that_holds_everything_back_is_not_asked_in_a_loop(tmp_path: Path) -> None:
    remote = ScriptedTransport(otherwise=answering(lambda _: {"applied": False, "code": "HELD"}))
    async with opened(tmp_path, remote) as outbox:
        await outbox.put("trades", {"n": 1})
        async with asyncio.timeout(10):
            report = await outbox.drain(timeout=5)

    assert (report.delivered, sent_to(remote)) == (1, ["rpc/outbox_apply", "trades"])


@run_async
async def test_a_function_that_vanishes_midway_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    remote = ScriptedTransport(otherwise=answering(lambda _: APPLIED))
    async with opened(tmp_path, remote, batch_rows=10) as outbox:
        remote.answers.append(answering(lambda _: APPLIED))
        remote.answers.append(refused(404, "PGRST202", "no function"))
        for n in range(30):
            await outbox.put("trades", {"n": n})
        report = await outbox.drain(timeout=5)
        assert (report.delivered, report.pending, report.dead) == (30, 0, 0)
        assert sent_to(remote) == ["rpc/outbox_apply"] * 2 + ["trades"] * 2
        await outbox.reload()
        await outbox.put("trades", {"n": 30})
        await outbox.drain(timeout=5)
    assert sent_to(remote)[4:] == ["rpc/outbox_apply"]


@run_async
async def test_closing_during_a_mixed_request_leaves_its_rows_pending_and_they_arrive_with_the_same_ids(
    tmp_path: Path,
) -> None:
    remote = ScriptedTransport(otherwise=answering(lambda _: APPLIED))
    remote.gate.clear()
    async with opened(tmp_path, remote) as outbox:
        task = asyncio.create_task(outbox.run_flusher())
        for n in range(5):
            await outbox.put("trades", {"n": n})
        while not remote.requests:
            await outbox.stats()  # each look gives way to the flusher
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await outbox.stats()).pending == 5
    remote.gate.set()
    async with opened(tmp_path, remote) as outbox:
        report = await outbox.drain(timeout=5)
    assert (report.delivered, report.pending) == (5, 0)
    first, *others = ([entry["row"]["id"] for entry in json.loads(each.body)["entries"]] for each in remote.requests)
    assert set(first) <= {each for ids in others for each in ids}


@run_async
async def test_with_rpc_off_the_function_is_never_asked(tmp_path: Path) -> None:
    remote = ScriptedTransport()
    async with opened(tmp_path, remote, rpc="off") as outbox:
        for n in range(3):
            await outbox.put("trades", {"n": n})
            await outbox.put("events", {"n": n})
        await outbox.drain(timeout=5)
    assert sorted(sent_to(remote)) == ["events", "trades"]
