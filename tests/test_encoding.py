"""What is stored is canonical, valid JSON without loss; everything else is refused by path, never by value."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import sqlite3
import subprocess
import sys
import types
from collections import ChainMap, OrderedDict, UserDict
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Context, Decimal, localcontext
from enum import Enum, IntEnum, StrEnum
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pydantic
import pytest
from hypothesis import given, strategies as st

from outbox import encoding
from outbox.columns import identifier
from outbox.encoding import MAX_DEPTH, Encoded, encode_alike, encode_row, encode_value
from outbox.errors import InvalidEntry

ROOT = Path(encoding.__file__).parent.parent
MOMENT = datetime(2026, 3, 1, 9, 30, 15, 250000, tzinfo=UTC)
SECRET = "s3cret-payload-4711"
C40, K40 = "c" * 40, "k" * 40


class Side(Enum):
    BUY = "buy"


class Reason(StrEnum):
    TIMEOUT = "timeout"


class Level(IntEnum):
    HIGH = 3


class Column(StrEnum):
    A = "seen_as_enum"
    B = "b"


class Tuple(NamedTuple):
    b: int
    a: str


class LegacySide(str, Enum):  # noqa: UP042 - the mixin that older bots use
    SELL = "sell"


class Price(Enum):
    TICK = Decimal("0.01")


class Fill(NamedTuple):
    price: float
    volume: float


@dataclasses.dataclass
class Trade:
    symbol: str
    fill: Fill
    opened_at: datetime = MOMENT


@dataclasses.dataclass
class Node:
    child: Any = None


class Model(pydantic.BaseModel):
    symbol: str
    pnl: Decimal
    side: Side = Side.BUY


class Locked(pydantic.BaseModel):
    token: pydantic.SecretStr


class Shouting(str):
    __slots__ = ()

    def __str__(self) -> str:
        return 'no "json'

    __repr__ = __str__


class Loud(float):
    def __repr__(self) -> str:
        return "oops"

    def __float__(self) -> float:
        return 4711.0


class LoudDecimal(Decimal):
    def __str__(self, eng: bool = False, context: Context | None = None) -> str:
        return "oops"


class LoudMoment(datetime):
    def isoformat(self, *args: Any, **kwargs: Any) -> str:
        return '"'


class LoudInt(int):
    def __repr__(self) -> str:
        return "oops"


class NoOffset(tzinfo):
    def utcoffset(self, moment: datetime | None) -> None:
        return None

    tzname = dst = utcoffset


class BrokenZone(NoOffset):
    def utcoffset(self, moment: datetime | None) -> None:
        raise KeyError(SECRET)


def text(value: object) -> str:
    return encode_value(value, where="trades.x")


def careful(row: object) -> Encoded:
    return encoding._Writer().row(row, "trades", ())


def is_valid(text: str) -> bool:
    connection = sqlite3.connect(":memory:")
    try:
        return bool(connection.execute("select json_valid(?)", (text,)).fetchone()[0])
    finally:
        connection.close()


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels - 1):
        value = {"x": value}
    return value


def shape(value: object) -> object:
    """Return what tells two values apart: types, order and NaN included; a set's accidental order not."""
    if isinstance(value, dict):
        return [(repr(key), shape(member)) for key, member in value.items()]
    if isinstance(value, frozenset):
        return sorted(map(repr, value))
    return [shape(member) for member in value] if type(value) is list else repr(value)


# --- Values ----------------------------------------------------------------------------------------------------

