"""Floor 7 · cli. `outbox status --watch`: the same again and again, with how fast it moves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from outbox.cli import text
from outbox.cli.common import print_json, quiet_pipe
from outbox.cli.status import Health, Rates, Status, as_json, rendered
from outbox.errors import StoreError

# Over so many looks a rate is taken: one look's would jump.
_WINDOW = 10


@dataclass(slots=True)
class Speed:
    """Turns counters into rates. `take` a look's, with the monotonic second at which it was taken."""

    _taken: deque[tuple[float, int, int, int]] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def take(self, status: Status, at_s: float) -> Rates | None:
        """Return the rates over the last looks; None: this is the first."""
        put = sum(sum(states.values()) for states in status.destinations.values())
        # Pruned ones were delivered, but for the few that were given up.
        delivered = status.total("delivered") + status.total("pruned")
        self._taken.append((at_s, put, delivered, status.total("pending")))
        first_s, first_put, first_delivered, first_pending = self._taken[0]
        passed_s = at_s - first_s
        if passed_s <= 0:
            return None
        shrinks = (first_pending - status.total("pending")) / passed_s
        left_s = status.total("pending") / shrinks if shrinks > 0 else None
        return Rates((put - first_put) / passed_s, (delivered - first_delivered) / passed_s, left_s)


def watch(read: Callable[[], Status], every_s: float, *, as_object: bool) -> Health:
    """Show what `read` finds until Ctrl-C; return the last health. Raises StoreError: the first look fails."""
    speed, found = Speed(), read()
    rates = speed.take(found, time.monotonic())
    console = text.console()
    try:
        if as_object or not console.is_terminal:
            with quiet_pipe():
                while True:
                    _print(console, found, rates, as_object=as_object)
                    time.sleep(every_s)
                    found = read()
                    rates = speed.take(found, time.monotonic())
        with Live(console=console, screen=True, auto_refresh=False) as live:
            live.update(_screen(found, rates, every_s, None), refresh=True)
            while True:
                time.sleep(every_s)
                trouble = None
                try:
                    found = read()
                    rates = speed.take(found, time.monotonic())
                except StoreError as error:  # a bot that restarts, a disk that is away: it may come back
                    trouble = str(error)
                live.update(_screen(found, rates, every_s, trouble), refresh=True)
    except KeyboardInterrupt:
        if not as_object and console.is_terminal:
            console.print(rendered(found, rates))  # the screen has gone; this stays
    return found.health


def _screen(found: Status, rates: Rates | None, every_s: float, trouble: str | None) -> Group:
    # At the top: what a small terminal cuts off is the end.
    head = [Text(f"{text.moment(found.now_ms)}, every {every_s:g} s; Ctrl-C ends it", style="dim")]
    if trouble is not None:
        head.append(Text(f"cannot be read now: {text.quoted(trouble)}", style="red"))
    return Group(*head, rendered(found, rates))


def _print(console: Console, found: Status, rates: Rates | None, *, as_object: bool) -> None:
    if as_object:
        facts: dict[str, Any] = as_json(found)
        per_s = {"put_per_s": None, "delivered_per_s": None, "empty_in_s": None} if rates is None else rates.as_json()
        print_json(facts | {"at": text.moment(found.now_ms), **per_s})
    else:
        console.print(rendered(found, rates))
        console.print()
    console.file.flush()
