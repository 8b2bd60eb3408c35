"""The backlog over time, from counted groups to a drawing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from outbox.web.backlog import backlog, drawing, every, ticks
from outbox.web.queries import GROUPS
from tests.store.test_work import steps
from tests.store.tools import schema

HOUR_MS = 3_600_000


def test_what_waits_is_what_was_put_and_not_yet_settled() -> None:
    groups = [(0, 0, 5), (0, 2, 3), (1, None, 2), (3, 3, 1)]

    assert backlog(groups, steps=5) == [3, 5, 2, 2, 2]


def test_what_was_put_before_the_first_step_counts_from_the_start() -> None:
    assert backlog([(-1, -1, 100), (-1, None, 4), (-1, 1, 3)], steps=3) == [7, 4, 4]


def test_an_entry_settled_before_it_was_put_is_not_counted_below_zero() -> None:
    assert backlog([(2, 0, 7)], steps=4) == [0, 0, 0, 0]  # a clock was set back


@pytest.mark.parametrize(
    ("top", "last", "step"),
    [(0, 4, 1), (4, 4, 1), (5, 8, 2), (9, 20, 5), (148, 200, 50), (1_000_000, 2_000_000, 500_000)],
)
def test_the_scale_is_round_and_reaches_the_top(top: int, last: int, step: int) -> None:
    assert ticks(top)[-1] == last >= top
    assert ticks(top)[1] == step


def test_the_drawing_is_well_formed_and_says_its_figures() -> None:
    svg = ElementTree.fromstring(drawing([0, 1500, 300], 0, 3 * HOUR_MS))

    texts = [element.text for element in svg.iter("text")]
    assert svg.findtext("title") == "Backlog over time: at most 1,500, now 300"
    assert "2,000" in texts
    assert "03:00" in texts


@pytest.mark.parametrize("counts", [[], [0]])
def test_an_empty_outbox_has_a_drawing_too(counts: list[int]) -> None:
    ElementTree.fromstring(drawing(counts, 0, 1000))


# ------------------------------------------------------------------------------------------ from how many entries

MANY = (
    "with recursive series (n) as (select 1 union all select n + 1 from series where n < ?)"
    " insert into outbox (destination, payload, lane, state, created_at_ms, settled_at_ms)"
    " select iif(n % 2, 'trades', 'events'), '{}', 1, iif(n % 2 and n > 5000, 'pending', 'delivered'), n * 1000,"
    " iif(n % 2 and n > 5000, null, n * 1000 + 200) from series"
)


@pytest.fixture
def large() -> Iterator[sqlite3.Connection]:
    """20,000 entries a second apart; every second one of those behind the first 5,000 waits."""
    with schema() as db:
        db.execute("insert into outbox_lanes (destination, operation, columns, ordered) values ('x', 'insert', 'n', 0)")
        db.execute(MANY, (20_000,))
        yield db


def asked(db: sqlite3.Connection, each: int) -> list[int]:
    values = {"steps": 10, "start": 0, "width": 2_000_000, "low": 1, "high": 20_000, "every": each}
    return backlog(db.execute(GROUPS.sql, values).fetchall(), steps=10)


def test_one_of_every_few_entries_draws_what_all_of_them_do(large: sqlite3.Connection) -> None:
    exact = asked(large, 1)
    assert exact[-1] == 7500
    for each in (7, 20, 100):
        assert asked(large, each) == pytest.approx(exact, rel=0.15, abs=each * 5)


def test_a_drawing_reads_no_more_entries_than_its_limit(
    large: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = steps(large, lambda db: asked(db, every(1, 20_000)))
    monkeypatch.setattr("outbox.web.backlog.LOOKED_AT", 500)
    assert every(1, 20_000) == 40
    assert 25 * steps(large, lambda db: asked(db, every(1, 20_000))) < few  # the control: as many as there are
    assert every(1, 500) == every(500, 500) == 1