VALUES = [
    pytest.param(None, "null", id="None is null"),
    pytest.param(True, "true", id="a bool is no int"),
    pytest.param(0, "0", id="zero"),
    pytest.param(2**63, "9223372036854775808", id="an int beyond 64 bits"),
    pytest.param(1.0, "1.0", id="an integral float stays a float"),
    pytest.param(-0.0, "-0.0", id="negative zero"),
    pytest.param(0.1 + 0.2, "0.30000000000000004", id="a float keeps every digit"),
    pytest.param(1e16, "1e+16", id="a large float"),
    pytest.param(5e-324, "5e-324", id="the smallest float"),
    pytest.param("", '""', id="the empty string"),
    pytest.param("ação 😀 \u2028", '"ação 😀 \u2028"', id="real characters, no escapes"),
    pytest.param('"\\\n\x01\x7f', '"\\"\\\\\\n\\u0001\x7f"', id="quotes, backslash and controls are escaped"),
    pytest.param("\\u0000", '"\\\\u0000"', id="a written-out escape is not a NUL"),
    pytest.param([], "[]", id="the empty list"),
    pytest.param({}, "{}", id="the empty dict"),
    pytest.param((1, [2, ()]), "[1,[2,[]]]", id="tuples and lists are arrays"),
    pytest.param({"b": 1, "a": {"d": 2, "c": 3}}, '{"a":{"c":3,"d":2},"b":1}', id="keys are sorted on every level"),
    pytest.param({"é": 1, "z": 2, "😀": 3}, '{"z":2,"é":1,"😀":3}', id="keys are sorted by code point"),
    pytest.param(math.nan, '"NaN"', id="NaN"),
    pytest.param([math.inf, -math.inf], '["Infinity","-Infinity"]', id="both infinities"),
    pytest.param(Decimal("1.10"), "1.10", id="a Decimal keeps its trailing zero"),
    pytest.param(Decimal("-0"), "-0", id="a negative zero Decimal"),
    pytest.param(Decimal("1E+16"), "1E+16", id="a Decimal with an exponent"),
    pytest.param(Decimal("0E-8"), "0E-8", id="a zero Decimal with an exponent"),
    pytest.param(Decimal("0." + "1" * 60), "0." + "1" * 60, id="a Decimal beyond the context's precision"),
    pytest.param([Decimal("NaN"), Decimal("-sNaN7")], '["NaN","NaN"]', id="a Decimal NaN, quiet or signaling"),
    pytest.param([Decimal("inf"), Decimal("-inf")], '["Infinity","-Infinity"]', id="infinite Decimals"),
    pytest.param(MOMENT, '"2026-03-01T09:30:15.250000+00:00"', id="an aware datetime"),
    pytest.param(
        MOMENT.astimezone(timezone(timedelta(hours=-3))),
        '"2026-03-01T06:30:15.250000-03:00"',
        id="an aware datetime keeps its offset",
    ),
    pytest.param(date(2026, 3, 1), '"2026-03-01"', id="a date"),
    pytest.param(time(9, 30), '"09:30:00"', id="a time of day"),
    pytest.param(UUID(int=7), '"00000000-0000-0000-0000-000000000007"', id="a UUID"),
    pytest.param(PurePosixPath("/var/bot.db"), '"/var/bot.db"', id="a path"),
    pytest.param(PureWindowsPath("C:/bot.db"), '"C:\\\\bot.db"', id="a path as its own machine writes it"),
    pytest.param(Side.BUY, '"buy"', id="an Enum"),
    pytest.param([Reason.TIMEOUT, LegacySide.SELL], '["timeout","sell"]', id="string Enums, new and old"),
    pytest.param(Level.HIGH, "3", id="an IntEnum"),
    pytest.param(Price.TICK, "0.01", id="an Enum of a Decimal"),
    pytest.param({"b", "a"}, '["a","b"]', id="a set is a sorted array"),
    pytest.param(frozenset({10, 9, Side.BUY}), '["buy",10,9]', id="sets sort by their text"),
    pytest.param(Fill(1.5, 2.0), '{"price":1.5,"volume":2.0}', id="a namedtuple keeps its names"),
    pytest.param(
        Trade("EURUSD", Fill(1.5, 2.0)),
        '{"fill":{"price":1.5,"volume":2.0},"opened_at":"2026-03-01T09:30:15.250000+00:00","symbol":"EURUSD"}',
        id="a dataclass",
    ),
    pytest.param(
        Model(symbol="EURUSD", pnl=Decimal("1.50")), '{"pnl":1.50,"side":"buy","symbol":"EURUSD"}', id="a model"
    ),
    pytest.param(OrderedDict(b=1, a=2), '{"a":2,"b":1}', id="a dict subclass"),
    pytest.param(UserDict(b=1, a=2), '{"a":2,"b":1}', id="a mapping that is no dict"),
    pytest.param(types.MappingProxyType({"a": 1}), '{"a":1}', id="a read-only view of a dict"),
    pytest.param({1: "a", Level.HIGH: "b", Side.BUY: "c"}, '{"1":"a","3":"b","buy":"c"}', id="int and Enum keys"),
    pytest.param(Shouting("fine"), '"fine"', id="a str subclass that prints as something else"),
    pytest.param({Shouting("fine"): 1}, '{"fine":1}', id="a key that prints as something else"),
    pytest.param(Loud(1.5), "1.5", id="a float subclass that lies about itself"),
    pytest.param(LoudInt(5), "5", id="an int subclass that prints as something else"),
    pytest.param(LoudDecimal("1.5"), "1.5", id="a Decimal subclass that prints as something else"),
    pytest.param(
        LoudMoment(2026, 3, 1, tzinfo=UTC), '"2026-03-01T00:00:00+00:00"', id="a datetime that prints as something else"
    ),
    pytest.param([np.float64(1.5), np.float32(0.5)], "[1.5,0.5]", id="numpy floats"),
    pytest.param([np.int64(7), np.uint8(255)], "[7,255]", id="numpy ints"),
    pytest.param([np.bool_(True), np.str_("é")], '[true,"é"]', id="numpy bool and str"),
    pytest.param([np.float64("nan"), np.float32("-inf")], '["NaN","-Infinity"]', id="numpy NaN and infinity"),
    pytest.param([np.datetime64("NaT", "s"), np.timedelta64("NaT", "s")], "[null,null]", id="numpy NaT"),
    pytest.param(np.array([[1, 2], [3, 4]]), "[[1,2],[3,4]]", id="a numpy array of two dimensions"),
    pytest.param(np.array(1.5), "1.5", id="a numpy array without dimensions"),
    pytest.param(np.array([None, Side.BUY], dtype=object), '[null,"buy"]', id="a numpy array of objects"),
    pytest.param([pd.NaT, pd.NA], "[null,null]", id="pandas NaT and NA"),
    pytest.param(pd.Timestamp(MOMENT), '"2026-03-01T09:30:15.250000+00:00"', id="a pandas Timestamp"),
    pytest.param(
        pd.Timestamp("2026-03-01T00:00:00.123456789Z"),
        '"2026-03-01T00:00:00.123456789+00:00"',
        id="a pandas Timestamp keeps its nanoseconds",
    ),
]


