"""The image builder by itself: hand-made operations, and what a crash may leave of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.proof.power.images import SECTOR, Disk, Image, Luck, replay
from tests.proof.power.operations import NEVER, ROOT, Enter, Leave, Move, Operation, Resize, Sync, Write

FILE, FOLDER = 1, 2
A, B, C = (letter * SECTOR for letter in (b"a", b"b", b"c"))


def disk_after(operations: Sequence[Operation]) -> Disk:
    disk = Disk()
    for operation, begins in replay(operations):
        disk.begin(operation) if begins else disk.end(operation)
    return disk


def made(*operations: Operation) -> list[Operation]:
    """A file `f` whose name is durable, and then `operations`."""
    return [Enter(-4, -3, ROOT, "f", FILE), Sync(-2, -1, ROOT), *operations]


def image(operations: Sequence[Operation], luck: Luck) -> Image:
    return disk_after(operations).image(luck, random.Random(0))


def diced(operations: Sequence[Operation], tries: int = 400) -> set[bytes | None]:
    disk = disk_after(operations)
    return {disk.image(Luck.DICE, random.Random(seed)).get("f") for seed in range(tries)}


def test_what_was_synced_is_there_and_what_was_not_may_be() -> None:
    course = made(Write(1, 2, FILE, 0, A), Sync(3, 4, FILE), Write(5, 6, FILE, SECTOR, B))
    assert image(course, Luck.NOTHING) == {"f": A}
    assert image(course, Luck.EVERYTHING) == {"f": A + B}
    assert {A, A + B} <= diced(course)


def test_each_kind_of_luck_splits_names_sizes_and_data() -> None:
    course = made(Write(1, 2, FILE, 0, A), Sync(3, 4, FILE), Write(5, 6, FILE, 0, B + C), Enter(7, 8, ROOT, "g", 3))
    assert image(course, Luck.NAMES_ALONE) == {"f": A, "g": b""}
    assert image(course, Luck.SIZES_ALONE) == {"f": A + bytes(SECTOR), "g": b""}
    assert image(course, Luck.DATA_ALONE) == {"f": B}


def test_a_write_is_torn_between_sectors_and_never_inside_one() -> None:
    course = made(Write(1, 2, FILE, 0, A + A + A), Sync(3, 4, FILE), Write(5, 6, FILE, 0, B + B + B))
    found = diced(course)
    assert {A + B + A, B + A + B} <= found
    assert all(each and set(each[n : n + SECTOR]) in ({97}, {98}) for each in found for n in (0, SECTOR, 2 * SECTOR))


def test_of_two_writes_to_one_sector_the_second_does_not_land_without_the_first() -> None:
    course = made(Write(1, 2, FILE, 0, b"aa"), Sync(3, 4, FILE), Write(5, 6, FILE, 0, b"b"), Write(7, 8, FILE, 1, b"b"))
    assert diced(course) == {b"aa", b"ba", b"bb"}


def test_writes_to_two_sectors_land_in_any_order() -> None:
    course = made(Write(1, 2, FILE, 0, A + A), Sync(3, 4, FILE), Write(5, 6, FILE, 0, B), Write(7, 8, FILE, SECTOR, B))
    assert diced(course) == {A + A, B + A, A + B, B + B}


def test_a_size_may_be_there_without_its_data_which_is_zeros_or_garbage() -> None:
    found = diced(made(Write(1, 2, FILE, 0, A)))
    assert {b"", A, bytes(SECTOR)} <= found
    assert len(found) > 10, "no garbage"


def test_a_file_cut_short_may_have_its_old_length_until_it_is_synced() -> None:
    course = made(Write(1, 2, FILE, 0, A + B), Sync(3, 4, FILE), Resize(5, 6, FILE, SECTOR))
    assert diced(course) == {A + B, A, A + bytes(SECTOR)}
    assert diced([*course, Sync(7, 8, FILE)]) == {A}


@pytest.mark.parametrize("sync_of", [pytest.param(FILE, id="the file"), pytest.param(FOLDER, id="another folder")])
def test_a_name_is_certain_only_once_its_own_folder_was_synced(sync_of: int) -> None:
    course = [
        Enter(1, 2, ROOT, "d", FOLDER, is_folder=True),
        Enter(3, 4, ROOT, "f", FILE),
        Write(5, 6, FILE, 0, A),
        Sync(7, 8, FILE),
        Sync(9, 10, sync_of),
    ]
    assert image(course, Luck.NOTHING) == {}
    assert image([*course, Sync(11, 12, ROOT)], Luck.NOTHING) == {"f": A}


def test_a_file_is_gone_if_a_folder_above_it_was_not_synced() -> None:
    course = [
        Enter(1, 2, ROOT, "d", FOLDER, is_folder=True),
        Enter(3, 4, FOLDER, "f", FILE),
        Sync(5, 6, FOLDER),
    ]
    assert image(course, Luck.NOTHING) == {}
    assert image([*course, Sync(7, 8, ROOT)], Luck.NOTHING) == {"d/f": b""}


def test_a_removed_file_may_come_back_with_its_content() -> None:
    course = made(Write(1, 2, FILE, 0, A), Sync(3, 4, FILE), Leave(5, 6, ROOT, "f"))
    assert image(course, Luck.NOTHING) == {"f": A}
    assert diced(course) == {A, None}
    assert diced([*course, Sync(7, 8, ROOT)]) == {None}


def test_a_rename_is_whole_or_not_at_all() -> None:
    course = made(Enter(1, 2, ROOT, "g", 3), Sync(3, 4, ROOT), Move(5, 6, ROOT, "g", "f"))
    disk = disk_after(course)
    found = {tuple(disk.image(Luck.DICE, random.Random(seed))) for seed in range(50)}
    assert found == {("f", "g"), ("f",)}


def test_a_sync_covers_what_had_ended_before_it_began() -> None:
    late = Write(1, 6, FILE, 0, A)
    assert image(made(late, Sync(2, 3, FILE)), Luck.NOTHING) == {"f": b""}
    assert image(made(late, Sync(7, 8, FILE)), Luck.NOTHING) == {"f": A}


def test_a_sync_that_never_ended_proves_nothing() -> None:
    assert image(made(Write(1, 2, FILE, 0, A), Sync(3, NEVER, FILE)), Luck.NOTHING) == {"f": b""}


def test_random_choices_make_no_image_that_the_page_cache_never_had() -> None:
    """Random courses of writes to four sectors: each sector of each image is one of the states that it went through."""
    for seed in range(60):
        dice = random.Random(seed)
        course: list[Operation] = [Write(1, 2, FILE, 0, bytes(4 * SECTOR)), Sync(3, 4, FILE)]
        states = [{bytes(SECTOR)} for _ in range(4)]
        live = bytearray(4 * SECTOR)
        for step in range(5, 25, 2):
            start = dice.randrange(0, 3 * SECTOR)
            data = dice.randbytes(dice.randrange(1, SECTOR))
            live[start : start + len(data)] = data
            course.append(Write(step, step + 1, FILE, start, data))
            for number, known in enumerate(states):
                known.add(bytes(live[number * SECTOR : (number + 1) * SECTOR]))
        for content in diced(made(*course), tries=20):
            assert content is not None
            assert all(content[n * SECTOR : (n + 1) * SECTOR] in states[n] for n in range(4))
