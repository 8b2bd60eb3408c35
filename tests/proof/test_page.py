"""docs/proof.md is what `scripts/proof.py` writes, and each canary is a test in the file that it names."""

from __future__ import annotations

import re
import runpy

import pytest
from environment import ROOT

from tests.proof.counts import claims

ROWS = claims()["rows"]


def test_the_page_is_written_from_the_counts() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "proof.py"), run_name="proof")["page"]
    assert (ROOT / "docs" / "proof.md").read_text(encoding="utf-8") == page(claims())


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_each_claim_was_reached_and_has_a_canary(row: dict[str, object]) -> None:
    most = row["most"]
    assert isinstance(most, dict)
    assert most["count"] >= row["each_run"]
    file, _, name = str(row["canary"]).partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
