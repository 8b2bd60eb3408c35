"""Damages drawn at random: each entry whose bytes are there is found, once; queries alone miss most of them."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from outbox.recovery import pages
from tests.proof.salvage_figures import DAMAGES, PAGE, Base, Figures, make_base, measure
from tests.store.tools import rows, schema


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return asyncio.run(make_base(tmp_path_factory.mktemp("base")))


@pytest.mark.parametrize("kind", DAMAGES)
def test_each_entry_whose_bytes_are_there_is_found_once(kind: str, base: Base, tmp_path: Path) -> None:
    figures = Figures()
    for seed in range(2):
        assert measure(base, kind, random.Random(seed), figures, tmp_path) == set()

    assert (figures.ours, figures.twice) == (figures.there, 0)
    assert figures.there > 100, "the damage has left too little to tell"


def test_control_queries_alone_find_nothing_without_the_roots_page(base: Base, tmp_path: Path) -> None:
    figures = Figures()
    measure(base, "the table's root page", random.Random(0), figures, tmp_path)

    assert figures.queried == 0 < figures.there


def test_the_layout_is_that_of_the_table(tmp_path: Path) -> None:
    with schema(tmp_path / "new.db"):
        pass
    assert tuple(row[1] for row in rows(tmp_path / "new.db", "pragma table_info(outbox)")) == pages.LAYOUT


@pytest.mark.parametrize("size", [512, 1024, 4096, 8192, 65536])
def test_the_size_of_a_page_is_known_without_the_header(size: int, tmp_path: Path) -> None:
    path = tmp_path / "sized.db"
    with schema(path) as connection:
        connection.execute(f"pragma page_size = {size}")
        connection.execute("vacuum")
        connection.executemany(
            "insert into outbox (destination, payload) values ('trades', ?)",
            [(f'{{"n": {n}, "said": "{"x" * 200}"}}',) for n in range(300)],
        )
    content = path.read_bytes()

    assert pages.page_bytes(content, b"") == size
    assert pages.page_bytes(b"\xff" * 100 + content[100:], b"") == size


def test_a_page_with_a_lost_pointer_or_another_type_is_not_taken_for_a_sound_one(base: Base) -> None:
    starts = range(PAGE, len(base.main), PAGE)
    leaf = next(page for at in starts if len(pages.cells(page := base.main[at : at + PAGE])[0]) > 2)
    whole, sound = pages.cells(leaf)
    assert sound, "the control"

    one_less = leaf[:4] + bytes([len(whole) - 1]) + leaf[5:]
    interior = b"\x05" + leaf[1:]
    for damaged in (one_less, interior):
        found, sound = pages.cells(damaged)
        assert ({cell.seq for cell in found}, sound) == ({cell.seq for cell in whole}, False)


def test_random_bytes_are_not_taken_for_an_entry() -> None:
    dice = random.Random(1)
    for _ in range(300):
        noise = dice.randbytes(4096)
        at = dice.randrange(4000)
        found, _sound = pages.cells(noise[:at] + b"insertpending" + noise[at + 13 :])
        assert all(pages.row_of(cell, noise, lambda _: b"") is None for cell in found)
