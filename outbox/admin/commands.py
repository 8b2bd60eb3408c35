"""What an operator may ask for, from the bot's own code, a command, or the inbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any, Literal

from pydantic import Field

from outbox.admin import dead_letters, edit as editing, resend as resending
from outbox.admin.inbox import Action
from outbox.admin.resend import ResendReport
from outbox.admin.revision import json_object
from outbox.clock import Clock
from outbox.entry import SharedOptions
from outbox.errors import InvalidRequest
from outbox.puts import Destinations
from outbox.store import maintenance
from outbox.store.selection import Arguments, Handled, Outcome, Selection, checked_reason
from outbox.store.store import Store

# A person or a script reads the answer; the counts always cover all entries.
LISTED = 5000


class Renaming(Arguments):
    """names: the new column names by the old ones. destination: None: every table's entries."""

    names: dict[str, str] = Field(min_length=1)
    destination: str | None = None
    force: bool = False


class Edit(Arguments):
    """A new payload for an entry. was: the fingerprint of the one that the editor saw."""

    its_id: str
    destination: str | None = None
    payload: str
    was: str | None = None
    force: bool


class Prune(Arguments):
    """before_ms: Unix milliseconds."""

    before_ms: int


class Salvage(Arguments):
    """file: the damaged one."""

    file: str


class Put(Arguments):
    """Rows for one destination, all or none. ids: one for each row whose key column is empty; the rest as `put_many`.

    rows, match: JSON objects as texts: between here and the bot a number must not lose digits. The requester mints the
    ids: a request that is carried out twice stores its rows once.
    """

    destination: str
    rows: list[str]
    ids: list[str] | None = None
    operation: Literal["insert", "upsert", "update"] | None = None
    key: str | None = None
    on_conflict: list[str] | None = None
    match: str | None = None
    if_exists: Literal["keep"] | None = None


