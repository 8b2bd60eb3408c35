"""The benchmark's own honesty: it refuses what would flatter it, and its figures are what its samples say."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmark import disk, history, peers, probes
from benchmark.delay import line
from benchmark.plot import Bar, bars
from benchmark.rows import PEERS, PROBES, ROWS, SCENARIOS
from benchmark.trades import trades

ROOT = Path(__file__).parents[1]


def probe(folder: Path, name: str, **arguments: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmark.probes", name, str(folder), json.dumps(arguments)]
    path = os.pathsep.join([str(ROOT / "scripts"), str(ROOT)])
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OUTBOX_", "SUPABASE_"))}
    done = subprocess.run(command, cwd=folder, env=env | {"PYTHONPATH": path}, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_every_row_names_probes_that_exist_and_every_probe_is_needed_by_a_row() -> None:
    needed = {name for row in ROWS for name in row.needs}

    assert needed == set(PROBES)
    assert {each.work for each in PROBES.values()} <= set(probes.PROBES)
    assert len({row.number for row in ROWS}) == len(ROWS)


def test_the_trade_has_the_sixteen_fields_of_the_remote_table_and_no_two_are_alike() -> None:
    first, second = trades(2)

    assert len(first) == 16
    assert first != second
    assert 300 <= len(json.dumps(first)) <= 450


def test_the_floor_and_a_put_are_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    floor = probe(tmp_path, "floor", rows=20)
    put = probe(tmp_path, "put", rows=200, tasks=16, ticker=True)

    assert set(floor) == {"rows_per_s", "p50_ms", "p99_ms"}
    assert set(put) == set(floor) | {"cpu_us", "late_p99_ms", "late_max_ms", "ticks"}
    assert all(value > 0 for value in (*floor.values(), put["rows_per_s"], put["p50_ms"]))


def test_tasks_that_come_and_go_put_every_row_once(tmp_path: Path) -> None:
    assert probe(tmp_path, "put", rows=500, tasks=16, busy=True)["rows_per_s"] > 0  # it counts what was stored


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("many", {"rows": 10, "puts": 5}),
        ("lone", {"puts": 2}),
        ("sent", {"rows": 20}),
        ("arrivals", {"rows": 20, "per_s": 1000.0}),
    ],
)
def test_processor_time_is_measured_side_by_side(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    found = probe(tmp_path, name, **arguments)

    assert found
    assert all(value > 0 for value in found.values())


def test_a_bot_at_rest_is_counted_by_the_sleeps_of_its_loop(tmp_path: Path) -> None:
    found = probe(tmp_path, "idle", seconds=1.0)

    assert set(found) == {"wakes_per_s", "cpu_percent"}
    assert found["wakes_per_s"] > 0


def test_what_is_not_durable_is_not_measured() -> None:
    with pytest.raises(probes.WrongMeasurementError, match="synchronous is 1, 2 was wanted"):
        probes._require("synchronous", 1, 2)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_filled_file_is_as_counted_and_keeps_its_backlog_through_a_round(tmp_path: Path, scenario: str) -> None:
    probe(tmp_path, "fill", scenario=scenario, rows=1_000)
    path = tmp_path / f"{scenario}.db"
    before = counted(path)
    assert before == stored(path)

    probe(tmp_path, "backlog", scenarios=[scenario], puts=10, batches=2)
    after = counted(path)

    backlog = {"empty": 0, "empty_keyed": 0, "delivered": 0}.get(scenario, 1_000)
    assert before["pending"] == backlog
    assert after["pending"] >= backlog
    assert after == stored(path)


def counted(path: Path) -> dict[str, int]:
    """What the counters say, the states that have none left out."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("select state, sum(entries) from outbox_counts group by state").fetchall()
    connection.close()
    return {"pending": 0} | dict(rows)


