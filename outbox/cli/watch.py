"""`outbox status --watch`: repeats the status, with rates."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from outbox.cli import format as formatting
from outbox.cli.common import json_line, quiet_pipe
from outbox.cli.status import Rates, Status, as_json, rendered
from outbox.errors import StoreError
from outbox.snapshot import Health

# A rate is taken over so many looks: over one look it would jump.
_WINDOW = 10


@dataclass(slots=True)
class Speed:
    """Turns counters into rates. `take` each look's status, with the monotonic second at which it was taken."""

    _taken: deque[tuple[float, int, int, int]] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def take(self, status: Status, at_s: float) -> Rates | None:
        """Return the rates over the last looks; None: this is the first."""
        put = sum(sum(states.values()) for states in status.file.destinations.values())
        # Pruned entries were delivered, except for the few that were discarded.
        delivered = status.file.total("delivered") + status.file.total("pruned")
        self._taken.append((at_s, put, delivered, status.file.total("pending")))
        first_s, first_put, first_delivered, first_pending = self._taken[0]
        passed_s = at_s - first_s
        if passed_s <= 0:
            return None
        shrinks = (first_pending - status.file.total("pending")) / passed_s
        left_s = status.file.total("pending") / shrinks if shrinks > 0 else None
        return Rates((put - first_put) / passed_s, (delivered - first_delivered) / passed_s, left_s)


def watch(read: Callable[[], Status], every_s: float, *, as_object: bool) -> Health:
    """Show what `read` finds until Ctrl-C; return the last health. Raises StoreError: it cannot be read.

    On a terminal only the first look may raise: a restarting bot or a missing disk may come back.
    """
    looks = _Looks(read)
    console = formatting.console()
    try:
        if as_object or not console.is_terminal:
            _in_lines(looks, console, every_s, as_object=as_object)
        else:
            _on_the_screen(looks, console, every_s)
    except KeyboardInterrupt:
        if not as_object and console.is_terminal:
            console.print(rendered(looks.found, looks.rates))  # the live screen is gone; this stays
    return looks.found.health


class _Looks:
    """The last look, and the rates up to it."""

    def __init__(self, read: Callable[[], Status]) -> None:
        self._read = read
        self._speed = Speed()
        self.again()

    def again(self) -> None:
        self.found = self._read()
        self.rates = self._speed.take(self.found, time.monotonic())


def _in_lines(looks: _Looks, console: Console, every_s: float, *, as_object: bool) -> None:
    with quiet_pipe():
        while True:
            _print(console, looks, as_object=as_object)
            time.sleep(every_s)
            looks.again()


def _on_the_screen(looks: _Looks, console: Console, every_s: float) -> None:
    trouble = None
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_screen(looks, every_s, trouble), refresh=True)
            time.sleep(every_s)
            try:
                looks.again()
                trouble = None
            except StoreError as error:
                trouble = str(error)


def _screen(looks: _Looks, every_s: float, trouble: str | None) -> Group:
    # At the top: a small terminal cuts off the end.
    head = [Text(f"{formatting.moment(looks.found.now_ms)}, every {every_s:g} s; Ctrl-C stops it", style="dim")]
    if trouble is not None:
        head.append(Text(f"cannot be read now: {formatting.quoted(trouble)}", style="red"))
    return Group(*head, rendered(looks.found, looks.rates))


def _print(console: Console, looks: _Looks, *, as_object: bool) -> None:
    if as_object:
        none = {"put_per_s": None, "delivered_per_s": None, "empty_in_s": None}
        rates = none if looks.rates is None else looks.rates.as_json()
        facts = as_json(looks.found) | {"at": formatting.moment(looks.found.now_ms), **rates}
        sys.stdout.write(json_line(facts))
    else:
        console.print(rendered(looks.found, looks.rates))
        console.print()
        if console.quiet:
            raise BrokenPipeError
    sys.stdout.flush()
