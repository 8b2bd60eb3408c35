"""The form of this library's log lines: a fixed phrase, then its facts.

Each line is a fixed phrase (`record.msg`), to search and to alert on; the record's `extra` holds its facts. The common
`logging.Formatter` omits an `extra`, which whoever reads the log at night needs: so the facts also follow the phrase,
whatever formatter is used. docs/logs.md lists all lines.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from logging import Logger as Logger
from typing import TextIO

from outbox.clock import Clock

# What every record has, whatever its `extra`.
_COMMON = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# How many different errors of one condition are logged in one minute.
_DETAILS = 8


def named(name: str) -> logging.Logger:
    """Return the logger `name`, whose messages show their facts: `entry refused id=a-1 code=23514`."""
    logger = logging.getLogger(name)
    logger.addFilter(_FACTS)  # the same one is added once
    return logger


@dataclass(slots=True)
class _Told:
    at_s: float
    left_out: int = 0


class Repeating:
    """Decides when to log a lasting condition: when it begins, when it changes, and once a minute how often it was met.

    A failing disk would otherwise write a hundred thousand lines an hour.
    """

    def __init__(self, clock: Clock, *, every_s: float = 60.0) -> None:
        self._clock = clock
        self._every_s = every_s
        self._told: dict[str, dict[str, _Told]] = {}

    def news(self, condition: str, detail: str = "") -> dict[str, int] | None:
        """Return facts for the line about `condition`, of which `detail` is the current state; None: do not log it.

        repeated: how often it was met since the last line. More than a few different details a minute count as one.
        """
        now_s, told = self._clock.monotonic_s(), self._told.setdefault(condition, {})
        if detail not in told and len(told) >= _DETAILS:
            detail = next(iter(told))  # the one with the oldest line stands for all others
        before = told.get(detail)
        if before is not None and now_s - before.at_s < self._every_s:
            before.left_out += 1
            return None
        told.pop(detail, None)
        told[detail] = _Told(now_s)
        return {"repeated": before.left_out} if before is not None and before.left_out else {}

    def over(self, condition: str) -> None:
        """The condition has ended: log it the next time it begins."""
        self._told.pop(condition, None)


class _Line(logging.LogRecord):
    """A record whose message is its phrase and its facts; a value with spaces or signs is written as JSON.

    What is not printable is escaped: a server's words must not control the terminal that shows the log.
    """

    def getMessage(self) -> str:  # noqa: N802 - logging's own name
        """Return the message."""
        phrase = super().getMessage()
        facts = "".join(f" {name}={_text(value)}" for name, value in vars(self).items() if name not in _COMMON)
        return phrase if phrase.endswith(facts) else phrase + facts  # a QueueHandler asks twice


class _Facts(logging.Filter):
    """Makes every record of a logger a `_Line`."""

    def filter(self, record: logging.LogRecord) -> bool:
        if type(record) is logging.LogRecord:  # the bot's own record class decides for itself
            record.__class__ = _Line
        return True


_FACTS = _Facts()


class _Unconfigured(logging.StreamHandler[TextIO]):
    """Adds time, level and logger to what `logging.lastResort` would write, for a bot that has set up no logging.

    That handler writes the bare message, in which nobody finds the night's outage again. A bot with any handler of its
    own, or without `lastResort`, gets nothing of this one.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether nobody else writes `record`, and `lastResort` would."""
        last_resort = logging.lastResort
        return last_resort is not None and record.levelno >= last_resort.level and not self._has_company(record.name)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line to what is stderr now."""
        self.setStream(sys.stderr)
        super().emit(record)

    def _has_company(self, name: str) -> bool:
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False


_UNCONFIGURED = _Unconfigured()
_UNCONFIGURED.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
logging.getLogger("outbox").addHandler(_UNCONFIGURED)


def _text(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not any(sign.isspace() or sign in '"=' for sign in text)
    if plain and not isinstance(value, (list, tuple, dict)):
        return text
    written = json.dumps(value, ensure_ascii=False, default=str)
    return "".join(sign if sign.isprintable() else json.dumps(sign)[1:-1] for sign in written)
