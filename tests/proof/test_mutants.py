"""Of a sample of mutants none survives that is not listed; a listed one in it shows that survivors are seen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from environment import ROOT

from tests.proof.counts import reached

# Where each mutant costs the least: their tests are tables. The others are tried by hand.
MODULES = [
    *(f"outbox.flusher.{name}" for name in ("backoff", "scopes", "traffic")),
    "outbox.recovery.judge",
]
SAMPLE = 40
# A seed whose sample holds one that is as good as the original.
SEED = 16


@pytest.mark.skipif(sys.platform == "win32", reason="each mutant is a fork")
def test_a_changed_decision_is_noticed_by_its_tests(tmp_path: Path) -> None:
    counts = tmp_path / "counts.json"
    script = [sys.executable, str(ROOT / "scripts" / "mutate"), *MODULES]
    done = subprocess.run(
        [*script, "--sample", str(SAMPLE), "--seed", str(SEED), "--json", str(counts)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(counts.read_text(encoding="utf-8"))
    assert found["listed"], "no survivor was seen, not even one that is listed"
    reached("mutants", found["mutants"])
