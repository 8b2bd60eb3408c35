"""The backlog over time, from counted groups to a drawing."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from outbox.web.backlog import backlog, drawing, ticks

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
