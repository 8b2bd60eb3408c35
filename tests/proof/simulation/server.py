"""The remote end: tables with unique keys, foreign keys, triggers and limits, by the rules of PostgREST."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Reply
from outbox.testing import refused

Row = dict[str, Any]

# A request with more bytes than this gets 413, and so does a row alone.
LONGEST_BODY = 4_000
# A read gives no more rows than this (PostgREST's max-rows), so that who wants more asks again.
MAX_ROWS = 3
PARENTS = {"legs": ("trade", "trades")}  # foreign keys: column, table
UNIQUE = {"trades": "fill"}  # beside the key
VERSIONED = ("sessions",)  # tables with the trigger that keeps newer rows


@dataclass
class Server:
    """rows: by table and the text of the deciding values. seen: the `n` of every row that was ever stored.

    missed: the `u` of every update that has matched nothing. minted: rows that came without an id, which a table's
    default then makes. keep_newer: False is a control.
    """

    rows: dict[str, dict[str, Row]] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    missed: set[int] = field(default_factory=set)
    arrived: list[int] = field(default_factory=list)  # those of inserts, in their order
    minted: int = 0
    keep_newer: bool = True
    slow: dict[int, int] = field(default_factory=dict)  # how often a row has run into the statement timeout

    def apply(self, request: Request) -> Reply:
        """Carry `request` out, all of it or nothing."""
        table, _, query = request.path.partition("?")
        arguments = dict(parse_qsl(query, keep_blank_values=True))
        if request.method == "GET":
            return self._read(table, arguments)
        if request.path.startswith("rpc/"):
            return refused(404, "PGRST202", "Could not find the function")
        if len(request.body) > LONGEST_BODY:
            return Reply(413, {"content-type": "text/html"}, b"<h1>413 Request Entity Too Large</h1>")
        body = json.loads(request.body)
        sent: list[Row] = body if isinstance(body, list) else [body]
        for row in sent:
            if (no := self._rule(row)) is not None:
                return no
        if request.method == "PATCH":
            return self._update(table, arguments, sent[0])
        prefer = dict(request.headers)["prefer"]
        write = self._merge if "merge-duplicates" in prefer else self._insert
        return write(table, arguments["on_conflict"].split(","), sent, prefer)

    def all(self, table: str) -> list[Row]:
        """Return the rows of `table`."""
        return list(self.rows.get(table, {}).values())

    def _rule(self, row: Row) -> Reply | None:
        """What the table's triggers say of one row."""
        if row.get("poison"):
            return refused(400, "P0001", "the trigger refuses it")
        n, times = row.get("n", 0), row.get("slow", 0)
        if times and (times < 0 or self.slow.get(n, 0) < times):
            self.slow[n] = self.slow.get(n, 0) + 1
            return refused(500, "57014", "canceling statement due to statement timeout")
        return None

    def _insert(self, table: str, columns: list[str], sent: list[Row], prefer: str) -> Reply:
        known = self.rows.setdefault(table, {})
        fresh: dict[str, Row] = {}
        for row in sent:
            key = row.get(columns[0])
            if key is None:
                self.minted += 1
                key = f"minted {self.minted}"
            if str(key) in known or str(key) in fresh:
                continue  # resolution=ignore-duplicates
            if (no := self._violated(table, row, fresh)) is not None:
                return no
            fresh[str(key)] = row
        known.update(fresh)
        numbers = [row["n"] for row in fresh.values() if "n" in row]
        self.arrived += numbers
        self.seen.update(numbers)
        return _accepted(prefer, stored=len(fresh))

    def _violated(self, table: str, row: Row, fresh: dict[str, Row]) -> Reply | None:
        column = UNIQUE.get(table)
        value = None if column is None else row.get(column)
        others = (*self.all(table), *fresh.values())
        if value is not None and any(other.get(str(column)) == value for other in others):
            details = f"Key ({column})=({value}) already exists."
            return refused(409, "23505", "duplicate key value violates unique constraint", details=details)
        if table in PARENTS:
            column, parent = PARENTS[table]
            if row.get(column) is not None and str(row[column]) not in self.rows.get(parent, {}):
                return refused(409, "23503", "violates foreign key constraint")
        return None

    def _merge(self, table: str, columns: list[str], sent: list[Row], prefer: str) -> Reply:
        keys = [json.dumps([row[column] for column in columns]) for row in sent]
        if len(set(keys)) < len(keys):
            return refused(500, "21000", "ON CONFLICT DO UPDATE command cannot affect row a second time")
        known = self.rows.setdefault(table, {})
        for key, row in zip(keys, sent, strict=True):
            known[key] = self._changed(table, known.get(key, {}), row)
            self.seen.update({row["n"]} if "n" in row else ())
        return _accepted(prefer)

    def _update(self, table: str, arguments: dict[str, str], changes: Row) -> Reply:
        known = self.rows.get(table, {})
        found = [key for key, row in known.items() if _passes(row, arguments)]
        for key in found:
            known[key] = self._changed(table, known[key], changes)
        (self.seen if found else self.missed).add(changes["u"])
        return Reply(
            204, {"content-range": f"*/{len(found)}" if not found else f"0-{len(found) - 1}/{len(found)}"}, b""
        )

    def _read(self, table: str, arguments: dict[str, str]) -> Reply:
        """Give the columns that are asked for, of the first rows that pass the filters."""
        columns = arguments.pop("select").split(",")
        rows = [row for row in self.all(table) if _passes(row, arguments)][:MAX_ROWS]
        body = json.dumps([{column: row.get(column) for column in columns} for row in rows])
        return Reply(200, {"content-type": "application/json"}, body.encode())

    def _changed(self, table: str, old: Row, new: Row) -> Row:
        late = "version" in new and new["version"] < old.get("version", 0)
        return old if table in VERSIONED and self.keep_newer and late else old | new


def _passes(row: Row, arguments: dict[str, str]) -> bool:
    """Whether `row` passes the filters among `arguments`. Raises ValueError: a filter that the server does not know."""
    for column, text in arguments.items():
        operator, _, value = text.partition(".")
        held = str(row.get(column))
        if column in ("columns", "on_conflict"):
            continue
        if operator == "eq" and held != value:
            return False
        if operator == "in" and held not in json.loads(f"[{value[1:-1]}]"):  # quoted and escaped as in JSON
            return False
        if operator not in ("eq", "in"):
            raise ValueError(f"{column}={text}")
    return True


def _accepted(prefer: str, *, stored: int | None = None) -> Reply:
    headers = {"preference-applied": prefer.replace(",", ", ")}
    if stored is not None and "count=exact" in prefer:
        headers["content-range"] = f"*/{stored}"
    return Reply(201, headers, b"")
