"""What was said decides what must be there."""

from __future__ import annotations

import json

import pytest

from tests.proof.power.ledger import Facts, Ledger


def heard(*marks: list[object]) -> Ledger:
    ledger = Ledger()
    for mark in marks:
        ledger.hear(json.dumps(mark))
    return ledger


PUT: list[list[object]] = [["may", [1], ["pending"]], ["is", [1], ["pending"]]]
SENT: list[list[object]] = [*PUT, ["may", [1], ["delivered"]]]


@pytest.mark.parametrize(
    ("marks", "states", "right"),
    [
        pytest.param(PUT[:1], {}, True, id="a put that was not acknowledged may be missing"),
        pytest.param(PUT[:1], {"1": "pending"}, True, id="or there"),
        pytest.param(PUT, {"1": "pending"}, True, id="one that was is there"),
        pytest.param(PUT, {}, False, id="or lost"),
        pytest.param(PUT, {"1": "delivered"}, False, id="nobody has sent it"),
        pytest.param(SENT, {"1": "pending"}, True, id="sent, not settled"),
        pytest.param(SENT, {"1": "delivered"}, True, id="settled, not said"),
        pytest.param([*SENT, ["is", [1], ["delivered"]]], {"1": "pending"}, False, id="a settlement that was lost"),
        pytest.param([*SENT, ["is", [1], ["absent"]]], {"1": "delivered"}, False, id="a pruned row that came back"),
        pytest.param([], {"1": "pending"}, False, id="a row that nobody has put"),
    ],
)
def test_an_image_is_right_or_wrong(marks: list[list[object]], states: dict[str, str], right: bool) -> None:
    assert (heard(*marks).wrongs(Facts(states)) == []) == right


def test_rows_of_one_transaction_are_there_together_until_one_may_go() -> None:
    pair: list[list[object]] = [["together", [1, 2]], ["may", [1, 2], ["pending"]]]
    half = Facts({"1": "pending"})
    assert [wrong.what for wrong in heard(*pair).wrongs(half)] == ["only a part of 1, 2"]
    assert heard(*pair, ["may", [2], ["absent"]]).wrongs(half) == []


def test_a_fault_of_the_file_is_wrong_and_no_loss() -> None:
    (wrong,) = heard().wrongs(Facts({}, ("integrity: page 2 is never used",)))
    assert not wrong.lost


def test_what_is_no_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="no mark"):
        heard(["was", [1], ["pending"]])
