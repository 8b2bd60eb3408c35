"""Floor 0 · logs. How this library's log lines read: a fixed phrase, then its facts.

Every line is a fixed phrase to search and to alert on; what it is about stands in the record's `extra`, which the
common `logging.Formatter` leaves out. docs/logs.md lists them all.

    handler = logging.StreamHandler()
    handler.setFormatter(FactsFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
"""

from __future__ import annotations

import json
import logging

# What every record has, whatever was given as `extra`.
_COMMON = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FactsFormatter(logging.Formatter):
    """`logging.Formatter`, with what was given as `extra` behind the message: `entry refused id=… code=23514`."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Return the line; a value with spaces or signs is written as JSON."""
        facts = [f"{name}={_text(value)}" for name, value in vars(record).items() if name not in _COMMON]
        return " ".join([super().formatMessage(record), *facts])


def _text(value: object) -> str:
    text = str(value)
    plain = (
        not isinstance(value, (list, tuple, dict)) and text and not any(sign.isspace() or sign in '"=' for sign in text)
    )
    return text if plain else json.dumps(value, ensure_ascii=False, default=str)
