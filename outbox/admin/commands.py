"""What an operator may ask for, from the bot's own code, a command, or the inbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from outbox.admin import dead_letters, edit as editing, puts as putting, resend as resending
from outbox.admin.command_server import Action
from outbox.admin.puts import Put
from outbox.admin.resend import ResendReport
from outbox.arguments import Arguments
from outbox.clock import Clock
from outbox.destinations import Destinations
from outbox.errors import InvalidRequest
from outbox.store import maintenance, meta
from outbox.store.selection import Handled, Outcome, Selection, checked_reason
from outbox.store.store import Store

# An answer is read by a person or a script; the counts are always of all.
LISTED = 5000


class Renaming(Arguments):
    """names: of columns, the new one by the old one. destination: None: in every table's entries."""

    names: dict[str, str] = Field(min_length=1)
    destination: str | None = None
    force: bool = False


class Commands:
    """Carries out requests on an open store.

    sending: whether entries may be on their way at this moment. at_rest: within it none is, and none starts.
    salvage: brings over what can be read of a damaged file; without it nothing may ask for that.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        sending: Callable[[], bool] = lambda: False,
        at_rest: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
        salvage: Callable[[Path], Awaitable[dict[str, Any]]] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._sending = sending
        self._at_rest = at_rest
        self._salvage = salvage

    async def requeue(self, which: Selection, *, force: bool) -> list[Handled]:
        """Revive the dead entries that `which` means. Errors as `Store.transact`: what was done before stays done."""
        return await dead_letters.requeue(
            self._store.transact, which.checked(), now_ms=self._clock.now_ms(), force=force, sending=self._sending
        )

    async def discard(self, which: Selection, *, reason: object) -> list[Handled]:
        """Give them up, of the ids those too that are pending. Raises InvalidRequest: no reason."""
        checked, now_ms = checked_reason(reason), self._clock.now_ms()
        dead = which.checked().but(pending=False)
        handled = await dead_letters.discard(self._store.transact, dead, now_ms=now_ms, reason=checked)
        waits = {(each.id, each.destination) for each in handled if each.outcome is Outcome.IS_PENDING}
        if not waits:
            return handled
        of_those = which.but(ids=[its_id for its_id, _ in waits], pending=True)
        async with self._at_rest():
            again = await dead_letters.discard(self._store.transact, of_those, now_ms=now_ms, reason=checked)
        rest = [each for each in handled if (each.id, each.destination) not in waits]
        return rest + [each for each in again if (each.id, each.destination) in waits]

    async def edit(
        self, its_id: str, destination: str | None, payload: str, *, was: str | None, force: bool
    ) -> list[Handled]:
        """Give a dead or pending entry another payload. Raises InvalidEntry, InvalidRequest: it stays as it is."""
        change = partial(
            editing.edit, self._store.transact, its_id, destination, payload,
            was=was, now_ms=self._clock.now_ms(), force=force,
        )  # fmt: skip
        handled = await change(sending=self._sending)
        if handled[0].outcome is Outcome.IS_PENDING:
            async with self._at_rest():
                return await change(pending=True)
        return handled

    async def rename(self, names: Mapping[str, str], destination: str | None, *, force: bool) -> list[Handled]:
        """Rename columns in all entries that are not settled, in those for `destination` alone if it is named."""
        async with self._at_rest():
            return await editing.rename(
                self._store.transact, names, destination, now_ms=self._clock.now_ms(), force=force
            )

    async def prune(self, before_ms: int) -> int:
        """Remove what was delivered or discarded before a Unix time in milliseconds; return how many entries.

        Then gives the room back to the disk.
        """
        pruned = await maintenance.prune(self._store, before_ms)
        await maintenance.shrink(self._store)
        return pruned

    async def acknowledge(self) -> dict[str, Any]:
        """Forget a loss that somebody knows of now."""
        return {"acknowledged": await meta.acknowledge_loss(self._store)}

    async def resend(self, which: Selection, *, dry_run: bool) -> ResendReport:
        """Make delivered entries pending again; all, if none is chosen. dry_run: only count. Errors as `requeue`."""
        return await resending.resend(self._store, which, now_ms=self._clock.now_ms(), dry_run=dry_run)

    async def adopt(self) -> dict[str, Any]:
        """Where no bot runs: let entries go to the project that answers next. was: the one that they belonged to."""
        return {"was": await meta.forget_project(self._store)}

    def actions(
        self,
        destinations: Destinations,
        reload: Callable[[], Awaitable[None]],
        adopt: Callable[[], Awaitable[str | None]],
    ) -> Mapping[str, Action]:
        """Return what requests in the inbox may ask for. reload, adopt: what only the whole outbox can do."""

        async def requeue(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
            which, force = _split(arguments, "force")
            return report(await self.requeue(which, force=force))

        async def discard(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
            rest = {name: value for name, value in arguments.items() if name != "reason"}
            return report(await self.discard(Selection.of(rest), reason=arguments.get("reason")))

        async def again(_: Mapping[str, Any]) -> Mapping[str, Any]:
            await reload()
            return {}

        async def adopted(_: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"was": await adopt()}

        async def edit(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
            return report(await self.edit(**_edit_arguments(arguments)))

        async def prune(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
            before_ms = arguments.get("before_ms")
            if not isinstance(before_ms, int) or isinstance(before_ms, bool):
                raise InvalidRequest("must be a whole number", field="before_ms")
            return {"pruned": await self.prune(before_ms)}

        async def put(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
            return await putting.put(self._store, destinations, Put.of(arguments))

        return {
            "requeue": requeue, "discard": discard, "reload": again, "edit": edit, "prune": prune, "put": put,
            "rename": self._renamed, "resend": self._sent_again, "salvage": self._bring_over,
            "acknowledge": self._acknowledged, "adopt": adopted,
        }  # fmt: skip

    async def _bring_over(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        if not isinstance(arguments.get("file"), str):
            raise InvalidRequest("must be the name of a file", field="file")
        assert self._salvage is not None
        return await self._salvage(Path(arguments["file"]))

    async def _sent_again(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        which, dry_run = _split(arguments, "dry_run")
        return (await self.resend(which, dry_run=dry_run)).as_json()

    async def _renamed(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        asked = Renaming.of(arguments)
        return report(await self.rename(asked.names, asked.destination, force=asked.force))

    async def _acknowledged(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self.acknowledge()


def report(handled: Sequence[Handled]) -> dict[str, Any]:
    """Return an answer for machines: how many had which outcome, and each one's, what was not done first."""
    listed = sorted(handled, key=lambda each: each.outcome.done)[:LISTED]
    return {
        "outcomes": dead_letters.summary(handled),
        "done": sum(each.outcome.done for each in handled),
        "entries": [{"id": each.id, "destination": each.destination, "outcome": each.outcome.value} for each in listed],
        "left_out": len(handled) - len(listed),
    }


def _edit_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Commands.edit` that a request holds. Raises InvalidRequest."""
    kinds = {"its_id": str, "destination": str | None, "payload": str, "was": str | None, "force": bool}
    for name in sorted({*kinds, *arguments}):
        if name not in kinds:
            raise InvalidRequest("is unknown to this version", field=name)
        if not isinstance(arguments.get(name), kinds[name]):
            raise InvalidRequest("is missing or of another type", field=name)
    return {name: arguments.get(name) for name in kinds}


def _split(arguments: Mapping[str, Any], name: str) -> tuple[Selection, bool]:
    """Return the selection in `arguments`, and the one switch that is none of it; it is off unless it is there."""
    switch = arguments.get(name, False)
    if not isinstance(switch, bool):
        raise InvalidRequest("must be true or false", field=name)
    return Selection.of({key: value for key, value in arguments.items() if key != name}), switch
