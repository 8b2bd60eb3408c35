"""Every public name of the old module is here, with the same arguments in the same order and the same defaults."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import outbox

MIGRATING = Path(__file__).parents[2] / "docs" / "migrating.md"
NEEDED = inspect.Parameter.empty

TRADE = (
    "symbol", "direction", "intensity", "action", "volume", "entry_price", "exit_price", "pnl", "pnl_pips", "hmm_state",
)  # fmt: skip

# class, method, its arguments with their defaults. What was not a coroutine may have become one.
NAMES: list[tuple[str, str, dict[str, Any]]] = [
    ("SupabaseClient", "log_trade", {"trade_data": NEEDED}),
    ("SupabaseClient", "log_event", {"event_type": NEEDED, "data": None, "session_id": ""}),
    ("SupabaseClient", "get_trades", {"session_id": None, "is_paper": None, "symbol": None, "limit": 100}),
    ("SupabaseClient", "retry_pending", {}),
    ("SupabaseClient", "execute", {"table": NEEDED, "data": NEEDED, "operation": "insert"}),
    ("SupabaseClient", "query", {"table": NEEDED, "select": "*", "filters": None, "order": None, "limit": None}),
    ("TradeLogger", "log_trade", dict.fromkeys(TRADE, NEEDED) | {"commission": 0, "comment": "", "is_paper": False}),
    ("TradeLogger", "log_real_trade", {"trade_data": NEEDED}),
    ("TradeLogger", "log_paper_trade", {"paper_trade": NEEDED}),
    ("SessionManager", "start_session", {"initial_balance": NEEDED, "symbols": NEEDED}),
    ("SessionManager", "end_session", {"stats": NEEDED, "reason": "NORMAL"}),
    # The old default, 0, overwrote the balance of a caller who did not give one.
    ("SessionManager", "update_heartbeat", {"balance": None}),
    ("SessionManager", "check_day_boundary", {}),
    ("LocalStorage", "cache_bars", {"symbol": NEEDED, "bars": NEEDED}),
    ("LocalStorage", "load_cached_bars", {"symbol": NEEDED}),
    ("LocalStorage", "save_pending", {"data": NEEDED}),
    ("LocalStorage", "load_pending", {}),
    ("LocalStorage", "clear_pending", {}),
]
PROPERTIES = [
    *[("SupabaseClient", name) for name in ("pending_count", "enabled", "url")],
    *[("SessionManager", name) for name in ("session_id", "start_time", "day_start", "is_recovered")],
]
REASONS = ["NORMAL", "EMERGENCY", "DAY_CHANGE", "RECOVERED", "MANUAL", "UNKNOWN"]


@pytest.mark.parametrize(("kind", "method", "arguments"), NAMES, ids=[f"{kind}.{name}" for kind, name, _ in NAMES])
def test_a_method_has_the_old_arguments(kind: str, method: str, arguments: dict[str, Any]) -> None:
    function = getattr(getattr(outbox, kind), method)
    found = list(inspect.signature(function).parameters.values())[1:]

    assert [parameter.name for parameter in found[: len(arguments)]] == list(arguments)
    defaults = [getattr(parameter.default, "value", parameter.default) for parameter in found[: len(arguments)]]
    assert defaults == list(arguments.values())
    for parameter in found[: len(arguments)]:  # what is optional in a call of thirteen arguments is given by name
        by_name = (kind, method) == ("TradeLogger", "log_trade") and parameter.name in (
            "commission",
            "comment",
            "is_paper",
        )
        assert parameter.kind is (parameter.KEYWORD_ONLY if by_name else parameter.POSITIONAL_OR_KEYWORD)
    for parameter in found[len(arguments) :]:
        assert parameter.default is not NEEDED, f"a caller of the old module does not give {parameter.name}"


@pytest.mark.parametrize(("kind", "name"), PROPERTIES)
def test_a_property_is_still_read_without_a_call(kind: str, name: str) -> None:
    assert isinstance(getattr(getattr(outbox, kind), name), property)


def test_the_reasons_of_an_end_are_the_old_ones() -> None:
    assert [(reason.name, reason.value) for reason in outbox.SessionEndReason] == [(name, name) for name in REASONS]


@pytest.mark.parametrize("name", [*(method for _, method, _ in NAMES), *(name for _, name in PROPERTIES)])
def test_migrating_speaks_of_every_name(name: str) -> None:
    assert f"`{name}" in MIGRATING.read_text(encoding="utf-8") or f".{name}" in MIGRATING.read_text(encoding="utf-8")
