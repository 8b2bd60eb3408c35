"""What can be read of a broken file: cut at each place, spoilt at any, and never more than was there."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings, strategies as st

from outbox.legacy import fragments
from outbox.legacy.fragments import (
    BEHIND,
    BROKEN,
    CUT_SHORT,
    EMPTY,
    NOT_ONE,
    Piece,
    Place,
    Window,
    members,
    pieces,
)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
items = st.fixed_dictionaries(
    {"table": st.just("trades"), "data": st.dictionaries(st.text(max_size=4), values, max_size=3)}
)
lists = st.lists(items, max_size=4)


def wanted(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("table"), str) and isinstance(value.get("data"), dict)


def all_of(text: str, block: int = 1 << 16) -> list[Piece]:
    """The pieces of a text that comes in blocks."""
    return list(pieces(Window(text[start : start + block] for start in range(0, len(text), block)), wanted))


def read(text: str) -> list[Any]:
    return [piece.value for piece in all_of(text) if piece.value is not None]


def problems(text: str) -> list[tuple[str, str]]:
    """What could not be read, and why."""
    return [
        (text[piece.start.character : piece.end.character], piece.problem)
        for piece in all_of(text)
        if piece.value is None
    ]


# Each example is read again for each of its bytes.
@settings(max_examples=40, deadline=None)
@given(lists, st.sampled_from([None, 2]), st.booleans())
def test_of_a_file_that_is_cut_at_any_byte_every_whole_item_is_read_and_no_other(
    whole: list[Any], indent: int | None, ascii_only: bool
) -> None:
    raw = json.dumps(whole, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    text = raw.decode("utf-8", "surrogateescape")
    ends = [piece.end.character for piece in all_of(text) if piece.value is not None]
    assert read(text) == whole
    for cut in range(len(raw) + 1):
        part = raw[:cut].decode("utf-8", "surrogateescape")
        complete = sum(end <= len(part) for end in ends if text.startswith(part[:end]))
        assert read(part) == whole[:complete]
        assert cut in (0, len(raw)) or problems(part), "a file that ends early must say so"


@settings(deadline=None)
@given(lists, st.data())
def test_a_file_that_is_spoilt_anywhere_costs_only_what_was_spoilt(whole: list[Any], data: st.DataObject) -> None:
    text = json.dumps(whole, indent=2)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 8, len(text))))
    spoilt = text[:start] + "\0" * max(1, end - start) + text[end:]
    spans = [piece for piece in all_of(text) if piece.value is not None]
    untouched = [piece.value for piece in spans if not (piece.start[0] < end + 1 and start < piece.end[0])]

    found = read(spoilt)

    assert [each for each in untouched if each not in found] == []


@settings(deadline=None)
@given(st.text() | lists.map(json.dumps).flatmap(lambda text: st.permutations(list(text)).map("".join)))
def test_nothing_is_read_twice_or_made_up_whatever_the_text_is(text: str) -> None:
    found = all_of(text)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    for piece in found:
        if piece.value is not None:
            assert wanted(piece.value)
            assert repr(json.loads(text[piece.start.character : piece.end.character])) == repr(piece.value)
    covered = {position for piece in found for position in range(piece.start.character, piece.end.character)}
    assert all(text[position] in ", []\ufeff" or text[position].isspace() for position in {*range(len(text))} - covered)


spoilt = lists.map(lambda whole: json.dumps(whole, indent=1, ensure_ascii=False)).flatmap(
    lambda text: st.tuples(
        st.just(text), st.integers(0, len(text)), st.sampled_from(["", "\0", '"', "{", "]", "\n ", "\\"])
    )
)


@settings(deadline=None)
@given(
    st.text() | spoilt.map(lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + 1 :]), st.integers(1, 9)
)
def test_a_text_that_comes_bit_by_bit_reads_as_it_does_at_once(text: str, block: int) -> None:
    whole = all_of(text)
    assert all_of(text, block) == whole
    for place in (place for piece in whole for place in (piece.start, piece.end)):
        before = text[: place.character]
        assert place == (len(before), len(before.encode()), before.count("\n") + 1)


A, B = '{"table": "a", "data": {"n": 1}}', '{"table": "b", "data": {"n": 2}}'


@pytest.mark.parametrize(
    ("text", "tables", "left"),
    [
        pytest.param(f"[{A}, {B}]", ["a", "b"], [], id="whole"),
        pytest.param(f"\ufeff [ {A} ,\n{B} ]\n", ["a", "b"], [], id="with a byte order mark"),
        pytest.param("", [], [("", EMPTY)], id="empty"),
        pytest.param("[]", [], [], id="an empty list"),
        pytest.param(f"{A}", ["a"], [], id="no list, one item"),
        pytest.param(f"[{A}", ["a"], [("", CUT_SHORT)], id="cut behind an item"),
        pytest.param(f"[{A}, {B[:-3]}", ["a"], [(B[:-3], BROKEN), ("", CUT_SHORT)], id="cut inside an item"),
        pytest.param(f"[{A[:-9]}, {B}]", ["b"], [(f"{A[:-9]}, ", BROKEN)], id="one broken, the next one whole"),
        pytest.param(f"[{A}]{B}]", ["a"], [(f"{B}]", BEHIND)], id="an older version's end behind it"),
        pytest.param(f"[{A}, 7, {B}]", ["a", "b"], [("7", NOT_ONE)], id="a number among them"),
        pytest.param(f'[{{"table": "a"}}, {B}]', ["b"], [('{"table": "a"}', NOT_ONE)], id="an item without data"),
        pytest.param("\0" * 20, [], [("\0" * 20, BROKEN)], id="zeros"),
        pytest.param("null", [], [("null", BROKEN)], id="a word that may have been cut"),
        pytest.param(
            f'[{{"table": "a", "data": {{"inner": {B}, [{A}]', ["a"], None, id="an item in a list of a broken one"
        ),
        pytest.param(f"[{'{' * 3000}, {B}]", ["b"], None, id="brackets"),
        pytest.param('[{"a":' + "[" * 200_000, [], None, id="deep"),
        pytest.param(f'[{{"n": {"9" * 5000}}}, {B}]', ["b"], None, id="more digits than Python reads"),
    ],
)
def test_what_is_read_and_what_is_left(text: str, tables: list[str], left: list[tuple[str, str]] | None) -> None:
    assert [value["table"] for value in read(text)] == tables
    if left is not None:
        assert problems(text) == left


class Counted(str):
    """Notes whenever somebody counts its lines, which costs as much as it is long."""

    __slots__ = ()
    times: ClassVar[int] = 0

    def count(self, *arguments: Any) -> int:
        Counted.times += 1
        return str.count(self, *arguments)


def test_a_broken_item_does_not_cost_the_length_of_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "times", 0)
    text = Counted("[" + ", ".join([A, A[:-5]] * 20) + "]")
    assert len(read(text)) == 20
    assert Counted.times == 0
    with pytest.raises(ValueError, match="delimiter"):  # the control: a decoder of its own counts at each error
        json.JSONDecoder().raw_decode(text, len(A) + 3)
    assert Counted.times == 1


class Watched(Window):
    """Counts the characters that it copies, and how many it has at most."""

    def __init__(self, text: str) -> None:
        super().__init__(text[start : start + 1000] for start in range(0, len(text), 1000))
        self.copied = self.most = 0

    def grow(self) -> bool:
        more = super().grow()
        self._count(more)
        return more

    def drop(self, position: int) -> int:
        before = self.text
        position = super().drop(position)
        self._count(self.text is not before)
        return position

    def _count(self, changed: bool) -> None:
        self.copied += len(self.text) * changed
        self.most = max(self.most, len(self.text))


GOOD = f"[{', '.join([A] * 10_000)}]"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(GOOD, id="good"),
        pytest.param(GOOD.replace('"data"', "data"), id="each item broken"),
        pytest.param("[" + "\0" * len(GOOD), id="zeros"),
        pytest.param(f"[{A}]{GOOD}", id="two files in one"),
        pytest.param("[{" + GOOD, id="one item broken, the others whole"),
        pytest.param("[" + ", ".join(["{"] * 100_000), id="brackets"),
    ],
)
def test_a_large_text_is_read_in_a_small_window_and_copied_a_few_times(text: str) -> None:
    window = Watched(text)
    sum(1 for _ in pieces(window, wanted))
    assert window.most < 10_000
    assert window.copied < 4 * len(text)


def test_a_window_that_does_not_move_holds_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(Window, "drop", lambda self, position: position)
    window = Watched(GOOD)
    assert sum(1 for _ in pieces(window, wanted)) == 10_000
    assert window.most == len(GOOD)


def decoded(text: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many characters the decoder has gone through."""
    total = 0
    plain = fragments._one

    def counted(part: str, position: int) -> Any:
        nonlocal total
        found, cut = plain(part, position)
        total += (len(part) if cut else found[1] if found else position) - position
        return found, cut

    with monkeypatch.context() as patch:
        patch.setattr(fragments, "_one", counted)
        sum(1 for _ in pieces(Watched(text), wanted))
    return total


