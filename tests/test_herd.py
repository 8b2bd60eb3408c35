"""The simulation of a thousand bots, made small: what jitter is worth, and that the page shows what the script says."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from xml.etree import ElementTree

import pytest
from benchmark import herd
from benchmark.herd import Outcome, World, simulate

SMALL = replace(World(), bots=100, outage_s=3 * 3600, pool=1)


@cache
def small(jitter: bool) -> Outcome:
    return simulate(SMALL, jitter=jitter, seed=1)


@pytest.mark.parametrize("jitter", [True, False], ids=["full jitter", "no jitter"])
def test_every_bot_catches_up(jitter: bool) -> None:
    assert len(small(jitter).finished_s) == 100
    assert max(small(jitter).finished_s) < 1200


def test_jitter_spreads_the_bots_and_without_it_they_storm() -> None:
    with_jitter, without = herd.figures([small(True)]), herd.figures([small(False)])

    assert with_jitter.peak_away * 5 < without.peak_away
    assert with_jitter.refused * 10 <= without.refused
    assert without.refused > 100, "the control: the pool is too small for all of them at once"
    assert with_jitter.median_s * 2 < without.median_s


def test_the_same_dice_give_the_same_figures() -> None:
    assert herd.figures([simulate(SMALL, jitter=True, seed=1)]) == herd.figures([small(True)])


def test_the_page_and_the_plot_are_the_scripts_own() -> None:
    page = herd.PAGE.read_text("utf-8")
    shown = page[page.index(herd.BEGIN) : page.index(herd.END)]
    form = herd.table(World(), herd.figures([small(True)]), herd.figures([small(False)]))

    def frame(text: str) -> str:
        return re.sub(r"[0-9][0-9,.]*", "0", text.replace(herd.BEGIN, "").strip())

    assert frame(shown) == frame(form)
    assert ElementTree.fromstring(herd.PLOT.read_text("utf-8")).findall("{*}polyline")
    assert ElementTree.fromstring(herd.plot(small(True), small(False))).findall("{*}polyline")
