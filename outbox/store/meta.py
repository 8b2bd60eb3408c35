"""What the file says of itself, in `outbox_meta`: its project, its source, its order, what was lost."""

from __future__ import annotations

import aiosqlite

from outbox.postgrest.verdicts import Reason
from outbox.settings import Settings
from outbox.store import queries
from outbox.store.store import Store


async def keep_strict_order(store: Store, strict: bool | None) -> bool:
    """Let a dead entry hold back what comes after it in its line, or not; entries already in line follow suit.

    None: as the file was last told. Returns what holds from here on.
    """
    told = await store.strict_order()
    if strict is None or told == strict:
        return told

    async def work(connection: aiosqlite.Connection) -> None:
        await connection.execute(queries.STATE_FACT.sql, ("strict_order", str(int(strict))))
        await connection.execute(queries.FREEZE.sql if strict else queries.THAW.sql)

    await store.transact(work)
    return strict


async def remember_project(store: Store, project: str) -> str:
    """Note which project the entries belong to, if that is not known yet; return which one they belong to."""

    async def work(connection: aiosqlite.Connection) -> str:
        await connection.execute(queries.STATE_FIRST.sql, ("project", project))
        rows = await connection.execute_fetchall(queries.FACT.sql, ("project",))
        return str(next(iter(rows))[0])

    return await store.transact(work)


async def forget_project(store: Store) -> str | None:
    """Let the entries belong to no project; return which one it was."""
    was = await store.project()

    async def work(connection: aiosqlite.Connection) -> None:
        await connection.execute(queries.FORGET_FACT.sql, ("project",))
        await connection.execute(queries.END_PAUSES_FOR.sql, (Reason.OTHER_PROJECT.value,))

    await store.transact(work)
    return was


async def keep_source(store: Store, settings: Settings) -> str | None:
    """Return which bot this is, and record it in the file.

    As it is set, else as the file was first told, so that a container's new host name is no new bot; else by the names
    of the file and of this host.
    """
    kept = await store.fact("source")
    source = settings.source if kept is None or "source" in settings.model_fields_set else kept
    if source is not None and source != kept:
        await store.transact(lambda connection: connection.execute(queries.STATE_FACT.sql, ("source", source)))
    return source


async def acknowledge_loss(store: Store) -> bool:
    """Forget a loss that an operator has acknowledged, and return whether there was one."""

    async def work(connection: aiosqlite.Connection) -> bool:
        return bool((await connection.execute(queries.FORGET_FACT.sql, ("loss",))).rowcount)

    return await store.transact(work)
