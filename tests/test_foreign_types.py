"""What a row may hold beside texts and numbers: classes with fields, and types that the bot says how to write."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

from outbox import BlockingOutbox, ConfigError, InvalidEntry, Outbox, SupabaseClient
from outbox.encoding import encode_row, encode_value
from outbox.foreign_types import register_type
from tests.store.tools import rows
from tests.support import run_async


@attrs.define
class Defined:
    symbol: str
    pnl: Decimal = Decimal("1.50")
    _private: int = attrs.field(default=7, alias="private")


@attrs.frozen
class Frozen:
    inner: Defined


class Struct(msgspec.Struct):
    symbol: str
    pnl: Decimal = Decimal("1.50")


class Renamed(msgspec.Struct, rename="camel", frozen=True, array_like=True):
    entry_price: float
    inner: Struct | None = None


@pytest.mark.parametrize(
    ("row", "text"),
    [
        pytest.param(Defined("EURUSD"), '{"_private":7,"pnl":1.50,"symbol":"EURUSD"}', id="attrs"),
        pytest.param(
            Frozen(Defined("EURUSD")), '{"inner":{"_private":7,"pnl":1.50,"symbol":"EURUSD"}}', id="attrs in attrs"
        ),
        pytest.param(Struct("EURUSD"), '{"pnl":1.50,"symbol":"EURUSD"}', id="msgspec"),
        pytest.param(
            Renamed(1.5, Struct("EURUSD")),
            '{"entry_price":1.5,"inner":{"pnl":1.50,"symbol":"EURUSD"}}',
            id="msgspec by its attributes' names",
        ),
    ],
)
def test_classes_with_fields_are_rows_as_dataclasses_are(row: object, text: str) -> None:
    assert encode_row(row, where="trades").text == text
    assert encode_value([row], where="trades") == f"[{text}]"


def test_a_class_with_fields_names_the_field_that_cannot_be_written() -> None:
    for row in (Defined("EURUSD", pnl=object()), Struct("EURUSD", pnl=object())):  # type: ignore[arg-type]
        with pytest.raises(InvalidEntry) as caught:
            encode_row(row, where="trades")
        assert caught.value.field == "trades.pnl"


@pytest.mark.slow
def test_neither_library_is_loaded_unless_the_bot_has_it() -> None:
    code = "from outbox import Outbox; import sys; print(*{'attr', 'attrs', 'msgspec'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.split() == []


# ---------------------------------------------------------------------------------------------- register_type


class Price:
    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class Tick(Price):
    pass


class Side(Enum):
    BUY = 1


@dataclass
class Money:
    amount: Decimal
    currency: str


@run_async
async def test_a_registered_type_is_written_as_the_bot_says_and_others_are_told_how(tmp_path: Path) -> None:
    async with Outbox.open(path=tmp_path / "bot.db") as outbox:
        with pytest.raises(InvalidEntry, match=r"trades\.price: .*outbox\.register_type\(Price, str\)"):
            await outbox.put("trades", {"price": Price("1.10")})
        outbox.register_type(Price, str)
        outbox.register_type(Side, lambda side: side.name)  # goes before the value of an Enum
        outbox.register_type(Money, lambda money: {"amount": money.amount})  # and before a dataclass's fields
        await outbox.put("trades", {"price": Price("1.10"), "legs": [Tick("1.2")], "side": Side.BUY})
        await outbox.put("trades", Money(Decimal("2.50"), "EUR"))
        await outbox.put("trades", {"by": {Price("1.3"): 1, Side.BUY: 2}})
        await outbox.put("trades", {"n": 1}, operation="update", match={"price": Price("1.10")})
        await SupabaseClient(outbox).log_event("FILL", Struct("EURUSD"))  # type: ignore[arg-type]
    found = [payload for (payload,) in rows(tmp_path / "bot.db", "select payload from outbox order by seq")]
    assert found[:4] == [
        '{"legs":["1.2"],"price":"1.10","side":"BUY"}',
        '{"amount":2.50}',
        '{"by":{"1.3":1,"BUY":2}}',
        '{"n":1}',
    ]
    assert '"symbol":"EURUSD"' in str(found[4])


def test_the_nearest_base_and_the_latest_word_decide() -> None:
    class Base:
        pass

    class Derived(Base):
        pass

    register_type(Base, lambda _: "base")
    assert encode_value(Derived(), where="x") == '"base"'
    register_type(Derived, lambda _: "derived")
    assert encode_value([Base(), Derived()], where="x") == '["base","derived"]'
    register_type(Base, lambda _: 1)
    assert encode_value(Base(), where="x") == "1"


def test_a_conversion_that_fails_or_has_no_end_is_refused_without_the_value() -> None:
    class Odd:
        pass

    register_type(Odd, lambda _: int("payload-canary"))
    with pytest.raises(InvalidEntry, match="reading this Odd raised ValueError") as caught:
        encode_row({"x": Odd()}, where="trades")
    assert "canary" not in str(caught.value)
    register_type(Odd, lambda odd: odd)
    with pytest.raises(InvalidEntry, match="contains itself"):
        encode_row({"x": Odd()}, where="trades")


@pytest.mark.parametrize(
    ("kind", "convert"), [(float, str), (dict, str), (object, str), ("Price", str), (Price, "str")]
)
def test_what_json_has_already_and_what_is_no_type_is_refused(kind: Any, convert: Any) -> None:
    with pytest.raises(ConfigError):
        register_type(kind, convert)


def test_a_bot_without_asyncio_registers_too(tmp_path: Path) -> None:
    class Lot:
        pass

    with BlockingOutbox(path=tmp_path / "bot.db") as outbox:
        outbox.register_type(Lot, lambda _: 0.5)
        outbox.put("trades", {"lot": Lot()})
    assert rows(tmp_path / "bot.db", "select payload from outbox") == [('{"lot":0.5}',)]
