"""The idempotency key is a UUIDv7 as RFC 9562 has it; a digest, and what an entry is told as, are what they were."""

from __future__ import annotations

import os
from uuid import RFC_4122, UUID

import pytest

from outbox.entry import Destination, LaneSpec, Operation
from outbox.prepare import digest, digests, mint_id, mint_ids

NOW_MS = 1_767_350_400_123
# No two neighbouring digits are the same, so that none can stand in another's place.
DICE = bytes.fromhex("0123456789abcdef2e4d"), bytes.fromhex("fedcba98765432109a7e")


@pytest.mark.parametrize(
    "entropy", [bytes(10), b"\xff" * 10, os.urandom(10)], ids=["all zeros", "all ones", "as it comes"]
)
def test_an_id_is_a_uuid_of_version_7_and_says_when_it_was_minted(entropy: bytes) -> None:
    minted = mint_id(NOW_MS, entropy)

    read = UUID(minted)
    assert str(read) == minted  # the one spelling that PostgreSQL gives back
    assert (read.version, read.variant) == (7, RFC_4122)
    assert read.int >> 80 == NOW_MS


def test_ids_are_in_the_order_of_their_time_whatever_the_random_bits() -> None:
    earlier, later = mint_id(NOW_MS, b"\xff" * 10), mint_id(NOW_MS + 1, bytes(10))

    assert earlier < later


def test_74_of_the_80_random_bits_are_used() -> None:
    ids = {mint_id(NOW_MS, (1 << bit).to_bytes(10, "big")) for bit in range(80)}

    assert len(ids - {mint_id(NOW_MS, bytes(10))}) == 74


def test_each_digit_of_an_id_has_its_place() -> None:
    one, other = (mint_id(NOW_MS, dice) for dice in DICE)

    assert one == "019b7e4a-f47b-7012-9345-6789abcdef2e"
    assert other == "019b7e4a-f47b-7fed-acba-98765432109a"
    assert mint_ids(NOW_MS, b"".join(DICE)) == [one, other]
    # What no longer fits into 48 bits, in the year 10889, is left away.
    assert mint_id(2**48 + NOW_MS, DICE[0]) == one
    assert mint_ids(2**48 + NOW_MS, DICE[0]) == [one]


def test_a_digest_is_the_same_in_every_version() -> None:
    """Files hold it: another one would accuse every entry of having been changed."""
    insert = digest("trades", "insert", None, '{"n":1}', None, None)
    update = digest("sessions", "update", "s1", '{"n":1}', None, '{"session_id":"s1"}')

    assert insert == "a8b639ee379948c227e5d68d437fcbcd"
    assert update == "5a94126d834461c33df7fdbf02f07c0f"
    assert digests("trades", "insert", None, [(None, None, '{"n":1}')]) == [insert]
    assert digests("sessions", "update", None, [("s1", '{"session_id":"s1"}', '{"n":1}')]) == [update]
    upsert = digest("sessions", "upsert", "s1", '{"n":1}', "session_id", None)
    assert digests("sessions", "upsert", "session_id", [("s1", None, '{"n":1}')]) == [upsert]


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (Operation.INSERT, "trades: insert of a, b"),
        (Operation.UPDATE, "trades: update of a, b"),
        (Operation.UPSERT, "trades: upsert on (x, y) of a, b"),
    ],
)
def test_a_lane_is_described_in_words(operation: Operation, words: str) -> None:
    assert LaneSpec("trades", operation, "x,y", "a,b", ordered=True).words() == words


def test_the_kind_of_a_lane_is_what_it_shares_with_those_of_other_columns() -> None:
    spec = LaneSpec("trades", Operation.UPSERT, "x,y", "a,b", ordered=True)
    assert spec.kind == LaneSpec("trades", Operation.UPSERT, "x,y", "", ordered=False)
    assert spec.kind == spec._replace(columns="c").kind


def test_rows_are_told_apart_by_what_decides_an_upsert_else_by_their_key() -> None:
    assert Destination("orders", key="order_id").unique == ("order_id",)
    assert Destination("orders", key="order_id", on_conflict=("venue", "ticket")).unique == ("venue", "ticket")