class Commands:
    """Carries out requests on an open store.

    sending: whether entries may be on their way at this moment. at_rest: a context in which none is, and none starts.
    destinations: what a put needs; without them it must not be asked for.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        sending: Callable[[], bool] = lambda: False,
        at_rest: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
        destinations: Destinations | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._sending = sending
        self._at_rest = at_rest
        self._destinations = destinations

    async def requeue(self, which: Selection, *, force: bool, dry_run: bool = False) -> list[Handled]:
        """Revive the dead entries that `which` means. Errors as `Store.transact`: what was done before stays done."""
        return await dead_letters.requeue(
            self._store.transact, which.checked(),
            now_ms=self._clock.now_ms(), force=force, dry_run=dry_run, sending=self._sending,
        )  # fmt: skip

    async def discard(self, which: Selection, *, reason: object, dry_run: bool = False) -> list[Handled]:
        """Discard dead entries, and pending ones if named by id. Raises InvalidRequest: no reason."""
        checked, now_ms = checked_reason(reason), self._clock.now_ms()
        dead = which.checked().but(pending=False)
        discard = partial(dead_letters.discard, self._store.transact, now_ms=now_ms, reason=checked, dry_run=dry_run)
        handled = await discard(dead)
        waits = {(each.id, each.destination) for each in handled if each.outcome is Outcome.IS_PENDING}
        if not waits:
            return handled
        of_those = which.but(ids=[its_id for its_id, _ in waits], pending=True)
        async with self._at_rest():
            again = await discard(of_those)
        rest = [each for each in handled if (each.id, each.destination) not in waits]
        return rest + [each for each in again if (each.id, each.destination) in waits]

    async def resend(self, which: Selection, *, dry_run: bool) -> ResendReport:
        """Make delivered entries pending again; all of them unless chosen. dry_run: only count. Errors as `requeue`."""
        return await resending.resend(self._store, which, now_ms=self._clock.now_ms(), dry_run=dry_run)

    # ------------------------------------------------------------------------------------------ requests by name

    @property
    def actions(self) -> dict[str, Action]:
        """The actions on offer, here or through the running bot; each takes its arguments as a request has them."""
        return {
            "requeue": self._requeue, "discard": self._discard, "resend": self._resend, "edit": self._edit,
            "rename": self._rename, "prune": self._prune, "acknowledge": self._acknowledge, "adopt": self._adopt,
            "put": self._put,
        }  # fmt: skip

    async def _requeue(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        which, force = _split(arguments, "force")
        return report(await self.requeue(which, force=force))

    async def _discard(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        rest = {name: value for name, value in arguments.items() if name != "reason"}
        return report(await self.discard(Selection.of(rest), reason=arguments.get("reason")))

    async def _resend(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        which, dry_run = _split(arguments, "dry_run")
        return (await self.resend(which, dry_run=dry_run)).as_json()

    async def _edit(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give a dead or pending entry another payload. Raises InvalidEntry, InvalidRequest: it stays as it is."""
        asked = Edit.of(arguments)
        change = partial(
            editing.edit, self._store.transact, asked.its_id, asked.destination, asked.payload,
            was=asked.was, now_ms=self._clock.now_ms(), force=asked.force,
        )  # fmt: skip
        handled = await change(sending=self._sending)
        if handled[0].outcome is Outcome.IS_PENDING:
            async with self._at_rest():
                handled = await change(pending=True)
        return report(handled)

    async def _rename(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Rename columns in all unsettled entries, or only in those for one destination if it is named."""
        asked = Renaming.of(arguments)
        async with self._at_rest():
            handled = await editing.rename(
                self._store.transact, asked.names, asked.destination, now_ms=self._clock.now_ms(), force=asked.force
            )
        return report(handled)

    async def _prune(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Remove entries settled before a time, then return the space to the disk."""
        pruned = await maintenance.prune(self._store, Prune.of(arguments).before_ms)
        await maintenance.shrink(self._store)
        return {"pruned": pruned}

    async def _acknowledge(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        """Forget a loss that the operator has acknowledged."""
        return {"acknowledged": await self._store.acknowledge_loss()}

    async def _adopt(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        """If no bot runs: let entries go to the project that answers next. was: the project that they belonged to."""
        return {"was": await self._store.forget_project()}

    async def _put(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Store rows in one commit, from a shell, cron or another language. Raises what `Outbox.put_many` raises."""
        asked = Put.of(arguments)
        rows = [json_object(row, "row") for row in asked.rows]
        match = None if asked.match is None else json_object(asked.match, "match")
        assert self._destinations is not None
        key = self._destinations.destination(asked.destination).key
        ids: list[str | None] | None = None
        if asked.ids is not None:
            if len(asked.ids) != len(rows):
                raise InvalidRequest(f"{len(asked.ids)} ids for {len(rows)} rows", field="ids")
            ids = [None if row.get(key) is not None else each for row, each in zip(rows, asked.ids, strict=True)]
        options: SharedOptions = {
            "operation": asked.operation, "key": asked.key, "on_conflict": asked.on_conflict, "match": match,
            "if_exists": asked.if_exists,
        }  # fmt: skip
        receipts = await self._store.put_many(self._destinations.entries(asked.destination, rows, ids, options))
        return {
            "put": len(receipts),
            "duplicates": sum(receipt.duplicate for receipt in receipts),
            "ids": [receipt.id for receipt in receipts],
        }


def report(handled: Sequence[Handled]) -> dict[str, Any]:
    """Return an answer for machines: how many had which outcome, and each entry's; those not done come first."""
    listed = sorted(handled, key=lambda each: each.outcome.done)[:LISTED]
    return {
        "outcomes": dead_letters.summary(handled),
        "done": sum(each.outcome.done for each in handled),
        "entries": [{"id": each.id, "destination": each.destination, "outcome": each.outcome.value} for each in listed],
        "left_out": len(handled) - len(listed),
    }


def _split(arguments: Mapping[str, Any], name: str) -> tuple[Selection, bool]:
    """Return the selection in `arguments`, and the switch `name`, which is not part of it and off by default."""
    switch = arguments.get(name, False)
    if not isinstance(switch, bool):
        raise InvalidRequest("must be true or false", field=name)
    return Selection.of({key: value for key, value in arguments.items() if key != name}), switch
