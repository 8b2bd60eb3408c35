"""Many rows at once, and many puts in one transaction: all or nothing, in order, and cheap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from outbox import BlockingOutbox, IdConflict, InvalidEntry, Outbox, OutboxFull, Settings, StoreError
from outbox.encoding import Encoded, encode_row
from outbox.testing import ScriptedTransport
from tests.store.tools import count, raised, rows, shell
from tests.support import run_async
from tests.test_counted_work import counted_hops, opened as standing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bot.db"


def settings(path: Path, **more: Any) -> Settings:
    return Settings(_env_file=None, path=path, **more)


def numbered(number: int, *, start: int = 0) -> list[dict[str, object]]:
    return [{"n": n} for n in range(start, start + number)]


@pytest.mark.parametrize("number", [1, 2, 128, 129, 1024, 3000])
@run_async
async def test_many_rows_are_stored_in_order_with_a_receipt_each(number: int, path: Path) -> None:
    async with Outbox.open(settings(path)) as outbox:
        before = await outbox.put("events", {"n": -1})
        receipts = await outbox.put_many("fills", numbered(number))
        after = await outbox.put("fills", {"n": number})

    assert [receipt.seq for receipt in receipts] == list(range(before.seq + 1, after.seq))
    stored = rows(path, "select id, seq, payload ->> 'n' from outbox where destination = 'fills' order by seq")
    assert stored[:-1] == [(receipt.id, receipt.seq, n) for n, receipt in enumerate(receipts)]
    assert sorted(receipt.id for receipt in receipts) == [receipt.id for receipt in receipts]


@run_async
async def test_many_rows_cost_one_hop(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with standing(path, ScriptedTransport()) as outbox:
        await outbox.put("fills", {"n": -1})  # the first entry of its kind makes the lane
        with counted_hops(monkeypatch) as hops:
            await outbox.put_many("fills", numbered(1024))
        assert len(hops) == 1, hops


@run_async
async def test_rows_written_in_one_go_are_stored_as_each_put_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {"n": {"nested": 1}}
    many = [*numbered(200), odd, *numbered(200, start=200)]  # 128 rows are looked at at once
    looked_at: list[object] = []

    def looking(row: object, **known: Any) -> Encoded:
        looked_at.append(row)
        return encode_row(row, **known)

    monkeypatch.setattr("outbox.prepare.encode_row", looking)
    async with Outbox.open(settings(path)) as outbox:
        await outbox.put_many("fills", numbered(300))
        assert not looked_at
        await outbox.put_many("fills", many)
        assert looked_at == many[128:256]  # the control
        for row in many:
            await outbox.put("fills", row)

    found = rows(path, "select payload, digest, operation, key, lane, state from outbox where seq > 300 order by seq")
    assert found[: len(many)] == found[len(many) :]


@run_async
async def test_puts_of_a_transaction_share_their_hops(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with standing(path, ScriptedTransport()) as outbox:
        await outbox.put("fills", {"n": -1})
        with counted_hops(monkeypatch) as hops:
            async with outbox.transaction(limit_s=60) as tx:
                receipts = [await tx.put("fills", row) for row in numbered(400)]
        # begin, the first one, three of 128, the rest, commit
        assert len(hops) <= 7, hops
    assert rows(path, "select seq, id from outbox where destination = 'fills' and payload ->> 'n' >= 0") == [
        (r.seq, r.id) for r in receipts
    ]


@run_async
async def test_no_rows_are_no_commit(path: Path) -> None:
    async with Outbox.open(settings(path)) as outbox:
        assert await outbox.put_many("fills", []) == []
        async with outbox.transaction(limit_s=60) as tx:
            assert await tx.put_many("fills", iter(())) == []


@pytest.mark.parametrize("number", [3, 3000])
@pytest.mark.parametrize("inside", [False, True])
@run_async
async def test_one_conflict_stores_none_of_them(inside: bool, number: int, path: Path) -> None:
    ids = [f"id-{n}" for n in range(number)]
    async with Outbox.open(settings(path)) as outbox:
        await outbox.put("fills", {"n": -1}, id=ids[-1])
        if inside:
            async with outbox.transaction(limit_s=60) as tx:
                await tx.put("events", {"n": 1})
                with pytest.raises(IdConflict, match=ids[-1]):
                    await tx.put_many("fills", numbered(number), ids=ids)
                await tx.put("events", {"n": 2})
        else:
            with pytest.raises(IdConflict, match=ids[-1]):
                await outbox.put_many("fills", numbered(number), ids=ids)

        assert rows(path, "select id from outbox where destination = 'fills'") == [(ids[-1],)]
        assert count(path) == (3 if inside else 1)
        # Control: what is the same is a duplicate, and the rest is stored.
        receipts = await outbox.put_many("fills", [*numbered(number - 1), {"n": -1}], ids=ids)
        assert [receipt.duplicate for receipt in receipts] == [False] * (number - 1) + [True]


@run_async
async def test_the_same_rows_again_are_duplicates_and_one_id_twice_is_one_row(path: Path) -> None:
    mine = [{"id": "a", "n": 1}, {"id": "b", "n": 2}, {"id": "a", "n": 1}]
    async with Outbox.open(settings(path)) as outbox:
        first = await outbox.put_many("fills", mine)
        again = await outbox.put_many("fills", mine)
        assert [r.duplicate for r in first] == [False, False, True]
        assert [r.duplicate for r in again] == [True] * 3
        assert [r.seq for r in again] == [r.seq for r in first] and first[0].seq == first[2].seq
    assert count(path) == 2


@pytest.mark.parametrize(
    ("given", "field"),
    [
        pytest.param({"rows": [{"n": 1}, {"n": 2, "pnl": object()}]}, "rows[1].fills.pnl", id="a value"),
        pytest.param({"rows": [{"n": 1}, 7]}, "rows[1].fills", id="a row that is none"),
        pytest.param({"rows": {"n": 1}}, "rows", id="one row instead of rows"),
        pytest.param({"rows": "fills"}, "rows", id="a text"),
        pytest.param({"rows": 7}, "rows", id="a number"),
        pytest.param({"rows": [{"n": 1}], "ids": ["a", "b"]}, "ids", id="ids that are too many"),
        pytest.param({"rows": [{"n": 1}], "if_exists": "keep"}, "rows[0].if_exists", id="keep without an id"),
        pytest.param({"rows": [{"n": 1}], "if_exists": "drop"}, "rows[0].if_exists", id="a word that is none"),
    ],
)
@run_async
async def test_a_row_that_cannot_be_stored_is_named_and_none_is_stored(
    given: dict[str, Any], field: str, path: Path
) -> None:
    async with Outbox.open(settings(path)) as outbox:
        error = await raised(outbox.put_many("fills", **given))
        assert isinstance(error, InvalidEntry) and error.field == field
    assert count(path) == 0


@run_async
async def test_a_bound_that_some_would_exceed_refuses_all_of_them(path: Path) -> None:
    async with Outbox.open(settings(path, max_pending_rows=3)) as outbox:
        with pytest.raises(OutboxFull):
            await outbox.put_many("fills", numbered(4))
        assert count(path) == 0
        mine = await outbox.put_many("fills", numbered(3), ids=["a", "b", "c"])
        # What is stored already needs no room.
        again = await outbox.put_many("fills", numbered(3), ids=["a", "b", "c"])
        assert [r.seq for r in again] == [r.seq for r in mine]
        with pytest.raises(OutboxFull):
            async with outbox.transaction(limit_s=60) as tx:
                await tx.put_many("fills", numbered(1))


REFUSES = "create trigger mine before insert on outbox when new.payload ->> 'n' = 7 begin select raise({what}); end"


@pytest.mark.parametrize("what", ["abort, 'not seven'", "ignore"])
@run_async
async def test_a_rule_of_the_bots_own_that_one_row_breaks_refuses_all_of_them(what: str, path: Path) -> None:
    async with Outbox.open(settings(path)) as outbox:
        async with outbox.transaction(limit_s=60) as tx:
            await tx.execute(REFUSES.format(what=what))
        with pytest.raises(StoreError):
            await outbox.put_many("fills", numbered(10))
        assert count(path) == 0
        # In a transaction it is the one put that fails, and the block goes on.
        async with outbox.transaction(limit_s=60) as tx:
            refused = [await raised(tx.put("fills", row)) for row in numbered(10)]
    assert [number for number, error in enumerate(refused) if isinstance(error, StoreError)] == [7]
    assert count(path) == 9


@run_async
async def test_a_rule_that_a_shell_makes_meanwhile_fails_the_transaction_as_a_whole(path: Path) -> None:
    async with Outbox.open(settings(path)) as outbox:
        with shell(path) as connection:
            connection.execute(REFUSES.format(what="ignore"))
        with pytest.raises(StoreError, match="refuses 1 of 9 entries; the whole transaction was rolled back"):
            async with outbox.transaction(limit_s=60) as tx:
                for row in numbered(10):
                    await tx.put("fills", row)
    assert count(path) == 0


@run_async
async def test_statements_of_a_transaction_see_the_puts_before_them_and_numbers_stay_true(path: Path) -> None:
    async with Outbox.open(settings(path)) as outbox, outbox.transaction(limit_s=60) as tx:
        receipts = [await tx.put("fills", row) for row in numbered(3)]
        assert await tx.execute("select count(*) from outbox") == [(3,)]
        await tx.execute("insert into outbox (destination, payload) values ('events', '{\"n\": 9}')")
        receipts += [await tx.put("fills", row) for row in numbered(3, start=3)]
        receipts += await tx.put_many("fills", numbered(3, start=6))
        receipts += [await tx.put("fills", row) for row in numbered(3, start=9)]
    stored = rows(path, "select seq, id from outbox where destination = 'fills' order by seq")
    assert stored == [(receipt.seq, receipt.id) for receipt in receipts]


@run_async
async def test_what_a_transaction_gathered_is_rolled_back_with_it(path: Path) -> None:
    async with Outbox.open(settings(path)) as outbox:
        with pytest.raises(ZeroDivisionError):
            async with outbox.transaction(limit_s=60) as tx:
                for row in numbered(300):
                    await tx.put("fills", row)
                raise ZeroDivisionError
        assert count(path) == 0
        assert (await outbox.put("fills", {"n": 1})).seq == 1


@run_async
async def test_upserts_of_one_key_keep_their_order_and_rows_of_other_columns_their_lane(path: Path) -> None:
    remote = ScriptedTransport()
    mine = [{"session_id": "s", "total_trades": n} | ({"total_pnl": n} if n % 2 else {}) for n in range(6)]
    async with Outbox.open(settings(path), transport=remote) as outbox:
        await outbox.put_many("sessions", mine, operation="upsert")
        assert rows(path, "select count(distinct lane), count(distinct key) from outbox") == [(2, 1)]
        assert (await outbox.drain(timeout=200)).delivered == 6


@run_async
async def test_the_first_of_two_that_tell_the_same_fill_stays(path: Path) -> None:
    async with Outbox.open(settings(path)) as outbox:
        first = await outbox.put("fills", {"price": 1.1, "at": 1}, id="x-1", if_exists="keep")
        told = [
            await outbox.put("fills", {"price": 1.1, "at": 2}, id="x-1", if_exists="keep"),
            *await outbox.put_many("fills", [{"price": 1.1, "at": 3}], ids=["x-1"], if_exists="keep"),
            await outbox.put_nowait("fills", {"price": 1.1, "at": 4}, id="x-1", if_exists="keep"),
        ]
        async with outbox.transaction(limit_s=60) as tx:
            told.append(await tx.put("fills", {"price": 1.1, "at": 5}, id="x-1", if_exists="keep"))
            told += await tx.put_many("fills", [{"price": 1.1, "at": 6}], ids=["x-1"], if_exists="keep")
        assert told == [replace(first, duplicate=True)] * 5
        with pytest.raises(IdConflict):  # control: nobody said to keep it
            await outbox.put("fills", {"price": 1.1, "at": 7}, id="x-1")
    assert rows(path, "select payload ->> 'at' from outbox") == [(1,)]


@run_async
async def test_another_operation_under_the_id_is_no_second_telling(path: Path) -> None:
    async with Outbox.open(path=path) as outbox:
        await outbox.put("fills", {"price": 1.1}, id="x-1", if_exists="keep")
        with pytest.raises(IdConflict):
            await outbox.put(
                "fills", {"price": 1.2}, operation="update", match={"ticket": 1}, id="x-1", if_exists="keep"
            )
        with pytest.raises(IdConflict):
            await outbox.put_many(
                "fills", [{"ticket": 1}], operation="upsert", on_conflict=("ticket",), ids=["x-1"], if_exists="keep"
            )


def test_a_bot_without_asyncio_puts_many_rows_too(path: Path) -> None:
    with BlockingOutbox(settings(path)) as outbox:
        receipts = outbox.put_many("fills", numbered(3), ids=["a", "b", "c"])
        with outbox.transaction(limit_s=60) as tx:
            receipts += tx.put_many("fills", numbered(3))
        with pytest.raises(IdConflict):
            outbox.put_many("fills", numbered(2), ids=["d", "a"], on_conflict=None, operation="insert", key="k")
    assert rows(path, "select seq, id from outbox order by seq") == [(receipt.seq, receipt.id) for receipt in receipts]
