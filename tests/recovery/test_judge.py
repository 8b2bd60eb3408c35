"""What damage means, as tables."""

from __future__ import annotations

import pytest

from outbox.recovery.judge import Evidence, Loss, Remedy, Wal, judge_loss, judge_wal, remedy


@pytest.mark.parametrize(
    ("outbox", "own_tables", "what"),
    [
        pytest.param(True, False, Remedy.SET_ASIDE, id="nothing but the outbox"),
        pytest.param(True, True, Remedy.REFUSE, id="the bot's own tables too"),
        pytest.param(True, None, Remedy.REFUSE, id="an outbox, and nobody knows what else"),
        pytest.param(None, False, Remedy.NOT_OURS, id="nobody knows that it was an outbox"),
        pytest.param(None, None, Remedy.NOT_OURS, id="nothing is known"),
        pytest.param(False, True, Remedy.NOT_OURS, id="somebody else's"),
    ],
)
def test_only_what_is_known_to_be_the_outboxs_own_is_ever_moved(
    outbox: bool | None, own_tables: bool | None, what: Remedy
) -> None:
    assert remedy(Evidence(outbox, own_tables)) is what


@pytest.mark.parametrize(
    ("whole", "open_salt", "exists", "salt", "what"),
    [
        pytest.param(True, None, False, None, Wal.FITS, id="closed cleanly"),
        pytest.param(True, None, True, 5, Wal.FITS, id="closed cleanly, then a shell was killed"),
        pytest.param(False, None, True, None, Wal.FITS, id="a backup beside an empty one"),
        pytest.param(False, None, True, 5, Wal.STRANGE, id="a backup beside one that may be another's"),
        pytest.param(False, 5, False, None, Wal.MISSING, id="in use, and there is none"),
        pytest.param(False, 5, True, None, Wal.FITS, id="an empty one"),
        pytest.param(False, 5, True, 5, Wal.FITS, id="the very one"),
        pytest.param(False, 5, True, 900, Wal.FITS, id="begun anew some times since"),
        pytest.param(False, 2**32 - 1, True, 3, Wal.FITS, id="the salt wraps around"),
        pytest.param(False, 5, True, 5 + 2**20 - 1, Wal.FITS, id="begun anew as often as a bot can"),
        pytest.param(False, 5, True, 5 + 2**20, Wal.STRANGE, id="once more than that"),
        pytest.param(False, 5, True, 4, Wal.STRANGE, id="an older one"),
        pytest.param(True, 5, True, 2**31, Wal.STRANGE, id="another database's"),
    ],
)
def test_a_wal_is_judged_by_its_salt_and_by_what_is_there_without_it(
    whole: bool, open_salt: int | None, exists: bool, salt: int | None, what: Wal
) -> None:
    assert judge_wal(whole=whole, open_salt=open_salt, exists=exists, salt=salt) is what


@pytest.mark.parametrize(
    ("seq", "mark", "wal", "loss"),
    [
        pytest.param(10, 10, Wal.FITS, None, id="all is there"),
        pytest.param(12, 10, Wal.FITS, None, id="a shell's entries, or unacknowledged ones"),
        pytest.param(10, 10, Wal.MISSING, None, id="a shell has brought the WAL home"),
        pytest.param(10, 17, Wal.MISSING, Loss(11, 17, certain=True), id="a lost WAL"),
        pytest.param(10, 17, Wal.FITS, Loss(11, 17, certain=True), id="an older copy"),
        pytest.param(10, None, Wal.FITS, None, id="nothing beside the file"),
        pytest.param(10, None, Wal.MISSING, Loss(11, None, certain=False), id="a copy without its WAL"),
    ],
)
def test_a_loss_is_detected_by_the_highest_acknowledged_number(
    seq: int, mark: int | None, wal: Wal, loss: Loss | None
) -> None:
    assert judge_loss(seq=seq, mark=mark, wal=wal) == loss


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (Loss(11, 17, certain=True), "entries 11 to 17 were acknowledged and are not in the file"),
        (Loss(11, None, certain=False), "entries from 11 on may be missing"),
    ],
)
def test_a_loss_says_what_is_gone_or_may_be(loss: Loss, words: str) -> None:
    assert words in loss.words
