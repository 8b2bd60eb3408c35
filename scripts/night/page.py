"""The page about the night: blocks of commands that were typed, and what may differ from night to night.

A block is a comment `<!-- night: NAME -->` and the fence after it; all else on the page is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from supabase_lite import ROOT

from night.terminal import Typed

PAGE: Final = ROOT / "docs" / "forensics.md"
_BLOCK = re.compile(r"^<!-- night: (?P<name>[a-z-]+) -->\n```text\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What differs: moments, ages, ports, process numbers, sizes, versions, how often and how fast something was tried.
_VARIES: Final = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?"), "<time>"),
    (re.compile(r"(?<=<time> to )\d\d:\d\d:\d\d"), "<time>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<host>"),
    (re.compile(r"nobody\s+listens\s+there[^>]*->"), "nobody listens there ->"),  # in the system's own words
    # The lanes' requests travel side by side: which of them was refused last is chance.
    (re.compile(r"^Refused +.*(\n {9}.*)*", re.MULTILINE), "Refused <the last>"),
    # When it last looked and delivered, and its last error: on a disk that is full it meets one, or none.
    (re.compile(r"^(Flusher +runs).*(\n {9}.*)*", re.MULTILINE), r"\1"),
    (re.compile(r"\b(\d+ (d|h|min|s)\b ?)+"), "<age>"),
    (re.compile(r"\(\d+ failures?\)"), "<failures>"),
    (re.compile(r"process \d+"), "process <n>"),
    (re.compile(r"\b[\d.,]+ ([KM]i)?B\b"), "<size>"),
    (re.compile(r"[\d.,]+ MiB"), "<size>"),
    (re.compile(r"^SQLite +\d.*(\n {8,}.*)*", re.MULTILINE), "SQLite <version>"),
    (re.compile(r"next try (in <age>|any moment now|due, once a flusher runs)"), "next try <time>"),
    # A column is as wide as its widest age, and what is cut off begins there.
    (re.compile(r"^(  .{30}).*…$", re.MULTILINE), r"\1…"),
]


def blocks(text: str) -> dict[str, str]:
    """Return the page's blocks by name. Raises ValueError: two have one name."""
    found = [(match["name"], match["text"].rstrip("\n")) for match in _BLOCK.finditer(text)]
    if len(dict(found)) != len(found):
        raise ValueError("two blocks have the same name")
    return dict(found)


def shown(typed: Typed) -> str:
    """Return a command and its answer as the page shows them: of the doctor's findings, those that are not ok."""
    command, answer = (text.replace(f"{ROOT.as_posix()}/", "") for text in (typed.command, typed.answer))
    lines = answer.splitlines()
    return "\n".join([f"$ {command}", *(_without_ok(lines) if command == "outbox doctor" else lines)])


def _without_ok(lines: Sequence[str]) -> list[str]:
    kept: list[str] = []
    fine = False
    for line in lines:
        if not line.startswith("  "):
            fine = line.startswith("ok ")
        if not fine:
            kept.append(line)
    return [*kept, "[all else is ok]"]


def alike(shown_blocks: dict[str, str], varying: set[str]) -> dict[str, str]:
    """Return the blocks without what differs from night to night; an id is known by the order in which it came up.

    varying: the names of the blocks whose numbers differ, too.
    """
    names: dict[str, str] = {}

    def named(match: re.Match[str]) -> str:
        return names.setdefault(match[0], f"<id {len(names) + 1}>")

    found = {}
    for name, text in shown_blocks.items():
        plain = _ID.sub(named, text)
        for pattern, word in _VARIES:
            plain = pattern.sub(word, plain)
        if name in varying:
            plain = re.sub(r"[\d,]*\d", "<n>", plain)
            plain = re.sub(r"^Pending.*\n( {9}.*\n)*", "", plain, flags=re.MULTILINE)
            plain = re.sub(
                r"Connect call failed.*|Server disconnected.*|All connection attempts failed", "<no answer>", plain
            )
        # A longer age moves the ends of the lines, a longer number the lines of a table.
        found[name] = re.sub(r"\s+", "", re.sub(r"[-─]{3,}", "", plain))
    return found


def differences(page: str, typed: Sequence[Typed]) -> list[str]:
    """Return the names of the page's blocks that are not what the night has shown; it need not show all of it."""
    varying = {each.name for each in typed if each.varies}
    order = blocks(page)
    by_name = {each.name: shown(each) for each in typed}
    on_page = alike(order, varying)
    played = alike({name: by_name[name] for name in order if name in by_name}, varying)
    return sorted(name for name in on_page if on_page[name] != played.get(name))


def renew(typed: Sequence[Typed]) -> bool:
    """Write what the night has shown into the page if it differs: all of it, since the ids go together.

    Returns whether it was written. Raises ValueError: the page has a block for no command.
    """
    text = PAGE.read_text(encoding="utf-8")
    fresh = {each.name: shown(each) for each in typed}
    if unknown := set(blocks(text)) - set(fresh):
        raise ValueError(f"{PAGE.name} has blocks that the night has not: {sorted(unknown)}")
    if not differences(text, typed):
        return False
    renewed = _BLOCK.sub(lambda match: f"<!-- night: {match['name']} -->\n```text\n{fresh[match['name']]}\n```", text)
    PAGE.write_text(renewed, encoding="utf-8")
    return True
