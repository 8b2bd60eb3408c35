"""What the site shows of a running bot, and what it may change: `outbox inspect` fills it in."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True, slots=True)
class Standing:
    """The current state. text: what `outbox status` prints."""

    well: bool
    text: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Dead entries with one cause. chosen: the form fields that select them; command: what requeues them."""

    entries: int
    destination: str
    words: str
    period: str
    example: str
    chosen: Mapping[str, str]
    command: str


@dataclass(frozen=True, slots=True)
class Operations:
    """act: does what a form requests, and reports the result; raises OutboxError.

    key: whoever has it may change entries; None: nobody may.
    """

    standing: Callable[[], Awaitable[Standing]]
    causes: Callable[[], Awaitable[Sequence[Cause]]]
    act: Callable[[Mapping[str, str]], Awaitable[Sequence[str]]]
    key: str | None = None

    @property
    def cookie(self) -> str:
        """The name of the cookie that holds the key: a new one for each run, since ports share cookies."""
        return f"outbox-{sha256((self.key or '').encode()).hexdigest()[:12]}"

    def admits(self, told: str | None) -> bool:
        """Return whether `told` is the key."""
        return self.key is not None and hmac.compare_digest((told or "").encode(), self.key.encode())


# The headers that a proxy adds: behind one, the client is unknown.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def refusal(
    operations: Operations, headers: Mapping[str, str], client: str, cookies: Mapping[str, str], *, posts: bool
) -> str | None:
    """Return why a request may not change anything, in a sentence; None: it may.

    headers: in lower case. client: the address that it came from. posts: it submits a form, which only a page of this
    site may do.
    """
    if operations.key is None:
        return "Nothing can be changed here. Start it as: outbox inspect --allow-actions"
    if client != "127.0.0.1" or any(name in headers for name in _FORWARDED):
        return "Nothing can be changed from another machine, nor through a proxy. Use the command line on this one."
    if not operations.admits(cookies.get(operations.cookie)):
        return "Open the address that outbox inspect has printed: it has the key of this run."
    if posts and headers.get("origin") != f"http://{headers.get('host')}":
        return "This form was sent by another page; nothing was changed."
    return None
