"""The power goes out: thousands of images of the shipped library's disk, each opened and counted.

`study.py` is the course, `images.py` says what a crash may leave. POWER_IMAGES=50000 looks at more than 2,000,
and with POWER_REOPENED=1 the library itself opens each.
"""

from __future__ import annotations

import shutil
import sys

import pytest

from outbox.store import migrate
from tests.proof.counts import reached
from tests.proof.power.images import Luck, replay
from tests.proof.power.operations import Mark, Operation, Sync
from tests.proof.power.recorder import Kill
from tests.proof.power.study import WANTED, Cut, Life, Outcome, a_bots_lives, examined, plain_cuts, record, study
from tests.store.planted import with_planted

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("strace") is None, reason="needs strace, so Linux"
)


@pytest.fixture(autouse=True)
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be the library that the recorded process was."""
    monkeypatch.setattr(migrate, "shipped", with_planted)


@pytest.mark.timeout(max(900, WANTED // 10))
def test_whatever_a_power_cut_leaves_everything_acknowledged_is_there_and_as_it_was_said() -> None:
    operations = record(a_bots_lives())
    outcome = study(operations)

    assert outcome.examples == []
    assert len(outcome.images) >= WANTED
    reached("power images", len(outcome.images))
    assert outcome.reopened > WANTED / 100, "the library itself has opened too few of them"
    # What the recording must hold, lest it prove less than it says.
    assert sum(isinstance(operation, Sync) for operation in operations) > 200
    assert sum(isinstance(operation, Mark) for operation in operations) > 500


# `study.py` by hand takes the controls through the whole course; two short lives are enough to see them lose.
CONTROLS = [
    # NORMAL leaves the last commits in the page cache until the next checkpoint.
    pytest.param("full-sync", id="synchronous NORMAL"),
    # With FULL the removal of a rollback journal is the commit, and the folder is not synced after it: the journal
    # comes back and takes the last transaction with it. With EXTRA it is synced; see the test below.
    pytest.param("wal", id="a rollback journal with synchronous FULL"),
    # Without the names of the folders above it, a file is nowhere.
    pytest.param("folder-sync", id="new folders not synced"),
]


@pytest.mark.parametrize("without", CONTROLS)
def test_control_without_one_protection_power_cuts_lose_acknowledged_rows(without: str) -> None:
    assert short_course(without).lost > 0


# The second is no way to run the outbox, but shows that the cuts take only what they may.
@pytest.mark.parametrize("without", [pytest.param((), id="as it is"), pytest.param(("wal", "extra"), id="EXTRA")])
def test_the_course_of_the_controls_loses_nothing_where_everything_is_synced(without: tuple[str, ...]) -> None:
    outcome = short_course(*without)
    assert (outcome.examples, outcome.lost) == ([], 0)
    assert len(outcome.images) > 20
    # Each image of a file in the making is opened by the library itself, which refuses a rollback journal.
    assert outcome.reopened > 20 or without


def short_course(*without: str) -> Outcome:
    operations = record([Life("young", 1, without), Life("brief", 3000, without)])
    return examined(operations, plain_cuts(operations), reopen=0 if without else 1)


KILLED = [Kill("fsync", number) for number in (1, 2, 3)]


@pytest.mark.parametrize("kill", KILLED, ids=lambda kill: f"{kill.call} {kill.count}")
def test_a_file_whose_first_process_was_killed_while_making_it_is_as_safe_as_any(kill: Kill) -> None:
    operations = record([Life("brief", 1, kill=kill), Life("brief", 1)])

    assert examined(operations, cuts_at_marks(operations)).examples == []


def test_control_if_the_next_process_trusts_what_it_finds_the_file_is_lost() -> None:
    operations = record([Life("brief", 1, kill=KILLED[1]), Life("brief", 1, ("folder-sync",))])

    assert examined(operations, cuts_at_marks(operations)).lost > 0


def cuts_at_marks(operations: list[Operation]) -> list[Cut]:
    """Return cuts at whatever was said, with the worst luck."""
    moments = enumerate(replay(operations), 1)
    cuts = [Cut(moment, Luck.NOTHING, 0) for moment, (each, begins) in moments if isinstance(each, Mark) and begins]
    assert len(cuts) > 10
    return cuts