@pytest.mark.parametrize(("value", "expected"), VALUES)
def test_a_value_has_one_text(value: object, expected: str) -> None:
    assert text(value) == expected
    assert encode_row({"x": value}, where="trades").text == f'{{"x":{expected}}}'
    assert is_valid(expected)


@pytest.mark.parametrize(("value", "expected"), VALUES)
def test_a_value_means_the_same_deep_inside_as_at_the_top(value: object, expected: str) -> None:
    assert text({"a": [value]}) == f'{{"a":[{expected}]}}'


def test_a_decimal_context_does_not_change_the_text() -> None:
    with localcontext(Context(prec=2, capitals=0)):
        assert text(Decimal("1.2345E+20")) == "1.2345E+20"


# --- Refusals --------------------------------------------------------------------------------------------------


def _generator() -> Iterator[str]:
    yield SECRET


REFUSED = [
    pytest.param(datetime(2026, 3, 1), ("time zone", ".replace(tzinfo="), id="a naive datetime"),
    pytest.param(time(9, tzinfo=NoOffset()), ("no offset",), id="a time whose zone needs a date"),
    pytest.param(datetime(2026, 3, 1, tzinfo=NoOffset()), ("time zone",), id="a zone without an offset"),
    pytest.param(datetime(2026, 3, 1, tzinfo=BrokenZone()), ("datetime", "KeyError"), id="a zone that raises"),
    pytest.param(pd.Timestamp("2026-03-01"), ("time zone",), id="a naive pandas Timestamp"),
    pytest.param(np.datetime64("2026-03-01"), ("datetime64", "time zone"), id="a numpy datetime"),
    pytest.param(np.array(["2026-03-01"], dtype="datetime64[ns]"), ("datetime64",), id="an array of them"),
    pytest.param(np.timedelta64(5, "s"), ("timedelta64",), id="a numpy timedelta"),
    pytest.param(np.longdouble("0.1"), ("longdouble",), id="a float that Python cannot hold"),
    pytest.param(np.complex64(1), ("complex64",), id="a numpy complex"),
    pytest.param(np.ma.masked_array([1], mask=[True]), ("MaskedArray", "tolist"), id="a masked array"),
    pytest.param(np.array([[1]]).view(np.recarray), ("recarray", "tolist"), id="a subclass of the numpy array"),
    pytest.param(np.zeros(1, dtype=[("a", "i4")])[0], ("void",), id="a structured numpy scalar"),
    pytest.param(SECRET.encode(), ("bytes", "base64"), id="bytes"),
    pytest.param(bytearray(SECRET.encode()), ("bytearray", "base64"), id="a bytearray"),
    pytest.param(timedelta(seconds=5), ("timedelta", "total_seconds"), id="a timedelta"),
    pytest.param(pd.Timedelta(5, "s"), ("Timedelta", "total_seconds"), id="a pandas Timedelta"),
    pytest.param(1j, ("complex", ".real"), id="a complex"),
    pytest.param(_generator(), ("generator", "list("), id="a generator"),
    pytest.param(pd.Series([SECRET]), ("Series", "to_dict"), id="a Series"),
    pytest.param(pd.DataFrame({"a": [SECRET]}), ("DataFrame", "records"), id="a DataFrame"),
    pytest.param(pydantic.SecretStr(SECRET), ("SecretStr", "get_secret_value"), id="a SecretStr"),
    pytest.param(object(), ("object", "convert it"), id="any other object"),
    pytest.param(Trade, ("type",), id="a class in place of its instance"),
    pytest.param({(SECRET,): 1}, ("key of type tuple", "str"), id="a tuple as key"),
    pytest.param({1.5: 1}, ("key of type float",), id="a float as key"),
    pytest.param({True: 1}, ("key of type bool",), id="a bool as key"),
    pytest.param({None: 1}, ("key of type NoneType",), id="None as key"),
    pytest.param(10**5000, ("digits",), id="an int of too many digits"),
    pytest.param({10**5000: 1}, ("digits",), id="a key of too many digits"),
    pytest.param(Decimal("1" * 5000), ("digits",), id="a Decimal of too many digits"),
]


