"""When an orphan is given up: three conditions, and each of them alone holds it back."""

from __future__ import annotations

import pytest

from outbox.flusher.backoff import FirstRefusals, gives_up, lets_pass

DAY_MS = 86_400_000
ENOUGH = {"refusals": 10, "since_ms": 0, "now_ms": DAY_MS, "earlier_pending": False}


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        pytest.param({}, True, id="refused often, long, and nobody is left"),
        pytest.param({"refusals": 9}, False, id="not often enough"),
        pytest.param({"now_ms": DAY_MS - 1}, False, id="not long enough"),
        pytest.param({"since_ms": None}, False, id="refused for the first time"),
        pytest.param({"earlier_pending": True}, False, id="its parent may still come"),
        pytest.param({"now_ms": -DAY_MS}, False, id="the clock was set back"),
        pytest.param({"since_ms": 5, "now_ms": DAY_MS}, False, id="not long enough since its first refusal"),
    ],
)
def test_an_orphan_is_given_up(change: dict[str, int | bool | None], gone: bool) -> None:
    assert gives_up(**{**ENOUGH, **change}, limit=10, after_s=86_400.0) is gone  # type: ignore[arg-type]


def test_who_is_refused_for_the_first_time_has_not_waited_at_all() -> None:
    assert not gives_up(10, since_ms=None, now_ms=DAY_MS, earlier_pending=False, limit=10, after_s=0.5)


@pytest.mark.parametrize(
    ("behind", "bringer", "waited_s", "passes"),
    [
        pytest.param(False, False, 1e9, False, id="nothing stands behind it"),
        pytest.param(True, False, 59.9, False, id="not long enough"),
        pytest.param(True, False, 60.0, True, id="a minute"),
        pytest.param(True, True, 0.0, True, id="what makes its row stands behind it"),
    ],
)
def test_an_update_that_matches_nothing_gives_way(behind: bool, bringer: bool, waited_s: float, passes: bool) -> None:
    assert lets_pass(behind=behind, bringer=bringer, waited_s=waited_s) is passes


def test_of_more_entries_than_are_remembered_the_oldest_waits_longer() -> None:
    refusals = FirstRefusals()
    for seq in range(10_001):
        refusals.since_ms(seq, None, wall_ms=0, steady_ms=0, after_s=86_400.0)

    def since_ms(seq: int) -> int | None:
        return refusals.since_ms(seq, 0, wall_ms=0, steady_ms=500, after_s=86_400.0)

    assert (since_ms(1), since_ms(10_000)) == (0, 0)
    assert since_ms(0) == 500  # begins anew, and takes the place of the next one


@pytest.mark.parametrize(
    ("stored_ms", "wall_ms", "wanted_ms"),
    [
        pytest.param(None, 0, None, id="now"),
        pytest.param(0, 20_000, 80_000, id="twenty seconds by both clocks"),
        pytest.param(0, 50 * 365 * DAY_MS, 100_000 - DAY_MS // 2, id="1970 to now: half of what it takes"),
        pytest.param(DAY_MS, 0, 100_000, id="a clock that was set back"),
    ],
)
def test_what_an_earlier_process_has_waited_counts_up_to_half(
    stored_ms: int | None, wall_ms: int, wanted_ms: int | None
) -> None:
    refusals = FirstRefusals()
    facts = {"wall_ms": wall_ms, "steady_ms": 100_000, "after_s": 86_400.0}
    assert refusals.since_ms(7, stored_ms, **facts) == wanted_ms  # type: ignore[arg-type]


def test_a_clock_that_jumps_while_an_entry_waits_brings_its_end_no_nearer() -> None:
    refusals = FirstRefusals()
    assert refusals.since_ms(7, None, wall_ms=0, steady_ms=0, after_s=86_400.0) is None
    jumped = refusals.since_ms(7, 0, wall_ms=50 * 365 * DAY_MS, steady_ms=800, after_s=86_400.0)
    assert jumped == 0
    assert not gives_up(99, since_ms=jumped, now_ms=800, earlier_pending=False, limit=10, after_s=86_400.0)
    # Control: by the wall clock it would be given up.
    assert gives_up(99, since_ms=0, now_ms=50 * 365 * DAY_MS, earlier_pending=False, limit=10, after_s=86_400.0)
