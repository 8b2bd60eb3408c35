"""Every error of the tree travels: to another process, into a copy, with its message and its facts."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from outbox import Settings, errors
from outbox.errors import ConfigError, OutboxError, StoreError
from tests.secrets import MARK

PATH = Path("bot.db")
# A value for each argument that some error takes.
GIVEN: dict[str, Any] = {
    "message": "it cannot be", "path": PATH, "field": "trades.price", "id": "t-1", "destination": "trades", "pid": 17,
    "since": "2026-01-02T10:00:00Z", "waited_s": 5.0, "ids": ["t-1", "t-2"], "limit": 10, "file": "0001_tables.sql",
    "code": "23514", "status": 400, "session_id": "s-1", "here": True, "ended": True,
    "what": "was removed or moved", "kept": PATH, "stored": True, "goes_on": False,
}  # fmt: skip


def family(kind: type[OutboxError]) -> Iterator[type[OutboxError]]:
    """Yield `kind` and everything below it in this library's own tree."""
    if kind.__module__ == errors.__name__:
        yield kind
        for child in kind.__subclasses__():
            yield from family(child)


def made(kind: type[OutboxError]) -> OutboxError:
    """Return an error with every argument that its class takes."""
    if not inspect.isfunction(kind.__init__):  # Exception's own
        return kind(GIVEN["message"])
    return kind(**{name: GIVEN[name] for name in inspect.signature(kind).parameters})


def told(error: BaseException) -> tuple[Any, ...]:
    return type(error), str(error), error.args, vars(error)


WAYS: list[Any] = [
    pytest.param(copy.copy, id="copied"),
    pytest.param(copy.deepcopy, id="copied deeply"),
    *(
        pytest.param(lambda error, way=way: pickle.loads(pickle.dumps(error, way)), id=f"pickled by protocol {way}")
        for way in range(pickle.HIGHEST_PROTOCOL + 1)
    ),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", list(family(OutboxError)), ids=lambda kind: kind.__name__)
def test_an_error_is_the_same_afterwards(kind: type[OutboxError], way: Callable[[OutboxError], OutboxError]) -> None:
    error = made(kind)
    error.add_note("while the bot was ending")

    again = way(error)

    assert again is not error
    assert told(again) == told(error)
    assert again.__notes__ == ["while the bot was ending"]


def test_the_tree_at_the_top_of_the_module_names_them_all() -> None:
    drawn = errors.__doc__ or ""
    assert [kind.__name__ for kind in family(OutboxError) if kind.__name__ not in drawn] == []


def test_control_as_python_does_it_an_error_with_facts_of_its_own_cannot_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(OutboxError, "__reduce__")
    packed = pickle.dumps(made(StoreError))
    with pytest.raises(TypeError, match="path"):
        pickle.loads(packed)


def test_a_key_does_not_travel_with_an_error() -> None:
    key = f"{MARK.decode()}canary_0123456789"
    with pytest.raises(ConfigError) as caught:
        Settings(path=PATH, supabase_url="http://far.example", supabase_key=key, _env_file=None)
    refused = caught.value
    caused = made(StoreError)
    caused.__cause__ = ValueError(key)  # a foreign error may say anything: it stays behind

    for error in (refused, caused):
        packed = pickle.dumps(error)
        assert key.encode() not in packed
        assert told(pickle.loads(packed)) == told(error)
    assert key.encode() in pickle.dumps(caused.__cause__)
