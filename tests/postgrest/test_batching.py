"""What travels together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.postgrest.batching import halves, last_wins, next_limit, take

sizes = st.lists(st.integers(0, 50), max_size=30)


@pytest.mark.parametrize(
    ("entries", "max_rows", "max_bytes", "expected"),
    [
        pytest.param([], 5, 100, [], id="nothing"),
        pytest.param([10, 10, 10], 5, 100, [10, 10, 10], id="all fit"),
        pytest.param([10, 10, 10], 2, 100, [10, 10], id="rows run out"),
        pytest.param([10, 10, 10], 5, 20, [10, 10], id="bytes run out, exactly"),
        pytest.param([10, 11, 10], 5, 20, [10], id="bytes run out"),
        pytest.param([500, 1], 5, 20, [500], id="one that is too large travels alone"),
        pytest.param([1, 500, 1], 5, 20, [1], id="one that is too large does not travel with others"),
    ],
)
def test_a_batch_is_the_longest_prefix_within_both_bounds(
    entries: list[int], max_rows: int, max_bytes: int, expected: list[int]
) -> None:
    assert take(entries, size=lambda entry: entry, max_rows=max_rows, max_bytes=max_bytes) == expected


@given(sizes, st.integers(1, 10), st.integers(1, 100))
def test_repeated_taking_gives_every_entry_once_and_in_order(entries: list[int], max_rows: int, max_bytes: int) -> None:
    rest, seen = entries, []
    while rest:
        batch = take(rest, size=lambda entry: entry, max_rows=max_rows, max_bytes=max_bytes)
        assert 1 <= len(batch) <= max_rows
        assert len(batch) == 1 or sum(batch) <= max_bytes
        seen += batch
        rest = rest[len(batch) :]
    assert seen == entries


@given(st.lists(st.integers(), min_size=2, max_size=30))
def test_halves_lose_nothing_and_shrink(batch: list[int]) -> None:
    first, second = halves(batch)
    assert [*first, *second] == batch
    assert 1 <= len(first) <= len(second) <= len(first) + 1


@pytest.mark.parametrize("batch", [[], [1]])
def test_what_cannot_be_halved_is_refused(batch: list[int]) -> None:
    with pytest.raises(ValueError, match="cannot be halved"):
        halves(batch)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers()), max_size=20))
def test_of_each_target_the_last_wins_and_the_rest_is_superseded(batch: list[tuple[str, int]]) -> None:
    winners, superseded = last_wins(batch, target=lambda entry: entry[0])
    assert dict(winners) == dict(batch)
    assert len(winners) == len(dict(batch))
    assert sorted([*winners, *superseded]) == sorted(batch)
    # Both keep the order of the puts.
    for part in (winners, superseded):
        places = iter(batch)
        assert all(entry in places for entry in part)


def test_a_limit_grows_back_to_the_full_batch_in_ten_good_requests() -> None:
    limit = 1
    for _ in range(10):
        limit = next_limit(limit, sent=limit, succeeded=True, max_rows=500)
    assert limit == 500


@pytest.mark.parametrize(
    ("limit", "sent", "succeeded", "max_rows", "expected"),
    [
        pytest.param(500, 500, False, 500, 250, id="halved"),
        pytest.param(500, 10, False, 500, 5, id="halved from what was sent"),
        pytest.param(3, 500, False, 500, 1, id="a request from before the last halving"),
        pytest.param(1, 1, False, 500, 1, id="never below one"),
        pytest.param(500, 500, True, 500, 500, id="never above the maximum"),
        pytest.param(1, 1, True, 3, 2, id="grows even where a tenth is less than one"),
    ],
)
def test_a_limit_is_halved_by_failure_and_grows_by_success(
    limit: int, sent: int, succeeded: bool, max_rows: int, expected: int
) -> None:
    assert next_limit(limit, sent=sent, succeeded=succeeded, max_rows=max_rows) == expected
