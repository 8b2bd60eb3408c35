"""docs/proof.md is what `scripts/proof.py` writes, and each canary is a test in the file that it names."""

from __future__ import annotations

import re
import runpy

import pytest
from environment import ROOT

from outbox.entry import MOVES, State
from tests.proof.counts import claims

ROWS = claims()["rows"]


SCRIPT = runpy.run_path(str(ROOT / "scripts" / "proof.py"), run_name="proof")


def test_the_page_is_written_from_the_counts() -> None:
    assert (ROOT / "docs" / "proof.md").read_text(encoding="utf-8") == SCRIPT["page"](claims())


def test_the_drawing_of_the_lifecycle_shows_every_move_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert SCRIPT["drawn"](text) == text, "scripts/proof.py draws it"
    # The control: with one move more, the drawing is another one.
    monkeypatch.setitem(MOVES, State.DISCARDED, frozenset({State.PENDING}))
    with pytest.raises(AssertionError, match="a move without words"):
        SCRIPT["drawn"](text)


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_each_claim_was_reached_and_has_a_canary(row: dict[str, object]) -> None:
    most = row["most"]
    assert isinstance(most, dict)
    assert most["count"] >= row["each_run"]
    file, _, name = str(row["canary"]).partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_of_the_mutants_of_each_pure_module_nearly_all_are_noticed() -> None:
    modules = claims()["modules"]
    assert modules.keys() <= runpy.run_path(str(ROOT / "scripts" / "mutate"), run_name="mutate")["TESTS"].keys()
    survived, mutants = (sum(found[kind] for found in modules.values()) for kind in ("survived", "mutants"))
    assert survived <= 0.03 * mutants
