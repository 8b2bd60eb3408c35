#!/usr/bin/env python3
"""Write docs/proof.md from docs/proof.json, and the lifecycle of an entry, as the library has it, into its page.

usage: scripts/proof.py           the page from the counts that are kept
       scripts/proof.py FOLDER    first take over what runs have left in this folder, if it is more than was known

Runs leave their counts where OUTBOX_COUNTS=FOLDER names a folder: `scripts/test tests/proof`, `scripts/soak`,
`scripts/mutate`. POWER_IMAGES, KILLS and the hours of `scripts/soak` make them larger.
"""

import environment

environment.enter(__doc__)

import json
import os
import platform
import re
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from environment import ROOT

from outbox.entry import MOVES

COUNTS, PAGE = ROOT / "docs" / "proof.json", ROOT / "docs" / "proof.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
# What makes each move; an entry that waits for a parent stays pending.
WORDS = {
    ("(none)", "pending"): "put",
    ("pending", "delivered"): "the remote end holds it",
    ("pending", "dead"): "the server refused this very row",
    ("pending", "discarded"): "discard",
    ("delivered", "pending"): "resend",
    ("delivered", "(none)"): "prune",
    ("dead", "pending"): "requeue",
    ("dead", "discarded"): "discard",
}


def taken(claims: dict[str, Any], folder: Path) -> None:
    """Take over what `folder` has of modules' mutants, and its counts that are larger than the known ones."""
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        if "module" in found:
            claims["modules"][found.pop("module")] = {**found, "date": today}
            continue
        (row,) = (row for row in claims["rows"] if row["name"] == found["name"])
        if found["count"] > row["most"]["count"]:
            row["most"] = {
                "count": found["count"],
                "how": found.get("how", ""),
                "date": today,
                "machine": machine(),
            }


def machine() -> str:
    """Describe this machine, without a name or a path."""
    cores = os.cpu_count()
    return f"{cores} cores, {platform.system()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"


def page(claims: dict[str, Any]) -> str:
    """Return the page."""
    lines = [
        "# What was counted",
        "",
        "*Written by [`scripts/proof.py`](../scripts/proof.py) from [`proof.json`](proof.json), which holds what runs",
        "have counted. A test of each run fails if the page claims more than that run has reached.*",
        "",
        "| what | in each run of CI | the most so far | its canary: the same without a protection, which must fail |",
        "| --- | ---: | --- | --- |",
    ]
    for row in claims["rows"]:
        most = row["most"]
        told = ", ".join(filter(None, (f"{most['count']:,}", most["how"], most["date"])))
        file, _, name = row["canary"].partition("::")
        each_run = f"{row['each_run']:,}" if row["each_run"] else "none"
        lines.append(f"| {row['what']} | {each_run} | {told} | [`{name}`](../{file}) |")
    lines += [
        "",
        "The largest runs were made on: " + "; ".join(sorted({r["most"]["machine"] for r in claims["rows"]})) + ".",
    ]
    lines += ["", *claims["notes"], "", *of_mutants(claims["modules"])]
    return "\n".join([*lines, ""])


def of_mutants(modules: dict[str, Any]) -> list[str]:
    """Return the table of the mutants of each module, with their sum."""
    lines = [
        "## Mutants",
        "",
        "What [`scripts/mutate`](../scripts/mutate) has found when it last tried all mutants of a module. One that is",
        "as good as the original is listed in [`scripts/survivors.txt`](../scripts/survivors.txt) with the reason.",
        "",
        "| module | mutants | killed | as good as the original | survived | date |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    kinds = ("mutants", "killed", "survived")
    total = {kind: sum(found[kind] for found in modules.values()) for kind in kinds} | {"date": ""}
    for module, found in [*sorted((f"`{name}`", found) for name, found in modules.items()), ("all", total)]:
        mutants, killed, survived = (found[kind] for kind in kinds)
        equal = mutants - killed - survived
        lines.append(f"| {module} | {mutants:,} | {killed:,} | {equal} | {survived} | {found['date']} |")
    return lines


def lifecycle() -> str:
    """Return the drawing of the moves that the library allows, and of the two that begin and end a row."""
    allowed = {(str(before), str(after)) for before, moves in MOVES.items() for after in moves}
    assert allowed == {move for move in WORDS if "(none)" not in move}, "a move without words, or words without a move"
    lines = (f"{before:9} ── {words} {'─' * (33 - len(words))}▶ {after}" for (before, after), words in WORDS.items())
    return "\n".join([*lines, ""])


def drawn(text: str) -> str:
    """Return the page `text` with the drawing as it is now."""
    return re.sub(r"(?<=```text\n).*?(?=```)", lifecycle(), text, count=1, flags=re.DOTALL)


def main() -> int:
    """Write the pages and return the exit code."""
    claims = json.loads(COUNTS.read_text(encoding="utf-8"))
    if sys.argv[1:]:
        taken(claims, Path(sys.argv[1]))
        COUNTS.write_text(json.dumps(claims, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(claims), encoding="utf-8")
    ARCHITECTURE.write_text(drawn(ARCHITECTURE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
