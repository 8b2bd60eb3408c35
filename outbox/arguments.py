"""The typed arguments of an operator's request, here or through the inbox."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from outbox.errors import InvalidRequest


class Arguments(BaseModel):
    """What a request holds. An unknown field is refused: ignoring a newer version's selector would widen it."""

    # Built with the first request: most bots never get one, and all would pay for it at their import.
    model_config: ClassVar[ConfigDict] = ConfigDict(
        strict=True, extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True
    )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return `values` as arguments. Raises InvalidRequest, which names the field."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_input=False, include_context=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "arguments"
            raise InvalidRequest(_SAID.get(first["type"], str(first["msg"])), field=field) from None

    def but(self, **changes: Any) -> Self:
        """Return a copy with `changes` applied."""
        return self.model_copy(update=changes)

    def as_json(self) -> dict[str, Any]:
        """Return what `of` reads."""
        return self.model_dump(exclude_defaults=True)


_SAID = {
    "extra_forbidden": "is unknown to this version",
    "string_pattern_mismatch": "is not the name of a table",
    "missing": "is missing",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "list_type": "must be a sequence of strings",
}


def unix_ms(time: datetime | None, field: str) -> int | None:
    """Return Unix milliseconds. Raises InvalidRequest: not a datetime, or one without a time zone."""
    if time is None:
        return None
    if not isinstance(time, datetime) or time.tzinfo is None:
        raise InvalidRequest("must be a datetime with a time zone, such as datetime(…, tzinfo=UTC)", field=field)
    return int(time.timestamp() * 1000)
