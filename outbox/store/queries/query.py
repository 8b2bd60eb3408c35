"""What every query says of itself."""

from __future__ import annotations

from typing import NamedTuple


class Query(NamedTuple):
    """purpose: why it is asked. uses: the indexes its plan must name. bound: how many rows it touches at most."""

    purpose: str
    sql: str
    uses: tuple[str, ...]
    bound: str
