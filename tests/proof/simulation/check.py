"""What holds after every program: nothing lost, nothing twice, in order, all of it counted."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tests.proof.simulation.world import Put, Row, World


def judge(world: World, path: Path) -> None:
    """Note what is wrong with the closed file and the remote end."""
    if world.damaged and not world.told_of_loss:
        world.hurt, world.vanishing = False, []  # whatever was damaged held nothing, or all of it is there
        for put in world.puts.values():
            if put.by_shell:  # but for a shell's rows that no bot had read: nobody knew of them
                put.told = "unknown"
    with contextlib.closing(sqlite3.connect(path)) as file:
        # A scribble may have hit a payload, which is then no UTF-8.
        file.text_factory = lambda text: text.decode(errors="replace")
        stored = _stored(file)
        own = {n for (n,) in file.execute("select n from own")}
        counts = dict(file.execute("select state, sum(entries) from outbox_counts group by state"))
        states = dict(file.execute("select state, count(*) from outbox group by state"))
    for state in ("pending", "delivered", "dead", "discarded"):
        if counts.get(state, 0) != states.get(state, 0):
            world.wrong(f"{counts.get(state, 0)} {state} are counted, {states.get(state, 0)} are there")
    remote = _remote(world)
    for n in remote.keys() - world.puts.keys():
        world.wrong(f"{n} is at the remote end and was never put")
    for put in world.puts.values():
        seen = put.n in world.network.server.seen or put.key is not None  # a newer one may have gone in its place
        seen = seen or put.id in world.discarded
        if world.pruned and put.n not in stored and put.told != "refused" and seen:
            continue
        _judge_put(world, put, stored.get(put.n), remote.get(put.n, 0))
    if (
        not world.damaged and not world.pruned
    ):  # a copy that is older than what was acknowledged may send something again
        _judge_transactions(world, stored, own)
        _judge_keys(world, stored)


def _stored(file: sqlite3.Connection) -> dict[int, tuple[Any, ...]]:
    found = {}
    for payload, *facts in file.execute("select payload, state, error_code, attempts, seq from outbox"):
        try:
            row = json.loads(payload)
        except ValueError:  # a scribble has hit it: nobody can tell whose it was
            continue
        n = row.get("n", row.get("u"))
        if n is not None:
            found[n] = tuple(facts)
    return found


def _remote(world: World) -> Counter[int]:
    """Return how often each number is in a table of inserts."""
    tables = world.network.server.rows
    return Counter(
        row["n"] for name in tables if name not in ("sessions", "marks") for row in tables[name].values() if "n" in row
    )


def _judge_put(world: World, put: Put, stored: tuple[Any, ...] | None, remote: int) -> None:
    name = f"{put.operation} {put.n} of {put.table}"
    if put.told == "acknowledged" and stored is None and not world.damaged:
        world.wrong(f"{name} was acknowledged and is lost")
    if put.told == "refused" and (stored is not None or remote):
        world.wrong(f"{name} was refused and is there all the same")
    if put.operation == "insert" and remote > 1:
        world.wrong(f"{name} is {remote} times at the remote end")
    if stored is None:
        if remote and not world.damaged:
            world.wrong(f"{name} is at the remote end and in no file")
        return
    state, code, *_ = stored
    if state == "dead" and not (_may_die(world, put, code) or (put.before is not None and remote)):
        world.wrong(f"{name} died of {code}")
    if state == "pending" and world.can_arrive(put):
        world.wrong(f"{name} is still pending")
    if state == "delivered":
        _judge_delivered(world, put, remote, name)


def _judge_delivered(world: World, put: Put, remote: int, name: str) -> None:
    if put.operation == "update" and put.n not in world.network.server.seen:
        world.wrong(f"{name} counts as delivered and was never applied")
    if put.operation == "insert" and not remote:
        world.wrong(f"{name} counts as delivered and is not there")


def _may_die(world: World, put: Put, code: str | None) -> bool:
    """Whether the server's trigger, its limit or its unique key may have killed it; an update, that its row was not
    there, and that another put stood behind it."""
    if put.operation == "update":
        return code is None and world.may_give_way(put)
    return _is_refused(put.row, code) or (world.in_doubt(put) and _is_refused(put.before or {}, code))


def _is_refused(row: Row, code: str | None) -> bool:
    return bool(row.get("poison") or len(str(row)) > 4_000 or (code == "23505" and row.get("fill") is not None))


def _judge_transactions(world: World, stored: dict[int, Any], own: set[int]) -> None:
    groups: dict[int, list[int]] = defaultdict(list)
    for put in world.puts.values():
        if put.group is not None:
            groups[put.group].append(put.n)
    for group, numbers in groups.items():
        there = {n in stored for n in numbers}
        if group > 0:
            there |= {n in own for n in numbers}
        if len(there) > 1:
            world.wrong(f"of the transaction {numbers} only a part is there")


def _judge_keys(world: World, stored: dict[int, Any]) -> None:
    """Each row that upserts or updates have made is as the last of them said; keyed inserts came in their order."""
    puts: dict[tuple[str, str, str], list[Put]] = defaultdict(list)
    for put in world.puts.values():
        if put.key is not None and put.n in stored and stored[put.n][0] == "delivered":
            puts[put.table, put.key, put.operation].append(put)
    for (table, key, operation), found in puts.items():
        if operation == "insert":
            order = [n for n in world.network.server.arrived if n in {put.n for put in found}]
            if order != sorted(order, key=lambda n: stored[n][3]):
                world.wrong(f"{table} {key} came as {order}")
            continue
        column = "u" if operation == "update" else "n"
        last = max(found, key=lambda put: stored[put.n][3])
        rows = [row for row in world.network.server.all(table) if key in (row.get("symbol"), row.get("session_id"))]
        if [row.get(column) for row in rows] != [last.n]:
            world.wrong(f"{table} {key} has {column} {[row.get(column) for row in rows]}, not {last.n}")
