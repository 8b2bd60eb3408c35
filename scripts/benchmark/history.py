"""What was measured when, a record for each version and machine, and the picture that is drawn from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.plot import Bar, bars

# What the picture shows: row, fact, words.
SHOWN = (
    (16, "transaction_least_us", "transaction()"),
    (16, "many_least_us", "put_many"),
    (18, "sent_least_us", "sent"),
)


def records(folder: Path) -> list[dict[str, Any]]:
    """Return what the files of `folder` hold, by their dates."""
    found = [json.loads(line) for path in folder.glob("*.json") for line in path.read_text("utf-8").splitlines()]
    return sorted(found, key=lambda record: (record["date"], record["version"]))


def keep(folder: Path, machine: str, told: Mapping[str, Any]) -> None:
    """Add a record to the file of `machine`; rows of the same version that were not measured again stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{machine}.json"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    earlier = {
        row: facts for line in lines if line["version"] == told["version"] for row, facts in line["rows"].items()
    }
    rows = earlier | {str(row): facts for row, facts in told["rows"].items()}
    lines = [line for line in lines if line["version"] != told["version"]] + [{**told, "rows": rows}]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    (folder / "history.svg").write_text(picture(records(folder)), encoding="utf-8")


def picture(found: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG of the processor time a row, version by version."""
    shown = []
    for row, fact, words in SHOWN:
        told = [(each["version"], each["rows"].get(str(row), {}).get(fact)) for each in found]
        known = [(version, value) for version, value in told if value is not None]
        shown += [
            Bar(f"{words}, {version}", value, f"{value:.0f}", ours=number == len(known) - 1)
            for number, (version, value) in enumerate(known)
        ]
    return bars("Processor time a row", "µs, the least of 15 rounds or more", shown)
