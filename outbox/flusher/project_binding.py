"""The project that the file's entries belong to: learned from the first answer about a row."""

from __future__ import annotations

from outbox import logs
from outbox.postgrest.client import Transport, project_of
from outbox.postgrest.project import is_foreign
from outbox.store import meta
from outbox.store.store import Store

logger = logs.named("outbox.flusher")


class Home:
    """What `outbox_meta` calls project, kept in memory. belongs_to: None as long as no project has answered."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.belongs_to: str | None = None

    async def load(self) -> None:
        """Read what an earlier process has learned, or what a salvage has brought."""
        self.belongs_to = await self._store.project()

    def is_foreign(self, transport: Transport | None) -> bool:
        """Return whether `transport` leads to another project."""
        return transport is not None and is_foreign(self.belongs_to, project_of(transport))

    async def learn(self, transport: Transport) -> None:
        """Remember the project behind `transport`, which has answered for a row, if none is remembered yet."""
        project = project_of(transport)
        if self.belongs_to is None and project is not None:
            # A salvage may have brought another one, a moment ago.
            self.belongs_to = await meta.remember_project(self._store, project)
            logger.info("project remembered", extra={"project": self.belongs_to})

    async def forget(self) -> str | None:
        """Belong to whichever project answers next; return which one it was."""
        was = await meta.forget_project(self._store)
        self.belongs_to = None
        return was
