"""The idempotency key is a UUIDv7 as RFC 9562 has it."""

from __future__ import annotations

import os
from uuid import RFC_4122, UUID

import pytest

from outbox.entry import mint_id

NOW_MS = 1_767_350_400_123


@pytest.mark.parametrize(
    "entropy", [bytes(10), b"\xff" * 10, os.urandom(10)], ids=["all zeros", "all ones", "as it comes"]
)
def test_an_id_is_a_uuid_of_version_7_and_says_when_it_was_minted(entropy: bytes) -> None:
    minted = mint_id(NOW_MS, entropy)

    read = UUID(minted)
    assert str(read) == minted  # the one spelling that PostgreSQL gives back
    assert (read.version, read.variant) == (7, RFC_4122)
    assert read.int >> 80 == NOW_MS


def test_ids_are_in_the_order_of_their_time_whatever_the_dice() -> None:
    earlier, later = mint_id(NOW_MS, b"\xff" * 10), mint_id(NOW_MS + 1, bytes(10))

    assert earlier < later


def test_74_of_the_80_bits_of_the_dice_decide() -> None:
    ids = {mint_id(NOW_MS, (1 << bit).to_bytes(10, "big")) for bit in range(80)}

    assert len(ids - {mint_id(NOW_MS, bytes(10))}) == 74