def test_brackets_that_are_never_closed_do_not_cost_the_length_of_the_whole_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nested = '[{"x":[' * 50
    monkeypatch.setattr(fragments, "LONGEST", 2000)
    little, much = (decoded(nested + GOOD[: len(GOOD) // part], monkeypatch) for part in (10, 1))
    assert much < little + 2 * len(GOOD)
    monkeypatch.setattr(fragments, "LONGEST", 1 << 30)  # the control: each of them reads to the end
    assert decoded(nested + GOOD, monkeypatch) > 20 * len(GOOD)


# ------------------------------------------------------------------------------------------ one object


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=5), values, max_size=5), st.sampled_from([None, 2]))
def test_of_an_object_that_is_cut_anywhere_every_whole_member_is_read(
    whole: dict[str, Any], indent: int | None
) -> None:
    text = json.dumps(whole, indent=indent)
    assert members(text) == (whole, len(text))
    for cut in range(len(text)):
        found, end = members(text[:cut])
        assert list(whole.items())[: len(found)] == list(found.items())
        assert end <= cut


def test_a_number_that_may_have_been_cut_is_not_read() -> None:
    assert members('{"session_id": "ab", "initial_balance": 100')[0] == {"session_id": "ab"}
    assert members('{"session_id": "ab", "initial_balance": 100,')[0] == {"session_id": "ab", "initial_balance": 100}
    assert members("no object")[0] == members("")[0] == members('{"a')[0] == members("{'a': 1}")[0] == {}


def test_a_piece_says_what_it_is() -> None:
    assert all_of(A) == [Piece(Place(0, 0, 1), Place(len(A), len(A), 1), {"table": "a", "data": {"n": 1}})]
