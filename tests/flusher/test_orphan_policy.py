"""When an orphan is given up: three conditions, and each of them alone holds it back."""

from __future__ import annotations

import pytest

from outbox.flusher.orphans import gives_up

DAY_MS = 86_400_000
ENOUGH = {"refusals": 10, "since_ms": 0, "now_ms": DAY_MS, "earlier_pending": False}


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        pytest.param({}, True, id="refused often, long, and nobody is left"),
        pytest.param({"refusals": 9}, False, id="not often enough"),
        pytest.param({"now_ms": DAY_MS - 1}, False, id="not long enough"),
        pytest.param({"since_ms": None}, False, id="refused for the first time"),
        pytest.param({"earlier_pending": True}, False, id="its parent may still come"),
        pytest.param({"now_ms": -DAY_MS}, False, id="the clock was set back"),
    ],
)
def test_an_orphan_is_given_up(change: dict[str, int | bool | None], gone: bool) -> None:
    assert gives_up(**{**ENOUGH, **change}, limit=10, after_s=86_400.0) is gone  # type: ignore[arg-type]