@pytest.mark.parametrize(("value", "words"), REFUSED)
def test_a_refusal_names_path_and_type_and_never_the_value(value: object, words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidEntry) as caught:
        encode_row({"symbol": SECRET, "legs": [0, 0, {"price": value}]}, where="trades")
    error = caught.value
    assert error.field.startswith("trades.legs[2].price")
    assert all(word in str(error) for word in words), str(error)
    assert SECRET not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    with pytest.raises(InvalidEntry):
        text(value)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        pytest.param({"x": object()}, "trades.x", id="a column"),
        pytest.param({"x": {"y": [object()]}}, "trades.x.y[0]", id="an object, a list"),
        pytest.param({"x": {"odd key": object()}}, 'trades.x["odd key"]', id="an odd key"),
        pytest.param({"x": {'a"\n\0': object()}}, 'trades.x["a\\"\\n␀"]', id="a key that needs escaping"),
        pytest.param({"x": {"k" * 99: object()}}, f'trades.x["{K40}…"]', id="a long key is cut"),
        pytest.param({"x": {7: object()}}, 'trades.x["7"]', id="an int key"),
        pytest.param({"x": {1, b""}}, "trades.x[*]", id="a set has no order"),
        pytest.param({"x": Trade("s", object())}, "trades.x.fill", id="a dataclass"),  # type: ignore[arg-type]
        pytest.param({"x": {1: 1, "1": 1}}, 'trades.x["1"]', id="two keys that become one"),
        pytest.param({"x": {"a\0": 1, "a␀": 1}}, 'trades.x["a␀"]', id="two keys that become one by repair"),
        pytest.param({Reason.TIMEOUT: 1, Side.BUY: object()}, "trades.buy", id="an Enum as column"),
        pytest.param({"no good": 1}, 'trades["no good"]', id="a column that is no identifier"),
        pytest.param({"a.b": 1}, 'trades["a.b"]', id="a column with a point"),
        pytest.param({"a\n": 1}, 'trades["a\\n"]', id="a column with a line end"),
        pytest.param({"ação": 1}, 'trades["ação"]', id="a column beyond ASCII"),
        pytest.param({"c" * 64: 1}, f'trades["{C40}…"]', id="a column longer than Postgres keeps"),
        pytest.param({"": 1}, 'trades[""]', id="the empty column"),
        pytest.param({1: 1}, 'trades["1"]', id="a number as column"),
        pytest.param({None: 1}, "trades", id="None as column"),
        pytest.param({}, "trades", id="an empty row"),
        pytest.param(Model.model_construct(symbol=object()), "trades.symbol", id="a model"),
        pytest.param(Locked(token=pydantic.SecretStr(SECRET)), "trades.token", id="a model with a secret"),
        pytest.param([{"a": 1}], "trades", id="a list of rows"),
        pytest.param("a row", "trades", id="a string as row"),
        pytest.param(None, "trades", id="None as row"),
        pytest.param(pd.Series({"a": 1}), "trades", id="a Series as row"),
    ],
)
def test_a_refusal_says_where(row: object, field: str) -> None:
    with pytest.raises(InvalidEntry) as caught:
        encode_row(row, where="trades")
    assert caught.value.field == field
    assert "nothing was written" in str(caught.value)


