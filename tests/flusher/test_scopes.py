"""How far a pause reaches, as tables; what the flusher makes of it stands in test_narrow_pauses.py."""

from __future__ import annotations

import pytest

from outbox.entry import LaneSpec, Operation
from outbox.flusher.scopes import EVERYTHING, Paused, held_words, key_of, keys_of, sentence, wider_than
from outbox.postgrest.verdicts import Reason, Scope
from outbox.store.rows import Lane, StoredPause

INSERTS = Lane(1, LaneSpec("events", Operation.INSERT, "id", "id,n", False), 1)
OTHER_COLUMNS = Lane(2, LaneSpec("events", Operation.INSERT, "id", "id,m", False), 1)
UPSERTS = Lane(3, LaneSpec("events", Operation.UPSERT, "k", "k,n", True), 1)
TRADES = Lane(4, LaneSpec("trades", Operation.INSERT, "id", "id,n", False), 1)


def paused(reason: Reason, *met: Lane) -> Paused:
    stored = StoredPause.of((Scope.DESTINATION, "events", reason, 503, "57014", "later", 1, 1, 2))
    return Paused(stored, turn=1, due_s=0.0, met={lane.number: lane for lane in met})


def test_a_lane_stands_under_what_holds_everything_its_table_or_itself() -> None:
    keys = [EVERYTHING, (Scope.DESTINATION, "events"), (Scope.LANE, "3")]
    assert keys_of(UPSERTS) == keys
    assert [key_of(UPSERTS, scope) for scope in Scope] == keys


@pytest.mark.parametrize(
    ("scope", "wider"),
    [
        pytest.param(Scope.EVERYTHING, set()),
        pytest.param(Scope.DESTINATION, {Scope.EVERYTHING}),
        pytest.param(Scope.LANE, {Scope.EVERYTHING, Scope.DESTINATION}),
    ],
)
def test_what_reaches_further(scope: Scope, wider: set[Scope]) -> None:
    assert wider_than(scope) == wider


def test_a_pause_is_shown_in_the_servers_own_words() -> None:
    pause = paused(Reason.RATE_LIMITED)
    assert held_words(UPSERTS, Scope.DESTINATION) == "events"
    assert held_words(UPSERTS, Scope.LANE) == "events: upsert on (k) of k, n"
    assert sentence("events", pause.stored) == "events is paused (rate limited): 503 57014 later"


@pytest.mark.parametrize(
    ("pause", "held"),
    [
        pytest.param(paused(Reason.TIMEOUT, INSERTS), {1, 2, 3}, id="an outage holds all that its key reaches"),
        pytest.param(paused(Reason.REFUSED), {1, 2, 3}, id="nobody knows whose refusals they were"),
        pytest.param(paused(Reason.REFUSED, INSERTS), {1, 2}, id="refused inserts hold inserts of any columns"),
        pytest.param(paused(Reason.REFUSED, TRADES, UPSERTS), {3}, id="refused upserts hold upserts"),
    ],
)
def test_what_a_pause_over_a_table_holds(pause: Paused, held: set[int]) -> None:
    assert {lane.number for lane in (INSERTS, OTHER_COLUMNS, UPSERTS) if pause.holds(lane)} == held


def test_a_new_pause_has_been_met_by_nobody_else_and_was_not_probed() -> None:
    pause = paused(Reason.TIMEOUT, INSERTS)
    assert (pause.was_met_by("events"), pause.was_met_by("trades")) == (True, False)
    assert (pause.tried, pause.probing, pause.reread) == (0, False, False)
