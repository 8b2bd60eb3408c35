"""How a background task does, for `stats()`, the lock's sidecar and `outbox status`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from outbox import logs

logger: logs.Logger = logs.named("outbox")


@dataclass(slots=True)
class TaskState:
    """A background task in `stats()`. failures: how many errors it survived; last_error: the last of them.

    tell: called at each change, for outside observers.
    """

    name: str
    running: bool = True
    failures: int = 0
    last_error: str | None = None
    tell: Callable[[TaskState], None] = field(default=lambda _: None, repr=False, compare=False)

    def failed(self, error: BaseException, repeating: logs.Repeating) -> None:
        """Count and log an error that the task survives."""
        self.failures += 1
        self.last_error = f"{type(error).__name__}: {error}"
        self.tell(self)
        if (news := repeating.news(self.name, self.last_error)) is not None:
            facts = {"task": self.name, "error": self.last_error, **news}
            logger.error("background task failed and continues", exc_info=error, extra=facts)