def stored(path: Path) -> dict[str, int]:
    """What the rows say."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("select state, count(*) from outbox group by state").fetchall()
    connection.close()
    return {"pending": 0} | dict(rows)


def samples(**changed: float) -> dict[str, list[dict[str, float]]]:
    """Three rounds in which everything just meets its target; `changed`: another value of a field."""
    floor = {"rows_per_s": 100.0, "p50_ms": 10.0}
    costs = {f"{name}_{cost}_ms": 1.0 for name in SCENARIOS for cost in ("put", "flush", "stats", "open")}
    busy = {"beside_rows_per_s": 701.0, "alone_rows_per_s": 1000.0, "drained_rows_per_s": 500.0}
    found = {
        "floor": floor,
        "put 64": {"rows_per_s": 701.0, "p50_ms": 2.0, "p99_ms": 5.0},
        "put 1": {"p50_ms": 17.9},
        "floor, slow sync": floor,
        "put 64, slow sync": {"rows_per_s": 4001.0},
        "put 64, ticker": {"late_p99_ms": 2.0, "late_max_ms": 10.0},
        "backlog": costs,
        "drain": {"rows_per_s": 901.0, "bare_rows_per_s": 1000.0},
        "far drain": {"rows_per_s": 5001.0, "bare_rows_per_s": 1000.0},
        "visible": {"put_p50_ms": 8.9, "post_p50_ms": 6.0},
        "memory": {"grown_mib": 64.0, "before_mib": 60.0},
        "busy": busy,
        "busy, servers apart": busy,
        "written": {"bytes_per_put": 2000.0, "payload_bytes": 350.0},
        **{f"peer {name}": {"rows_per_s": 50.0} for name in PEERS},
        "recover": {"recovered_s": 3.0, "rows_per_s": 1000.0},
        "poison": {"requests_0": 20.0, "requests_1": 36.0},
        "many": {f"{name}_us": 1.0 for name in ("many", "many_least", "transaction", "transaction_least", "alone")}
        | {"alone_least_us": 1.0},
        "lone": {f"{name}_us": 1.0 for name in ("put", "put_least", "stats", "stats_least")},
        "sent": {f"{name}_us": 1.0 for name in ("sent", "sent_least", "sent_loop", "sent_loop_least")},
        "idle": {"wakes_per_s": 2.0, "cpu_percent": 0.1},
        "arrivals": {"cpu_us": 1.0, "p50_ms": 1.0, "p99_ms": 1.0},
        "import outbox": {"import_ms": 114.0},
        "import libraries": {"import_ms": 100.0},
    }
    return {name: [{**fields, **changed}] * 3 for name, fields in found.items()}


def test_a_row_is_met_exactly_when_its_samples_meet_its_target() -> None:
    figures = {row.number: row.judge(samples()) for row in ROWS}

    assert [number for number, figure in figures.items() if figure.met is False] == []
    assert [number for number, figure in figures.items() if figure.met is None] == [
        *(13, 14, 15, 16, 17, 18, 21, 20),
    ]  # reports, no targets


@pytest.mark.parametrize(
    ("number", "field", "value"),
    [
        pytest.param(1, "p50_ms", 2.1, id="a put that takes too long"),
        pytest.param(4, "late_max_ms", 10.1, id="a ticker that is once too late"),
        pytest.param(5, "blocked_flush_ms", 1.3, id="a flush that feels the blocked key"),
        pytest.param(6, "pending_open_ms", 51.0, id="an open that reads the backlog"),
        pytest.param(7, "bare_rows_per_s", 1100.0, id="a drain that the bare loop outruns"),
        pytest.param(8, "bare_rows_per_s", 1100.0, id="a far drain that gains too little"),
        pytest.param(9, "put_p50_ms", 9.1, id="a put that is seen too late"),
        pytest.param(10, "grown_mib", 65.0, id="a drain that takes too much memory"),
        pytest.param(19, "wakes_per_s", 2.1, id="a bot that does not rest"),
        pytest.param(11, "alone_rows_per_s", 1100.0, id="puts that feel the drain"),
    ],
)
def test_a_row_is_missed_when_one_sample_field_is_worse(number: int, field: str, value: float) -> None:
    (row,) = [each for each in ROWS if each.number == number]

    assert row.judge(samples(**{field: value})).met is False


def test_a_slow_disk_that_was_not_slow_counts_as_not_measured() -> None:
    (row,) = [each for each in ROWS if each.number == 3]

    assert row.judge(samples(p50_ms=0.2)).met is None
    assert row.judge({}).met is None


def test_a_file_system_in_memory_is_known_as_one() -> None:
    memory = Path("/dev/shm")

    assert not disk.is_in_memory(ROOT)
    if disk.kind(ROOT) and memory.is_dir():
        assert disk.is_in_memory(memory)


def test_every_peer_that_is_named_can_be_measured_and_none_is_left_out() -> None:
    assert sorted(PEERS) == sorted(["aiosqlite", *peers.PEERS])


def test_a_peer_is_measured_as_durable_as_we_are(tmp_path: Path) -> None:
    found = peers.peer(tmp_path, name="aiosqlite", rows=20, tasks=4)

    assert found["rows_per_s"] > 0
    with pytest.raises(RuntimeError, match="not WAL and FULL"):
        peers._require(["wal", 1])


def test_a_line_delays_what_passes_and_loses_nothing() -> None:
    received = bytearray()
    sent = os.urandom(300_000)

    async def main() -> float:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while chunk := await reader.read(65_536):
                writer.write(chunk)
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1")
        async with server:
            with line(server.sockets[0].getsockname()[1], 0.05) as near:
                reader, writer = await asyncio.open_connection("127.0.0.1", near)
                before = time.perf_counter()
                writer.write(sent)
                writer.write_eof()
                received.extend(await reader.read())
                taken_s = time.perf_counter() - before
                writer.close()
                await writer.wait_closed()
                return taken_s

    taken_s = asyncio.run(main())

    assert bytes(received) == sent
    assert taken_s >= 0.1  # there and back; never earlier, however busy the machine


def test_a_plot_is_a_picture_of_its_bars() -> None:
    picture = ElementTree.fromstring(
        bars("Rates", "in F", [Bar("outbox", 5.0, "5 F", ours=True), Bar("a<b", 1.0, "1")])
    )

    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    widths = [float(element.get("width", 0)) for element in picture.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert texts == ["Rates", "in F", "outbox", "5 F", "a<b", "1"]
    assert widths[0] == pytest.approx(5 * widths[1], rel=0.01)


def test_a_version_has_one_record_for_each_machine_and_the_picture_shows_them_by_date(tmp_path: Path) -> None:
    def told(version: str, date: str, least_us: float) -> dict[str, Any]:
        return {"version": version, "date": date, "rows": {16: {"many_least_us": least_us}}}

    history.keep(tmp_path, "a", told("2", "2026-02-01", 30.0))
    history.keep(tmp_path, "a", told("2", "2026-02-01", 20.0))
    history.keep(tmp_path, "a", {**told("2", "2026-02-01", 0.0), "rows": {}})  # what is not measured again stays
    history.keep(tmp_path, "b", told("1", "2026-01-01", 40.0))

    assert [each["version"] for each in history.records(tmp_path)] == ["1", "2"]
    picture = ElementTree.fromstring((tmp_path / "history.svg").read_text(encoding="utf-8"))
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[2:] == ["put_many, 1", "40", "put_many, 2", "20"]


def test_the_picture_of_the_page_is_drawn_from_its_history() -> None:
    folder = ROOT / "docs" / "bench"

    assert (folder / "history.svg").read_text(encoding="utf-8") == history.picture(history.records(folder))