def _circular_list() -> object:
    value: list[object] = []
    value.extend([value] * 10)
    return value


def _circular_dict() -> object:
    value: dict[str, object] = {"odd": Decimal(1)}
    value["x"] = value
    return value


def _circular_dataclass() -> object:
    node = Node()
    node.child = node
    return node


def _model_of_itself() -> object:
    class Endless:
        def model_dump(self) -> object:
            return self

    return Endless()


@pytest.mark.parametrize(
    "make", [_circular_list, _circular_dict, _circular_dataclass, _model_of_itself, lambda: nested(100_000)]
)
def test_what_contains_itself_or_is_too_deep_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidEntry, match="levels of nesting, or it contains itself"):
        encode_row({"x": make()}, where="trades")


def test_both_encoders_stop_at_the_same_depth() -> None:
    deepest = nested(MAX_DEPTH)
    assert careful(deepest) == encode_row(deepest, where="trades")
    for encode in (careful, lambda row: encode_row(row, where="trades")):
        with pytest.raises(InvalidEntry):
            encode(nested(MAX_DEPTH + 1))
    assert is_valid(text(nested(MAX_DEPTH)))
    with pytest.raises(InvalidEntry):
        text(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize("leaf", [pytest.param(1, id="fast road"), pytest.param(Decimal(1), id="careful road")])
def test_a_caller_deep_in_its_stack_gets_a_typed_error(leaf: object) -> None:
    row = nested(MAX_DEPTH)
    row["leaf"] = leaf

    def descend(left: int) -> None:
        encode_row(row, where="trades") if not left else descend(left - 1)

    outcomes = set()
    for left in range(600, sys.getrecursionlimit() - 20, 7):
        try:
            descend(left)
        except InvalidEntry as error:
            outcomes.add(error.field)
        except RecursionError:  # raised by descend itself
            break
    assert outcomes == {"trades"}


# --- Rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"b": 1, "a": "x"}, id="a dict"),
        pytest.param(OrderedDict(b=1, a="x"), id="an ordered dict"),
        pytest.param(ChainMap[str, object]({"a": "x"}, {"b": 1}), id="a chain of mappings"),
        pytest.param(dataclasses.make_dataclass("Row", ["b", "a"], slots=True)(1, "x"), id="a dataclass with slots"),
        pytest.param(pydantic.create_model("Row", b=(int, 1), a=(str, "x"))(), id="a pydantic model"),
        pytest.param(Tuple(1, "x"), id="a namedtuple"),
        pytest.param({Column.B: 1, "a": "x"}, id="a column named by an Enum"),
    ],
)
def test_a_row_may_come_in_many_shapes(row: object) -> None:
    assert encode_row(row, where="trades") == Encoded('{"a":"x","b":1}', ("a", "b"), ())


