"""Floor 4 · operations. What an operator may ask for, from the bot's own code, a command, or the inbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from outbox.clock import Clock
from outbox.errors import InvalidRequest
from outbox.store import operators
from outbox.store.desk import Action
from outbox.store.operators import Filter, Handled
from outbox.store.store import Store

# An answer is read by a person or a script; the counts are always of all.
_LISTED = 5000


class Operations:
    """Carries out requests on an open store. sending: whether entries may be on their way at this moment."""

    def __init__(self, store: Store, *, clock: Clock, sending: Callable[[], bool] = lambda: False) -> None:
        self._store = store
        self._clock = clock
        self._sending = sending

    async def requeue(self, which: Filter, *, force: bool) -> list[Handled]:
        """Revive the dead entries that `which` means. Errors as `Store.transact`: what was done before stays done."""
        return await operators.requeue(
            self._store.transact, which, now_ms=self._clock.now_ms(), force=force, sending=self._sending
        )

    async def discard(self, which: Filter, *, reason: object) -> list[Handled]:
        """Give them up. Raises InvalidRequest: no reason."""
        checked = operators.checked_reason(reason)
        return await operators.discard(self._store.transact, which, now_ms=self._clock.now_ms(), reason=checked)

    def actions(self, reload: Callable[[], Awaitable[None]]) -> Mapping[str, Action]:
        """Return what requests in the inbox may ask for."""

        async def requeue(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
            which, force = _split(arguments, "force", False)
            if not isinstance(force, bool):
                raise InvalidRequest("must be true or false", field="force")
            return report(await self.requeue(which, force=force))

        async def discard(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
            which, reason = _split(arguments, "reason", None)
            return report(await self.discard(which, reason=reason))

        async def again(_: Mapping[str, Any]) -> Mapping[str, Any]:
            await reload()
            return {}

        return {"requeue": requeue, "discard": discard, "reload": again}


def selection(
    ids: Sequence[str] | None, destination: str | None, code: str | None, *, everything: bool = False
) -> Filter:
    """Return the filter that a caller's arguments mean. Raises InvalidRequest."""
    if isinstance(ids, str):
        raise InvalidRequest("must be a sequence of ids, not one text", field="ids")
    return Filter(None if ids is None else tuple(ids), destination, code, everything)


def report(handled: Sequence[Handled]) -> dict[str, Any]:
    """Return an answer for machines: how many had which outcome, and each one's, what was not done first."""
    listed = sorted(handled, key=lambda each: each.outcome.done)[:_LISTED]
    return {
        "outcomes": operators.summary(handled),
        "done": sum(each.outcome.done for each in handled),
        "entries": [{"id": each.id, "destination": each.destination, "outcome": each.outcome.value} for each in listed],
        "left_out": len(handled) - len(listed),
    }


def _split(arguments: Mapping[str, Any], name: str, default: Any) -> tuple[Filter, Any]:
    """Return the filter in `arguments`, and the one argument that is none of it."""
    return Filter.of({key: value for key, value in arguments.items() if key != name}), arguments.get(name, default)
