"""The flusher steps back for puts, never for long, and never for a bot that rests between them."""

from __future__ import annotations

import pytest

from outbox.flusher.backoff import LONGEST_THROTTLE_S, throttle_s


@pytest.mark.parametrize(
    ("putting", "put", "sent", "since_s", "waits_s"),
    [
        pytest.param(True, 0, 500, 0.0, LONGEST_THROTTLE_S, id="puts follow one another"),
        pytest.param(True, 999, 500, 0.1, 0.4, id="not two for each row yet"),
        pytest.param(True, 1000, 500, 0.1, 0.0, id="two for each row"),
        pytest.param(True, 0, 500, 0.5, 0.0, id="long enough, whatever they do"),
        pytest.param(True, 0, 500, 7.0, 0.0, id="much longer"),
        pytest.param(False, 0, 500, 0.0, 0.0, id="nobody puts"),
        pytest.param(True, 0, 0, float("inf"), 0.0, id="the first request"),
    ],
)
def test_a_request_waits_as_long_as_puts_go_first(
    putting: bool, put: int, sent: int, since_s: float, waits_s: float
) -> None:
    assert throttle_s(putting=putting, put=put, sent=sent, since_s=since_s) == pytest.approx(waits_s)
