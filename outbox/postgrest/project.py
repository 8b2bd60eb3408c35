"""Which project a URL names, and whether entries may go there; no I/O."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from outbox.postgrest.verdicts import Refusal

_SUPABASE = ".supabase.co"
_PORTS = {"http": 80, "https": 443}


def identity(url: str) -> str | None:
    """Return what tells the project behind `url` from another one; None: this machine's own, which is never checked.

    A project on supabase.co is its ref, whatever the rest of the URL; any other is host:port. A key is no part of it.
    Raises ValueError: the port is none.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if not host or is_loopback(host):
        return None
    ref = host.removesuffix(_SUPABASE)
    if ref != host and ref and "." not in ref:
        return ref
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{parts.port or _PORTS.get(parts.scheme, 443)}"


def is_loopback(host: str) -> bool:
    """Return whether `host` is this machine by its name or number."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_foreign(belongs_to: str | None, named: str | None) -> bool:
    """Return whether `named` is another project than the file's own. None: the file has none yet; it is not checked."""
    return belongs_to is not None and named is not None and belongs_to != named


def refusal(belongs_to: str, named: str) -> Refusal:
    """Return what a pause says of it, with what to do."""
    words = (
        f"this file's entries belong to the project {belongs_to}, and the URL names {named}: "
        "set SUPABASE_URL back, or let them go there with: outbox adopt"
    )
    return Refusal(None, None, words)