def test_columns_are_plain_strings_also_after_an_enum_was_seen() -> None:
    encode_row({Column.A: Decimal(1)}, where="trades")
    assert [type(name) for name in encode_row({"seen_as_enum": 1}, where="trades").columns] == [str]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(1.0, "1", id="an integral float"),
        pytest.param(-0.0, "0", id="negative zero"),
        pytest.param(1e16, "10000000000000000", id="a large float"),
        pytest.param(np.float32(2.0), "2", id="a numpy float32"),
        pytest.param(np.float64(-2.0), "-2", id="a numpy float64"),
        pytest.param(Decimal("2.0"), "2", id="an integral Decimal"),
        pytest.param(Decimal("2E+3"), "2000", id="a Decimal with an exponent"),
        pytest.param(Decimal("1" * 50 + ".00"), "1" * 50, id="a Decimal beyond the context's precision"),
        pytest.param(Decimal("1E+999999"), "1E+999999", id="a number that nobody can store is not written out"),
        pytest.param(5, "5", id="an int"),
        pytest.param(1.5, "1.5", id="a fraction is left to the server"),
        pytest.param(Decimal("1.50"), "1.50", id="a decimal fraction is left to the server"),
        pytest.param(math.nan, '"NaN"', id="NaN"),
        pytest.param("1.0", '"1.0"', id="a string is left alone"),
        pytest.param(True, "true", id="a bool is left alone"),
        pytest.param(None, "null", id="null"),
        pytest.param([1.0], "[1.0]", id="an array is left alone"),
    ],
)
def test_integral_values_of_integer_columns_become_integers(value: object, expected: str) -> None:
    encoded = encode_row({"qty": value, "price": 1.0}, where="trades", integers=("qty", "absent"))
    assert encoded.text == f'{{"price":1.0,"qty":{expected}}}'
    assert encode_row({"price": value, "qty": 1}, where="trades", integers=("qty",)).text == (
        f'{{"price":{text(value)},"qty":1}}'
    )


@pytest.mark.parametrize(
    ("row", "expected", "repaired"),
    [
        pytest.param({"comment": "a\0b"}, '{"comment":"a␀b"}', ("trades.comment",), id="NUL"),
        pytest.param({"comment": "a\ud800"}, '{"comment":"a\ufffd"}', ("trades.comment",), id="a lone surrogate"),
        pytest.param(
            {"comment": "\udc00x\ud800y"}, '{"comment":"\ufffdx\ufffdy"}', ("trades.comment",), id="two lone surrogates"
        ),
        pytest.param({"comment": "\ud83d\ude00"}, '{"comment":"😀"}', ("trades.comment",), id="a pair is joined"),
        pytest.param({"x": [1, {"y": "\0"}]}, '{"x":[1,{"y":"␀"}]}', ("trades.x[1].y",), id="deep inside"),
        pytest.param({"x": {"a\0": 1}}, '{"x":{"a␀":1}}', ('trades.x["a␀"]',), id="a nested key"),
        pytest.param({"x": {"\ud800": "\0"}}, '{"x":{"\ufffd":"␀"}}', ('trades.x["\ufffd"]',), id="key and value"),
        pytest.param({"x": {"\0", "\0\0"}}, '{"x":["␀","␀␀"]}', ("trades.x[*]",), id="in a set"),
        pytest.param({"x": Shouting("\0")}, '{"x":"␀"}', ("trades.x",), id="a str subclass"),
        pytest.param({"b": "\0", "a": "\0"}, '{"a":"␀","b":"␀"}', ("trades.a", "trades.b"), id="in sorted order"),
        pytest.param({"path": Path(os.fsdecode(b"\xff"))}, '{"path":"\ufffd"}', ("trades.path",), id="a path")
        if sys.platform == "linux"
        else pytest.param({"path": ""}, '{"path":""}', (), id="no such path here"),
    ],
)
def test_what_postgres_cannot_store_is_repaired_visibly(row: object, expected: str, repaired: tuple[str, ...]) -> None:
    encoded = encode_row(row, where="trades")
    assert (encoded.text, encoded.repaired) == (expected, repaired)
    encoded.text.encode()
    "".join(encoded.repaired).encode()


