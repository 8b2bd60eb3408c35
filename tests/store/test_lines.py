"""Order per key: of each line only the first pending entry may be sent, whatever happens to the others."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings, strategies as st

from outbox.entry import MOVES, State
from outbox.store import queries
from tests.store.tools import schema

MOVING = [(before, after) for before, targets in MOVES.items() for after in targets]
KEYS = st.sampled_from(["a", "b", None])
DESTINATIONS = st.sampled_from(["trades", "sessions"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), DESTINATIONS, KEYS),
        st.tuples(st.just("move"), st.sampled_from(MOVING), st.integers(0, 40)),
        st.tuples(st.just("settle"), st.lists(st.integers(0, 40), max_size=4), st.sampled_from(["delivered", "dead"])),
        st.tuples(st.just("delete"), st.integers(0, 40), st.none()),
        st.tuples(st.just("adopt"), st.integers(0, 40), st.sampled_from(["a", "b"])),
        st.tuples(st.just("rekey"), st.integers(0, 40), st.tuples(DESTINATIONS, KEYS)),
        st.tuples(st.just("postpone"), DESTINATIONS, KEYS),
        st.tuples(st.just("due"), st.none(), st.none()),
    ),
    max_size=40,
)


@dataclass
class Model:
    """Entries by number: (destination, key, state)."""

    entries: dict[int, tuple[str, str | None, str]] = field(default_factory=dict)

    def lines(self) -> dict[tuple[str, str], list[int]]:
        lines: dict[tuple[str, str], list[int]] = {}
        for seq, (destination, key, state) in sorted(self.entries.items()):
            if state == "pending" and key is not None:
                lines.setdefault((destination, key), []).append(seq)
        return lines


def play(db: sqlite3.Connection, model: Model, step: tuple[str, object, object]) -> None:  # noqa: C901 - one case a step
    match step:
        case "put", str(destination), key:
            cursor = db.execute(
                "insert into outbox (destination, payload, key) values (?, '{}', ?)", (destination, key)
            )
            assert cursor.lastrowid is not None
            model.entries[cursor.lastrowid] = (destination, key, "pending")  # type: ignore[assignment]
        case "move", (before, after), int(pick):
            movable = [seq for seq, entry in model.entries.items() if entry[2] == before]
            if movable:
                seq = movable[pick % len(movable)]
                db.execute("update outbox set state = ? where seq = ?", (str(after), seq))
                model.entries[seq] = (*model.entries[seq][:2], str(after))
        case "settle", list(picks), str(state):
            everything = sorted(model.entries)
            seqs = {everything[pick % len(everything)] for pick in picks} if everything else set()
            db.execute(queries.SETTLE.sql, (state, 1, 0, None, None, None, None, None, str(sorted(seqs))))
            for seq in seqs:
                destination, key, before = model.entries[seq]
                model.entries[seq] = (destination, key, state if before == "pending" else before)
        case "delete", int(pick), _:
            if model.entries:
                seq = sorted(model.entries)[pick % len(model.entries)]
                db.execute("delete from outbox where seq = ?", (seq,))
                del model.entries[seq]
        case "adopt", int(pick), str(key):
            keyless = [seq for seq, entry in model.entries.items() if entry[1] is None and entry[2] == "pending"]
            if keyless:
                seq = keyless[pick % len(keyless)]
                db.execute("update outbox set key = ? where seq = ?", (key, seq))
                model.entries[seq] = (model.entries[seq][0], key, "pending")
        case "rekey", int(pick), (str(destination), key):  # a hand in a shell
            if model.entries:
                seq = sorted(model.entries)[pick % len(model.entries)]
                db.execute("update outbox set destination = ?, key = ? where seq = ?", (destination, key, seq))
                model.entries[seq] = (destination, key, model.entries[seq][2])  # type: ignore[assignment]
        case "postpone", str(destination), key:  # the flusher postpones the first of a line, or one without a key
            first = next(iter(model.lines().get((destination, str(key)), [])), None)
            if first is not None:
                db.execute(queries.POSTPONE.sql, (5, 1, None, None, None, None, None, f"[{first}]"))
        case "due", _, _:
            db.execute(queries.DUE.sql, (5, 500))
        case _:
            raise AssertionError(step)


def held_true(db: sqlite3.Connection, model: Model) -> None:
    waits = dict(db.execute("select seq, waits from outbox where state = 'pending'"))
    for line in model.lines().values():
        assert waits[line[0]] != "turn", f"the first of {line} waits for its turn: it would wait for ever"
        assert [waits[seq] for seq in line[1:]] == ["turn"] * (len(line) - 1), f"{line} would be sent out of order"
    in_line = {seq for line in model.lines().values() for seq in line}
    assert all(wait != "turn" for seq, wait in waits.items() if seq not in in_line)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_only_the_first_of_each_line_is_ready(steps: list[tuple[str, object, object]]) -> None:
    with schema() as db:
        model = Model()
        for step in steps:
            play(db, model, step)
            held_true(db, model)
        counted = db.execute("select coalesce(sum(entries), 0) from outbox_counts").fetchone()[0]
        assert counted == db.execute("select coalesce(max(seq), 0) from sqlite_sequence").fetchone()[0]


def held_true_strictly(db: sqlite3.Connection, model: Model) -> None:
    waits = dict(db.execute("select seq, waits from outbox where state = 'pending'"))
    for (destination, key), line in model.lines().items():
        corpses = [seq for seq, entry in model.entries.items() if entry == (destination, key, "dead")]
        frozen = any(seq < line[0] for seq in corpses)
        assert (waits[line[0]] == "turn") == frozen, f"{line} behind {corpses}"
        assert [waits[seq] for seq in line[1:]] == ["turn"] * (len(line) - 1)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_in_strict_order_a_dead_entry_holds_back_its_line_and_no_other(steps: list[tuple[str, object, object]]) -> None:
    with schema() as db:
        db.execute("insert into outbox_meta values ('strict_order', '1')")
        model = Model()
        for step in steps:
            # An entry that waits for its turn is never sent, so never postponed; and no hand moves a dead one.
            if step[0] not in ("postpone", "rekey"):
                play(db, model, step)
            held_true_strictly(db, model)


@pytest.mark.parametrize(
    ("trigger", "steps"),
    [
        pytest.param("outbox_turn_put", [("put", "trades", "a")] * 2, id="a put behind another"),
        pytest.param(
            "outbox_turn_joined",
            [("put", "trades", "a"), ("settle", [0], "dead"), ("put", "trades", "a"), ("move", ("dead", "pending"), 0)],
            id="a revived one in front of another",
        ),
        pytest.param(
            "outbox_turn_settled",
            [("put", "trades", "a"), ("put", "trades", "a"), ("settle", [0], "delivered")],
            id="the first is settled",
        ),
        pytest.param(
            "outbox_turn_left",
            [("put", "trades", "a"), ("put", "trades", "a"), ("rekey", 0, ("trades", "b"))],
            id="the first goes into another line",
        ),
        pytest.param(
            "outbox_turn_gone",
            [("put", "trades", "a"), ("put", "trades", "a"), ("delete", 0, None)],
            id="the first is deleted",
        ),
    ],
)
def test_without_one_of_its_triggers_a_line_breaks(trigger: str, steps: list[tuple[str, object, object]]) -> None:
    """The control of the property above: with the trigger the steps hold, without it they do not."""
    for broken in (False, True):
        with schema() as db:
            if broken:
                db.execute(f"drop trigger {trigger}")
            model = Model()
            for step in steps:
                play(db, model, step)
            if broken:
                with pytest.raises(AssertionError, match=r"for ever|out of order"):
                    held_true(db, model)
            else:
                held_true(db, model)


def test_states_of_the_model_are_those_of_the_code() -> None:
    assert {state for pair in MOVING for state in pair} == set(State)
