"""What every query says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    """purpose: why it is asked. uses: the indexes its plan must name. bound: how many rows it touches at most."""

    purpose: str
    sql: str
    uses: tuple[str, ...]
    bound: str