def test_a_dataclass_with_an_unset_field_is_refused() -> None:
    @dataclasses.dataclass
    class Half:
        late: int = dataclasses.field(init=False)

    with pytest.raises(InvalidEntry, match="reading this Half raised AttributeError"):
        encode_row(Half(), where="trades")


def test_a_model_whose_fields_have_the_wrong_type_logs_no_warning() -> None:
    # pydantic's warning would quote the value; warnings are errors in these tests.
    assert encode_row(Model.model_construct(symbol=SECRET, pnl=SECRET), where="trades").columns == (
        "pnl",
        "side",
        "symbol",
    )


@pytest.mark.parametrize("name", ["a", "_", "trade_id", "T1", "c" * 63])
def test_an_identifier_is_returned(name: str) -> None:
    assert identifier(name, field="destination") == name


def test_an_identifier_is_a_plain_str() -> None:
    plain = identifier(Shouting("trades"), field="destination")
    assert (type(plain), plain) == (str, "trades")


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "a\n", "é", "c" * 64, 'a"', "public.trades", None, 1, b"a"])
def test_no_identifier_is_refused(name: object) -> None:
    with pytest.raises(InvalidEntry) as caught:
        identifier(name, field="destination")
    assert caught.value.field == "destination"


# --- Properties ------------------------------------------------------------------------------------------------

COLUMNS = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,12}\Z")
PLAIN_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
ANY_TEXT = st.text(st.characters(), max_size=20) | st.text(st.sampled_from("\0\ud800\udc00a\\u0"), max_size=8)


def _deep(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
    )


PLAIN_ROWS = st.dictionaries(COLUMNS, _deep(PLAIN_SCALARS | TEXTS, TEXTS), min_size=1, max_size=8)
ODD_LEAVES = (
    PLAIN_SCALARS
    | ANY_TEXT
    | st.floats()
    | st.decimals(allow_nan=True, allow_infinity=True)
    | st.datetimes(timezones=st.timezones())
    | st.dates()
    | st.times()
    | st.uuids()
    | st.sampled_from([Side.BUY, Reason.TIMEOUT, Level.HIGH, Price.TICK, Fill(1.0, math.nan), pd.NaT, np.float32(0.1)])
    | st.frozensets(st.integers() | st.decimals(allow_nan=False) | TEXTS, max_size=3)
)
ODD_ROWS = st.dictionaries(COLUMNS, _deep(ODD_LEAVES, ANY_TEXT | st.integers()), min_size=1, max_size=8)


@pytest.mark.slow
@given(PLAIN_ROWS)
def test_both_encoders_write_the_same_text(row: dict[str, object]) -> None:
    assert encoding._fast(row, row.values(), 1) is not None or "\\u0000" in careful(row).text
    assert encode_row(row, where="trades") == careful(row)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.lists(st.fixed_dictionaries({"b": SCALARS, "a_1": SCALARS, "C": SCALARS}), min_size=1, max_size=8))
def test_rows_written_in_one_go_have_the_texts_of_each(rows: list[dict[str, object]]) -> None:
    alone = [encode_row(row, where="trades", integers=("b",)) for row in rows]
    alike = encode_alike(rows, integers=("b",))
    if alike is not None:
        assert alike == (alone[0].columns, [each.text for each in alone])
        assert not any(each.repaired for each in alone)


PLAIN = {"b": 'it says "x" \x1f', "a": 1.5, "c": None}


