"""The tests of the pure decisions notice when one of them is changed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from environment import ROOT


@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="a mutant lives in a fork")
def test_of_a_sample_of_mutants_none_survives() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "mutate"), "--sample", "12", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("12 mutants: ")
