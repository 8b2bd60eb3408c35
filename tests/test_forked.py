"""A forked child is what a new interpreter with the same command would be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked

FACTS = "import os, sys; print(sys.argv, os.getcwd(), os.environ['MINE'], 'HOME' in os.environ, sys.stdin.read())"


@pytest.mark.parametrize(
    "code",
    [FACTS, "raise SystemExit(7)", "import sys; sys.exit('words')", "import os; os.kill(os.getpid(), 15)"],
    ids=["what it has", "a code", "words", "a signal"],
)
def test_it_has_and_says_what_a_new_interpreter_has_and_says(code: str, tmp_path: Path) -> None:
    ends = [
        run([sys.executable, "-c", code, "one"], input="typed", capture_output=True, text=True, cwd=tmp_path,
            env={"MINE": "1"})
        for run in (subprocess.run, forked.run)
    ]  # fmt: skip
    one, other = ((end.returncode, end.stdout, end.stderr) for end in ends)
    assert one == other


def test_it_is_a_process_of_its_own_until_it_is_killed() -> None:
    with forked.Popen(
        [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"],
        stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert int(child.stdout.readline()) == child.pid != os.getpid()
        assert child.poll() is None
        child.kill()
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
