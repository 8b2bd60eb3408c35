"""What a Supabase key is for, as far as its text tells; nothing is verified, nothing is kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class KeyKind(StrEnum):
    """What a Supabase key is for, as far as its text tells."""

    SECRET = "secret"  # noqa: S105 - the kind, not a key
    LEGACY_SERVICE_ROLE = "legacy service_role"
    PUBLISHABLE = "publishable"
    LEGACY_ANON = "legacy anon"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What a key's text says, never the key. expires_at_s: Unix seconds; role, project: a legacy key's claims."""

    kind: KeyKind
    role: str | None = None
    project: str | None = None
    expires_at_s: float | None = None


_ROLES = {"service_role": KeyKind.LEGACY_SERVICE_ROLE, "anon": KeyKind.LEGACY_ANON}


def read_key(key: str) -> KeyFacts:
    """Return what `key` says of itself. A JWT is decoded without looking at its signature: anybody could write it."""
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
    # The year 9999: what is beyond it is no time, and need not fit a float.
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 253_402_300_800
    return float(value) if known and isinstance(value, int | float) else None


def _claims(key: str) -> Mapping[str, Any]:
    """Return what a JWT claims; nothing for anything else."""
    try:
        text = key.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (IndexError, ValueError, RecursionError):  # what is no base64, UTF-8 or JSON is a ValueError
        return {}
    return claims if isinstance(claims, dict) else {}
