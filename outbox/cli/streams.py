"""The streams of a command, whatever they can write."""

from __future__ import annotations

import codecs
import io
import json


def tolerate(stream: object, errors: str = "backslashreplace") -> None:
    """Let `stream` write characters that its encoding lacks, such as 💹 on a Windows console, as escapes."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=errors)


def _as_json(error: UnicodeError) -> tuple[str, int]:
    """Return JSON escapes for the characters that cannot be written."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


IN_JSON = "outbox.json"
codecs.register_error(IN_JSON, _as_json)