@pytest.mark.parametrize(
    ("other", "in_one_go"),
    [
        pytest.param(PLAIN, True, id="plain"),
        pytest.param({"b": "é", "a": -(2**80), "c": True}, True, id="other scalars"),
        pytest.param(PLAIN | {"b": "\0"}, False, id="NUL"),
        pytest.param(PLAIN | {"b": "\ud800"}, False, id="surrogate"),
        pytest.param(PLAIN | {"a": math.nan}, False, id="no number"),
        pytest.param(PLAIN | {"a": 10**5000}, False, id="too many digits"),
        pytest.param(PLAIN | {"a": Reason.TIMEOUT}, False, id="enum"),
        pytest.param(PLAIN | {"a": [1]}, False, id="container"),
        pytest.param(PLAIN | {"c": 1.0}, False, id="float in an integer column"),
        pytest.param(PLAIN | {"d": 1}, False, id="another column"),
        pytest.param({Column.B: 1, "a": 1.5, "c": None}, False, id="a key that is an enum"),
        pytest.param({}, False, id="no column"),
        pytest.param([("a", 1)], False, id="no mapping"),
    ],
)
def test_only_plain_rows_of_the_same_columns_are_written_in_one_go(other: object, in_one_go: bool) -> None:
    assert (encode_alike([PLAIN, other], integers=("c",)) is not None) is in_one_go


@pytest.mark.slow
@given(PLAIN_ROWS)
def test_a_plain_row_reads_back_as_it_was(row: dict[str, object]) -> None:
    encoded = encode_row(row, where="trades")
    back = json.loads(encoded.text)
    assert back == row
    assert repr(back) == repr({name: back[name] for name in sorted(row)})
    assert encoded.columns == tuple(sorted(row))
    assert encoded.repaired == ()
    assert encode_row(back, where="trades") == encoded


@pytest.mark.slow
@given(ODD_ROWS, st.randoms(use_true_random=False))
def test_every_text_is_valid_canonical_json_and_the_row_stays_as_it_was(row: dict[str, Any], random: Any) -> None:
    before = copy.deepcopy(row)
    try:
        encoded = encode_row(row, where="trades", integers=tuple(row)[:2])
    except InvalidEntry as error:
        assert "two keys" in str(error)
        return
    assert shape(row) == shape(before)
    assert is_valid(encoded.text)
    assert "\0" not in encoded.text
    assert "\\u0000" not in encoded.text.replace("\\\\", "")
    encoded.text.encode()
    assert tuple(json.loads(encoded.text, parse_constant=pytest.fail)) == encoded.columns
    shuffled = list(row.items())
    random.shuffle(shuffled)
    assert encode_row(dict(shuffled), where="trades", integers=tuple(row)[:2]) == encoded


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_keeps_its_exact_digits(number: Decimal) -> None:
    back = json.loads(text(number), parse_float=Decimal, parse_int=Decimal)
    assert back.as_tuple() == number.as_tuple()


@given(st.recursive(st.integers() | st.floats(), lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_an_array_of_numpy_reads_like_its_lists(value: object) -> None:
    try:
        array = np.array(value, dtype=float)
    except (ValueError, OverflowError):  # ragged, or an int that no float holds
        return
    assert text(array) == text(array.tolist())


# --- The floor -------------------------------------------------------------------------------------------------


def test_the_module_loads_no_other_library() -> None:
    # The package's own __init__ loads more; an empty package of that name stands in for it.
    program = f"""
import sys, types
package = types.ModuleType("outbox")
package.__path__ = [{str(ROOT / "outbox")!r}]
sys.modules["outbox"] = package
import outbox.encoding
assert outbox.encoding.encode_row({{"a": 1.5}}, where="t").text == '{{"a":1.5}}'
assert outbox.encoding.encode_value(set(), where="t") == "[]"
print(*sorted({{name.partition(".")[0] for name in sys.modules}} - sys.stdlib_module_names))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True, timeout=200
    )
    assert not {"numpy", "pandas", "pydantic", "httpx", "aiosqlite", "tenacity"} & set(done.stdout.split())
