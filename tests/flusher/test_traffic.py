"""What a lane has under way, as tables; how soon good rows arrive beside bad ones stands in test_halving.py."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from outbox.entry import LaneSpec, Operation, Outgoing
from outbox.flusher.traffic import MOST_LANES, Batch, Part, RefusalRun, Source, Sweep, Traffic, cause_of
from outbox.postgrest.batch import Limit
from outbox.postgrest.verdicts import Refusal
from outbox.store.rows import Lane

FREE = Lane(1, LaneSpec("events", Operation.INSERT, "id", "id,n", False), 1)
ORDERED = Lane(2, LaneSpec("legs", Operation.INSERT, "id", "id,n", True), 1)
NEW, PART, AGAIN, SUSPECT = Source


def outgoing(seq: int, attempts: int = 0) -> Outgoing:
    return Outgoing(seq, "id", None, "{}", None, "digest", attempts)


def batch(source: Source, *seqs: int, probe: bool = False) -> Batch:
    return Batch(source, [outgoing(seq) for seq in seqs], 1, probe)


def traffic(lane: Lane = FREE, *started: Batch) -> Traffic:
    found = Traffic(lane, Limit(1, 1))
    for each in started:
        found.start(each)
    return found


def refused(found: Traffic, *parts: Sequence[int], attempts: int = 0) -> None:
    found.split([[outgoing(seq, attempts) for seq in part] for part in parts])


def test_a_lane_begins_with_nothing() -> None:
    found = traffic()
    assert (found.last_seq, found.after(), found.refusals, found.served, found.lanes) == (0, 0, 0, 0, MOST_LANES)
    assert (found.rewind, found.mixed, found.passed, found.is_clean) == (False, False, False, True)
    assert (found.taken, found.sources()) == (set(), [NEW, PART, AGAIN, SUSPECT])
    shared = Batch(NEW, [outgoing(1)], 1, others=[(ORDERED, batch(NEW, 2, 3))])
    assert (shared.seqs, [entry.seq for entry in shared.all_entries], shared.probe) == ([1], [1, 2, 3], False)


def test_what_is_new_continues_behind_what_is_under_way() -> None:
    first, second = batch(NEW, 1, 2, 3), batch(NEW, 4, 5)
    found = traffic(FREE, first, second)
    assert (found.taken, found.after(), found.is_clean) == ({1, 2, 3, 4, 5}, 5, False)
    found.end(first)
    assert found.after() == 5
    found.end(second)
    assert (found.taken, found.after(), found.is_clean) == (set(), 0, True)  # whatever is ready, from the oldest on


def test_what_is_new_begins_at_the_oldest_again_once_something_older_is_ready() -> None:
    found = traffic(FREE, batch(NEW, 4, 5))
    found.rewind = True
    assert found.after() == 0
    found.start(batch(NEW, 1))
    assert (found.rewind, found.after()) == (False, 1)


def test_behind_a_probe_which_may_be_the_youngest_row_it_begins_at_the_oldest() -> None:
    assert traffic(FREE, batch(NEW, 9, probe=True)).after() == 0


def test_rows_from_elsewhere_do_not_move_what_is_new() -> None:
    assert traffic(FREE, batch(NEW, 1, 2), batch(AGAIN, 9)).after() == 2
    assert traffic(FREE, batch(AGAIN, 9)).after() == 0


@pytest.mark.parametrize(
    ("lane", "started", "sources"),
    [
        pytest.param(FREE, [], [NEW, PART, AGAIN, SUSPECT], id="all of them by turns"),
        pytest.param(FREE, [NEW], [PART, AGAIN, SUSPECT, NEW], id="who had its turn comes last"),
        pytest.param(FREE, [PART, NEW], [AGAIN, SUSPECT, PART, NEW], id="several requests of what is new, or of parts"),
        pytest.param(FREE, [AGAIN], [NEW, PART, SUSPECT], id="one at a time of what was refused before"),
        pytest.param(FREE, [SUSPECT, AGAIN], [NEW, PART], id="and of suspects"),
        pytest.param(ORDERED, [], [PART, NEW], id="in order: parts first, and nothing by turns"),
    ],
)
def test_where_the_next_rows_come_from(lane: Lane, started: list[Source], sources: list[Source]) -> None:
    found = traffic(lane, *(batch(source, seq) for seq, source in enumerate(started, start=1)))
    assert found.sources() == sources
    assert [source for source in Source if found.busy(source)] == sorted(started, key=list(Source).index)


def test_parts_are_taken_until_they_are_settled() -> None:
    found = traffic()
    refused(found, [1, 2], [3, 4], [])
    assert (found.taken, found.is_clean, [part.seqs for part in found.parts]) == ({1, 2, 3, 4}, False, [[1, 2], [3, 4]])
    some, rest = batch(PART, 3), batch(PART, 4)
    found.take_part(some)
    found.start(some)
    assert (found.taken, [part.seqs for part in found.parts]) == ({1, 2, 3, 4}, [[1, 2], [4]])
    found.take_part(rest)
    refused(found, [], [])  # all of what was to be sent again was settled by hand
    assert [part.seqs for part in found.parts] == [[1, 2]]
    assert {first: part.seqs for first, part in found.sent_parts.items()} == {3: [3], 4: [4]}
    found.end(some)
    assert list(found.sent_parts) == [4]


def test_suspects_and_a_run_of_refusals_are_no_clean_lane() -> None:
    one, other = traffic(), traffic()
    one.suspects[1] = False
    other.refused("cause", 1)
    assert (one.is_clean, other.is_clean) == (False, False)


def test_a_run_is_full_by_its_own_count_or_by_that_of_all_lanes_alike() -> None:
    one, other = traffic(), traffic()
    other.run_of_all = one.run_of_all
    for seq in range(5):
        one.refused("cause", seq)
        other.refused("cause", 100 + seq)
    assert (one.is_run_full("cause"), one.is_run_full("another")) == (True, False)
    assert len(one.run.seqs) == 5
    other.end_run()
    assert (one.is_run_full("cause"), other.is_clean) == (False, True)
    for seq in range(5):
        one.run.add("cause", 10 + seq)
    assert one.is_run_full("cause")


# ------------------------------------------------------------------------------------------ hope


def hopes(found: Traffic) -> dict[tuple[int, ...], tuple[int, int]]:
    return {tuple(part.seqs): (part.before, part.behind) for part in found.parts}


def test_beside_accepted_rows_there_is_hope_which_the_half_there_keeps() -> None:
    found = traffic()
    refused(found, [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13])
    found.accepted([5, 6, 7, 8])
    assert found.mixed
    assert hopes(found) == {(1, 2, 3, 4): (0, 3), (5, 6, 7, 8): (0, 0), (9, 10, 11, 12): (3, 0), (13,): (0, 0)}
    for sent in (batch(PART, 1, 2, 3, 4), batch(PART, 9, 10, 11, 12)):
        found.take_part(sent)
        found.start(sent)
    refused(found, [9], [10, 11, 12])
    assert hopes(found) == {(9,): (3, 2), (10, 11, 12): (2, 0), (5, 6, 7, 8): (0, 0), (13,): (0, 0)}
    refused(found, [1, 2, 3, 4], [])
    assert hopes(found)[1, 2, 3, 4] == (0, 3)


def test_one_accepted_row_gives_hope_to_its_neighbours_alone() -> None:
    found = traffic()
    refused(found, [1], [2], [4], [5])
    found.accepted([3])
    assert hopes(found) == {(1,): (0, 0), (2,): (0, 3), (4,): (3, 0), (5,): (0, 0)}


def test_parts_under_way_have_hope_too() -> None:
    found = traffic()
    refused(found, [1, 2], [3, 4])
    sent = batch(PART, 1, 2)
    found.take_part(sent)
    found.accepted([3, 4])
    assert (found.sent_parts[1].before, found.sent_parts[1].behind) == (0, 3)


def test_where_nothing_was_refused_nothing_is_mixed() -> None:
    found = traffic()
    found.sweep.postponed(1, last_seq=2)
    found.accepted([5])
    assert (found.mixed, found.sweep.after) == (False, 0)


def test_a_refused_batch_restarts_the_count_only_if_no_part_is_left() -> None:
    found = traffic()
    found.refusals, found.mixed = 5, True
    refused(found, [1], [2])
    assert (found.refusals, found.mixed) == (0, False)
    found.refusals, found.mixed = 5, True
    refused(found, [3], [4])
    assert (found.refusals, found.mixed) == (5, True)
    for each in (batch(PART, 1), batch(PART, 2), batch(PART, 3), batch(PART, 4)):
        found.take_part(each)
    refused(found, [5], [6])  # all are under way
    assert (found.refusals, found.mixed) == (5, True)


@pytest.mark.parametrize(
    ("lane", "refusals", "order"),
    [
        pytest.param(FREE, 7, [[3], [4], [1, 2]], id="few were refused: the last batch first"),
        pytest.param(FREE, 8, [[1, 2], [3], [4]], id="many were: the largest part first"),
        pytest.param(ORDERED, 8, [[3], [4], [1, 2]], id="a line keeps its order"),
    ],
)
def test_once_many_rows_were_refused_the_most_promising_part_comes_first(
    lane: Lane, refusals: int, order: list[list[int]]
) -> None:
    found = traffic(lane)
    refused(found, [1, 2])
    found.refusals = refusals
    refused(found, [3], [4])
    assert [part.seqs for part in found.parts] == order


@pytest.mark.parametrize(("attempts", "order"), [(0, [[2, 3, 4], [1]]), (1, [[1], [2, 3, 4]])])
def test_rows_that_were_all_refused_before_come_last(attempts: int, order: list[list[int]]) -> None:
    found = traffic()
    refused(found, [1])
    found.refusals = 8
    refused(found, [2, 3, 4], attempts=attempts)
    assert [part.seqs for part in found.parts] == order


def test_parts_with_hope_come_first_then_the_largest_and_last_those_that_were_all_refused_before() -> None:
    parts = [
        Part([1], before=2),
        Part([2], behind=2),
        Part([3, 4, 5], before=1),
        Part([6, 7, 8]),
        Part([9]),
        Part([10, 11], before=3, spent=True),
    ]
    assert sorted([*parts[3:], *parts[:3]], key=lambda part: part.rank) == parts
    assert [part.inner() for part in parts] == [1, 1, 0, 0, 0, 2]


def test_a_sweep_continues_behind_what_waits_and_ends_with_the_youngest_that_was_there() -> None:
    sweep = Sweep()
    found = {seq: [outgoing(seq)] for seq in (1, 9, 10)}
    assert (sweep.after, sweep.is_over(found[1]), sweep.is_over([])) == (0, False, False)
    sweep.postponed(1, last_seq=9)
    assert (sweep.after, sweep.is_over(found[9]), sweep.is_over(found[10]), sweep.is_over([])) == (1, False, True, True)
    sweep.postponed(5, last_seq=20)  # what was put meanwhile waits for the next one
    sweep.postponed(3, last_seq=20)
    assert (sweep.after, sweep.is_over(found[9]), sweep.is_over(found[10])) == (5, False, True)
    sweep.restart()
    assert (sweep.after, sweep.is_over([])) == (0, False)


# ------------------------------------------------------------------------------------------ runs of refusals


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param(("22P02", 'type bigint: "a"'), ("22P02", 'type bigint: "b"'), True, id="two bad values"),
        pytest.param(("22P02", 'type bigint: "a"'), ("22P02", 'type uuid: "a"'), False, id="of two types"),
        pytest.param(("23502", 'column "a"'), ("23502", 'column "b"'), False, id="two columns"),
        pytest.param(("23502", 'column "a"'), ("23514", 'column "a"'), False, id="two rules"),
        pytest.param(("P0001", "row 1"), ("P0001", "row 2"), True, id="a trigger's own words"),
        pytest.param(("23514", "x" * 600), ("23514", "x" * 601), True, id="very long ones"),
    ],
)
def test_what_is_one_cause(one: tuple[str, str], other: tuple[str, str], same: bool) -> None:
    causes = {cause_of(Refusal(400, code, message)) for code, message in (one, other)}
    assert (len(causes) == 1) is same


def test_what_tells_one_cause_from_another() -> None:
    assert cause_of(Refusal(400, "22P02", 'type "a"')) == "400 22P02 type …"
    assert cause_of(Refusal(413, None, "too large")) == "413 None too large"
    assert len(cause_of(Refusal(400, "23514", "x" * 600))) == 500


def test_a_run_is_full_after_ten_rows_of_one_cause() -> None:
    run = RefusalRun()
    for seq in range(10):
        assert not run.is_full("one")
        run.add("one", seq)
    assert (run.is_full("one"), run.is_full("another")) == (True, False)
    run.add("another", 10)
    assert (run.cause, run.seqs) == ("another", [10])
    run.clear()
    assert (run.cause, run.seqs) == (None, [])
