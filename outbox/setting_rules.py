"""What a setting's text may be: the file, the URL and the keys. `Settings` applies these rules, for commands too.

Loads no pydantic, which takes longer than all else that a command loads: one that only looks at a file asks
`without_model` first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from outbox.postgrest.project import KeyKind, is_loopback, read_key

PREFIX = "OUTBOX_"
ENV_FILE = ".env"
DEFAULT_PATH = Path("outbox.db")
URL = "SUPABASE_URL"
KEYS = ("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_KEY")


def checked_path(path: Path) -> Path:
    """Return the path of the file. Raises ValueError."""
    if str(path).startswith((":memory:", "file:")) or path.name in ("", "..", ".") or "\0" in str(path):
        raise ValueError("must be the path of a file; a database in memory is not durable")
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("names a home directory that cannot be found") from None


def given(text: str) -> str | None:
    """Return what is set, None: nothing. A key from a file ends with a newline."""
    return text.strip() or None


def checked_key(key: str) -> None:
    """Raise ValueError if `key` does not fit a header."""
    if not (key.isascii() and key.isprintable()):
        raise ValueError("has characters that cannot be part of a key")


def checked_url(url: str, *, allow_insecure: bool) -> None:
    """Raise ValueError if a key must not be sent to `url`."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is not a number or is too large
    except ValueError:  # whose message quotes the URL, which may hold a password
        raise ValueError("supabase_url: is not a URL") from None
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("supabase_url: must be like https://<project>.supabase.co")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("supabase_url: must hold neither a user, a password nor a query")
    if parts.scheme == "http" and not allow_insecure and not is_loopback(parts.hostname):
        raise ValueError("supabase_url: http:// would send the key in the clear; use https:// or set allow_insecure")


def key_kind(key: str | None) -> KeyKind | None:
    """Return the kind of `key`."""
    return None if key is None else read_key(key).kind


def warnings(url: str | None, key: str | None, *, token: bool) -> tuple[str, ...]:
    """Return what keeps rows from arriving, in one sentence each. token: one of a role of the bot's own is set."""
    if url is None or key is None:
        missing = " and ".join(name for name, value in ((URL, url), (KEYS[0], key)) if value is None)
        return (f"{missing} not set: rows are kept in the file until they are",)
    kind = key_kind(key)
    if kind in (KeyKind.PUBLISHABLE, KeyKind.LEGACY_ANON) and not token:
        return (f"the key is a {kind} key, which may not write: use the project's secret key",)
    return ()


def without_model(path: Path | None) -> tuple[Path, tuple[str, ...]] | None:
    """Return the file and the warnings as `Settings(path=path)` has them; None: only that class can tell.

    It alone decides between several values, refuses one, and reads any setting but the file, the URL and the key.
    """
    set_once: dict[str, str] = {}
    try:
        for name, value in (*os.environ.items(), *_env_file().items()):
            upper = name.upper()
            if not value or not (upper.startswith(PREFIX) or upper in (URL, *KEYS)):
                continue
            kind = "key" if upper in KEYS else upper
            if kind not in ("key", URL, f"{PREFIX}PATH") or set_once.setdefault(kind, value) != value:
                return None
        url, key = given(set_once.get(URL, "")), given(set_once.get("key", ""))
        if url is not None:
            checked_url(url, allow_insecure=False)
        if key is not None:
            checked_key(key)
        file = checked_path(path or Path(set_once.get(f"{PREFIX}PATH", DEFAULT_PATH)))
    except (OSError, ValueError):
        return None
    return file, warnings(url, key, token=False)


def _env_file() -> Mapping[str, str | None]:
    """Return what `.env` holds. Raises OSError, UnicodeDecodeError."""
    if not Path(ENV_FILE).exists():
        return {}
    from dotenv import dotenv_values  # what pydantic-settings reads it with

    return dotenv_values(ENV_FILE, encoding="utf-8")
