"""What the runs reach, beside what docs/proof.md claims that each of them does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from environment import ROOT

CLAIMS = ROOT / "docs" / "proof.json"


def claims() -> dict[str, Any]:
    """Return what the page is made of."""
    return json.loads(CLAIMS.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def reached(name: str, count: int) -> None:
    """Say how many there were in this run, which must not be less than the page claims.

    With OUTBOX_COUNTS the count goes to a file in that folder, for `scripts/proof.py FOLDER`.
    """
    if folder := os.environ.get("OUTBOX_COUNTS"):
        file = Path(folder) / f"{name}.json"
        file.write_text(json.dumps({"name": name, "count": count}), encoding="utf-8")
    (claimed,) = (row["each_run"] for row in claims()["rows"] if row["name"] == name)
    assert count >= claimed, f"docs/proof.md claims {claimed} {name} in each run; this one had {count}"
