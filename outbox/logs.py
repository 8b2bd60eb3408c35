"""How this library's log lines read: a fixed phrase, then its facts.

Each line is a fixed phrase (`record.msg`), to search and to alert on; what it is about stands in the record's `extra`.
The common `logging.Formatter` leaves an `extra` out, and whoever reads the log at night needs it: so the facts also
stand behind the phrase, whatever formatter is used. docs/logs.md lists all lines.
"""

from __future__ import annotations

import json
import logging

# What every record has, whatever was given as `extra`.
_COMMON = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def named(name: str) -> logging.Logger:
    """Return the logger `name`, whose messages show their facts: `entry refused id=a-1 code=23514`."""
    logger = logging.getLogger(name)
    logger.addFilter(_FACTS)  # the same one is added once
    return logger


class _Line(logging.LogRecord):
    """A record whose message is its phrase and its facts; a value with spaces or signs is written as JSON."""

    def getMessage(self) -> str:  # noqa: N802 - logging's own name
        """Return the message."""
        phrase = super().getMessage()
        facts = "".join(f" {name}={_text(value)}" for name, value in vars(self).items() if name not in _COMMON)
        return phrase if phrase.endswith(facts) else phrase + facts  # a QueueHandler asks twice


class _Facts(logging.Filter):
    """Makes every record of a logger one of these."""

    def filter(self, record: logging.LogRecord) -> bool:
        if type(record) is logging.LogRecord:  # a class of the bot's own knows what it shows
            record.__class__ = _Line
        return True


_FACTS = _Facts()


def _text(value: object) -> str:
    text = str(value)
    plain = (
        not isinstance(value, (list, tuple, dict)) and text and not any(sign.isspace() or sign in '"=' for sign in text)
    )
    return text if plain else json.dumps(value, ensure_ascii=False, default=str)
