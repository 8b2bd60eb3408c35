"""Reports an outbox's figures to a monitor, through OpenTelemetry's API. Needs the extra `otel`.

    from outbox.metrics import instrument

    instrument(outbox)      # to the global MeterProvider, however the bot has configured it

`outbox.metrics.prometheus.serve` is for a bot that has none. docs/monitoring.md says what each figure means.

    figures     every figure: its name, kind, unit and meaning, and where it is read
    prometheus  the figures as a page for Prometheus (extra `prometheus`)
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial

try:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter_provider
except ModuleNotFoundError as _missing:
    hint = "outbox.metrics needs the extra `otel` of durable-outbox: python3 -m pip install opentelemetry-api"
    raise ModuleNotFoundError(hint, name=_missing.name) from _missing

from outbox import __version__, logs
from outbox.errors import OutboxError
from outbox.metrics.figures import DURATION, FIGURES, Figure, Kind, Watched
from outbox.operating import Monitor
from outbox.outbox import Outbox

__all__ = ["instrument"]

logger: logs.Logger = logs.named("outbox.metrics")

# From a fast disk's sync to the longest wait for a locked file, OUTBOX_BUSY_TIMEOUT_S.
_BOUNDARIES_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def instrument(outbox: Outbox, meter_provider: MeterProvider | None = None, *, name: str | None = None) -> None:
    """Report the figures of `outbox` to `meter_provider` (else the global one) until it is closed. Idempotent.

    Figures are read when they are collected, in the collector's thread, from one snapshot. A put costs some 25 µs
    more, nearly all of it the SDK's.

    Args:
        outbox: An open outbox.
        meter_provider: Who receives the figures; the global one unless given.
        name: What distinguishes several outboxes, the attribute `outbox.name`; OUTBOX_SOURCE unless given, or the
            file's whole path if another outbox of the provider has that name.
    """
    names = (name, outbox.source, outbox.path.name)
    _instruments_of(meter_provider or get_meter_provider()).watch(outbox, next(each for each in names if each))


class _Instruments:
    """The instruments of one provider: created once, since a second one with the same name would not be collected."""

    def __init__(self, meter: Meter) -> None:
        self._watched: list[Watched] = []
        self._duration = meter.create_histogram(
            DURATION.name,
            unit=DURATION.unit,
            description=DURATION.says,
            explicit_bucket_boundaries_advisory=_BOUNDARIES_S,
        )
        create: dict[Kind, Callable[..., object]] = {
            Kind.COUNTER: meter.create_observable_counter,
            Kind.UP_DOWN: meter.create_observable_up_down_counter,
            Kind.GAUGE: meter.create_observable_gauge,
        }
        for figure in FIGURES:
            if figure.read is not None:
                callbacks = [partial(self._observe, figure)]
                create[figure.kind](figure.name, callbacks, unit=figure.unit, description=figure.says)

    def watch(self, outbox: Outbox, name: str) -> None:
        self._watched = [each for each in self._watched if not each.outbox.over]
        if any(each.outbox.watches(outbox) for each in self._watched):
            return
        if any(each.name == name for each in self._watched):
            name = str(outbox.path)
        watched = Watched(name, Monitor(outbox))
        self._watched.append(watched)
        watched.outbox.watch_puts(partial(self._time_put, watched))

    def _observe(self, figure: Figure, _options: CallbackOptions) -> Iterator[Observation]:
        assert figure.read is not None
        for watched in list(self._watched):
            if watched.outbox.over:
                continue
            watched.begin(figure.name)
            try:
                found = list(figure.read(watched))
            except OutboxError as error:  # the others are still reported
                logger.warning("metric cannot be read", extra={"figure": figure.name, "error": str(error)})
                continue
            for value, attributes in found:
                yield Observation(value, {"outbox.name": watched.name, **attributes})

    def _time_put(self, watched: Watched, destination: str, done: asyncio.Future[object]) -> None:
        started_s = watched.outbox.clock.monotonic_s()

        def over(future: asyncio.Future[object]) -> None:
            if future.cancelled():  # the caller is gone; nobody waited that long
                return
            attributes = {"outbox.name": watched.name, "outbox.destination": destination}
            if (error := future.exception()) is not None:
                attributes["error.type"] = type(error).__name__
            self._duration.record(watched.outbox.clock.monotonic_s() - started_s, attributes)

        # Not the future's own method: put_nowait's future would take this for a caller that looks at its failure.
        asyncio.Future.add_done_callback(done, over)


_made: weakref.WeakKeyDictionary[MeterProvider, _Instruments] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def _instruments_of(provider: MeterProvider) -> _Instruments:
    with _making:
        if provider not in _made:
            _made[provider] = _Instruments(provider.get_meter("outbox", __version__))
        return _made[provider]
