"""Typed rows for those who want them; `put` takes them as it takes plain dicts.

await outbox.put("trades", Trade(session_id="s-1", timestamp=now, symbol="EURUSD", pnl=Decimal("1.25")))

A wrong type or a misspelt name is refused when the object is made; the error names the field but not its value.
A field that nobody set is not sent: an insert leaves it to the table's default, an upsert leaves it alone.
Columns of your own: subclass the model.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from outbox.errors import InvalidEntry


def _plain(value: Any) -> Any:
    """Return a numpy number as a Python one, which the strict types below require."""
    if isinstance(value, bool | int | float | Decimal):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


Integer = Annotated[int, BeforeValidator(_plain)]
Id = Annotated[UUID, Field(strict=False)]  # a receipt's id is a text
Number = Annotated[float | Decimal, BeforeValidator(_plain)]


class Row(BaseModel):
    """The base of the three. Raises InvalidEntry where pydantic would raise its own error."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _refusal(type(self), error) from None  # the original may quote a value

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Return the row that a mapping describes.

        Raises:
            InvalidEntry: A field cannot be used; the error names it.
        """
        # pydantic would wrap the error that __init__ raises in its own.
        return cls(**obj) if isinstance(obj, Mapping) else super().model_validate(obj, **options)

    @model_serializer(mode="wrap")
    def _only_what_was_set(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        row: dict[str, Any] = serialize(self)
        return {name: value for name, value in row.items() if value is not None or name in self.model_fields_set}


class Trade(Row):
    """A row of `trades`.

    Attributes:
        id: The idempotency key; minted by `put` unless set.
        trade_id: The bot's own name for it.
    """

    id: Id | None = None
    session_id: str
    trade_id: str | None = None
    timestamp: AwareDatetime
    symbol: str
    direction: Integer | None = None
    intensity: Integer | None = None
    action: str | None = None
    volume: Number | None = None
    entry_price: Number | None = None
    exit_price: Number | None = None
    pnl: Number | None = None
    pnl_pips: Number | None = None
    commission: Number | None = None
    hmm_state: Integer | None = None
    is_paper: bool | None = None
    comment: str | None = None
    extra: dict[str, Any] | None = None


class Event(Row):
    """A row of `events`.

    Attributes:
        data: A JSON object.
    """

    id: Id | None = None
    session_id: str | None = None
    timestamp: AwareDatetime
    event_type: str
    data: dict[str, Any] = {}  # pydantic copies it for each instance


class Session(Row):
    """A row of `sessions`.

    Attributes:
        version: Grows with each put of the session, so that a late one never reverts it.
    """

    id: Id | None = None
    session_id: str
    start_time: AwareDatetime
    end_time: AwareDatetime | None = None
    initial_balance: Number | None = None
    final_balance: Number | None = None
    total_trades: Integer | None = None
    total_pnl: Number | None = None
    symbols: list[str] | None = None
    status: str | None = None
    end_reason: str | None = None
    extra: dict[str, Any] | None = None
    version: Integer | None = None


def _refusal(kind: type[Row], error: ValidationError) -> InvalidEntry:
    first = error.errors(include_input=False, include_context=False, include_url=False)[0]
    path = ".".join(str(part) for part in (kind.__name__, *first["loc"][:1]))
    return InvalidEntry(str(first["msg"]), field=path)
