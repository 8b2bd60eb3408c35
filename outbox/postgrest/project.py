"""Which project a URL names, and what a key says of itself; no I/O, nothing verified."""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import urlsplit

_SUPABASE = ".supabase.co"
_PORTS = {"http": 80, "https": 443}


def identity(url: str) -> str | None:
    """Return what identifies the project behind `url`; None: this machine's own, which is never checked.

    A project on supabase.co is its ref, whatever the rest of the URL; any other is host:port. A key is not part of it.
    Raises ValueError: the port is invalid.
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
    """Return whether `host` is this machine, by name or address."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def refusal(belongs_to: str, named: str) -> str:
    """Return what the pause says, and what to do."""
    return (
        f"this file's entries belong to the project {belongs_to}, and the URL names {named}: "
        "set SUPABASE_URL back, or let them go there with: outbox adopt"
    )


class KeyKind(StrEnum):
    """What a Supabase key is for, as far as its text tells."""

    SECRET = "secret"  # noqa: S105 - the kind, not a key
    LEGACY_SERVICE_ROLE = "legacy service_role"
    PUBLISHABLE = "publishable"
    LEGACY_ANON = "legacy anon"
    UNKNOWN = "unknown"


class KeyFacts(NamedTuple):
    """What a key's text says, never the key. expires_at_s: Unix seconds; role, project: a legacy key's claims."""

    kind: KeyKind
    role: str | None = None
    project: str | None = None
    expires_at_s: float | None = None


_ROLES = {"service_role": KeyKind.LEGACY_SERVICE_ROLE, "anon": KeyKind.LEGACY_ANON}


def read_key(key: str) -> KeyFacts:
    """Return what `key` says about itself. A JWT is decoded without verifying its signature: anybody could write it."""
    if key.startswith("sb_secret_"):
        return KeyFacts(KeyKind.SECRET)
    if key.startswith("sb_publishable_"):
        return KeyFacts(KeyKind.PUBLISHABLE)
    claims = _claims(key)
    role, project, expires = claims.get("role"), claims.get("ref"), claims.get("exp")
    return KeyFacts(
        _ROLES.get(role, KeyKind.UNKNOWN) if isinstance(role, str) else KeyKind.UNKNOWN,
        role if isinstance(role, str) else None,
        project if isinstance(project, str) else None,
        _seconds(expires),
    )


def _seconds(value: object) -> float | None:
    # The year 9999: anything beyond is not a time, and need not fit a float.
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 253_402_300_800
    return float(value) if known and isinstance(value, int | float) else None


def _claims(key: str) -> Mapping[str, Any]:
    """Return the claims of a JWT; empty for anything else."""
    try:
        text = key.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (IndexError, ValueError, RecursionError):  # invalid base64, UTF-8 or JSON is a ValueError
        return {}
    return claims if isinstance(claims, dict) else {}
