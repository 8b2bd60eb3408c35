"""Price bars as a pandas DataFrame, column by column: a million of them are never a million dicts."""

from __future__ import annotations

from typing import Any

from outbox.errors import UsageError
from outbox.threads import in_thread

# Of one step: some 15 ms of a thread, and small beside what it makes.
_BARS = 10_000


class Framed:
    """Gathers bars. Raises UsageError: there is no pandas."""

    def __init__(self) -> None:
        try:
            import pandas  # type: ignore[import-untyped]
        except ImportError:
            problem = "as_frame needs pandas: python3 -m pip install pandas; nothing was read"
            raise UsageError(problem) from None
        self._pandas: Any = pandas
        self._bars: list[dict[str, Any]] = []
        self._frames: list[Any] = []

    async def add(self, page: list[dict[str, Any]]) -> None:
        """Add a page of bars."""
        self._bars += page
        if len(self._bars) >= _BARS:
            await self._pack()

    async def all(self, *, newest_first: bool) -> Any:
        """Return all of them, oldest first; newest_first: so they came."""
        await self._pack()
        return await in_thread(self._whole, newest_first)

    async def _pack(self) -> None:
        bars, self._bars = self._bars, []
        if bars:
            self._frames.append(await in_thread(self._pandas.DataFrame, bars))

    def _whole(self, newest_first: bool) -> Any:
        names = dict.fromkeys(name for frame in self._frames for name in frame)
        whole = self._pandas.DataFrame({name: self._column(name) for name in names})
        return whole.iloc[::-1].reset_index(drop=True) if newest_first else whole

    def _column(self, name: str) -> Any:
        """Join one column, and let its parts go: what is all null or missing in one frame takes the others' kind."""
        parts = [frame.pop(name) if name in frame else self._pandas.Series(index=frame.index) for frame in self._frames]
        empty = [bool(part.isna().all()) for part in parts]
        if not all(empty):
            parts = [part.astype("float64") if void else part for part, void in zip(parts, empty, strict=True)]
        return self._pandas.concat(parts, ignore_index=True)
