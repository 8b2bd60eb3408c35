"""The row that everything is measured with: a trade of 16 fields, its prices from real hourly EURUSD bars."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

BARS = Path(__file__).resolve().parent.parent / "data" / "eurusd_h1.csv"


def trades(count: int) -> list[dict[str, Any]]:
    """Return `count` trades, each about 350 bytes as JSON; every bar is bought and sold at the next one."""
    with BARS.open(encoding="utf-8", newline="") as file:
        bars = list(csv.DictReader(file))
    return [_trade(number, bars[number % len(bars)], bars[(number + 1) % len(bars)]) for number in range(count)]


def _trade(number: int, bar: dict[str, str], following: dict[str, str]) -> dict[str, Any]:
    entry, leaving = float(bar["close"]), float(following["close"])
    direction = 1 if number % 2 else -1
    pips = direction * (leaving - entry) * 10_000
    return {
        "session_id": "EURUSD_H1_2024-03-18_090000",
        "trade_id": f"T{number:09d}",
        "timestamp": bar["time_utc"].replace(" ", "T") + "+00:00",
        "symbol": "EURUSD",
        "direction": direction,
        "intensity": number % 5,
        "action": "BUY" if direction > 0 else "SELL",
        "volume": 0.25,
        "entry_price": entry,
        "exit_price": leaving,
        "pnl": pips * 2.5,
        "pnl_pips": pips,
        "commission": 1.75,
        "hmm_state": number % 3,
        "is_paper": False,
        "comment": "moving averages crossed",
    }
