"""What travels together."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from outbox.postgrest.batch import Limit, fitting, halves, last_wins, next_limit

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
    assert entries[: fitting(entries, max_rows=max_rows, max_bytes=max_bytes)] == expected


@given(sizes, st.integers(1, 10), st.integers(1, 100))
def test_repeated_taking_gives_every_entry_once_and_in_order(entries: list[int], max_rows: int, max_bytes: int) -> None:
    rest, seen = entries, []
    while rest:
        batch = rest[: fitting(rest, max_rows=max_rows, max_bytes=max_bytes)]
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


def grown(limit: Limit, steps: int, *, took_s: float = 0.0) -> Limit:
    for _ in range(steps):
        limit = next_limit(limit, sent=limit.bytes, took_s=took_s, deadline_s=30, most=1_000_000)
    return limit


def test_a_limit_doubles_up_to_half_of_what_failed_and_from_there_grows_by_an_eighth() -> None:
    assert grown(Limit(4_096, 1_000_000), 8).bytes == 1_000_000
    failed = next_limit(Limit(1_000_000, 1_000_000), sent=800_000, took_s=None, deadline_s=30, most=1_000_000)
    assert failed == Limit(400_000, 400_000)
    assert [grown(failed, steps).bytes for steps in (1, 5, 6)] == [450_000, 720_812, 810_913]
    assert grown(Limit(4_096, 8_192), 2).bytes == 9_216


@pytest.mark.parametrize(
    ("limit", "sent", "took_s", "expected"),
    [
        pytest.param(500, 500, None, 250, id="halved"),
        pytest.param(500, 40, None, 20, id="halved from what was sent"),
        pytest.param(500, 20, None, 10, id="down to the least"),
        pytest.param(500, 19, None, 500, id="so small a failure says nothing about size"),
        pytest.param(500, 500, 1.0, 1000, id="quick: doubled"),
        pytest.param(500, 500, 3.75, 1000, id="within an eighth of the deadline"),
        pytest.param(500, 500, 3.76, 562, id="slower: an eighth more"),
        pytest.param(500, 500, 10.0, 562, id="within a third of the deadline"),
        pytest.param(500, 500, 10.1, 500, id="slow: no more"),
        pytest.param(500, 250, 1.0, 1000, id="half of it in use"),
        pytest.param(500, 249, 1.0, 500, id="not tried out"),
        pytest.param(4000, 4000, 1.0, 5000, id="never above the maximum"),
        pytest.param(5000, 5000, 1.0, 5000, id="at the maximum"),
    ],
)
def test_a_limit_is_halved_by_failure_and_grows_by_success(
    limit: int, sent: int, took_s: float | None, expected: int
) -> None:
    found = next_limit(Limit(limit, 5000), sent=sent, took_s=took_s, deadline_s=30, most=5000, least=10)
    assert found.bytes == expected


def test_a_limit_grows_even_where_an_eighth_is_less_than_one() -> None:
    assert next_limit(Limit(1, 1), sent=1, took_s=0, deadline_s=30, most=5) == Limit(2, 1)


def test_a_limit_is_halved_down_to_one_where_no_least_is_told() -> None:
    failed = next_limit(Limit(3, 5), sent=3, took_s=None, deadline_s=30, most=5)
    assert failed == Limit(1, 1)
    assert next_limit(failed, sent=1, took_s=None, deadline_s=30, most=5) == failed
