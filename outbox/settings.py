"""Everything that can be set. With `setting_rules` the only reader of the environment; others get plain values."""

from __future__ import annotations

import difflib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict, Unpack, cast
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict, SettingsError

from outbox import logs, setting_rules as rules
from outbox.errors import ConfigError
from outbox.postgrest.project import KeyKind, is_loopback
from outbox.setting_rules import KEYS, PREFIX

logger: logs.Logger = logs.named("outbox.settings")

_LONGEST_SOURCE = 200
# A hundred thousand years, which SQLite can count in milliseconds.
_FOR_EVER_DAYS = 36_525_000.0
_SECRETS = frozenset({*KEYS, "supabase_key", "access_token"})


class SettingsOptions(TypedDict, total=False):
    """The arguments of `Settings`, for type checkers; the fields of that class say what they mean."""

    path: str | os.PathLike[str]
    supabase_url: str | None
    supabase_key: str | SecretStr | None
    batch_rows: int
    batch_bytes: int
    backoff_base_s: float
    backoff_cap_s: float
    pause_probe_s: float
    request_deadline_s: float
    requests_in_flight: int
    poll_s: float
    busy_timeout_s: float
    transaction_limit_s: float
    max_waiting: int
    max_waiting_bytes: int
    orphan_attempts: int
    orphan_after_s: float
    strict_order: bool | None
    reserve_bytes: int
    max_pending_rows: int | None
    max_pending_bytes: int | None
    retention_days: float
    allow_insecure: bool
    source: str | None
    health_s: float
    access_token: str | SecretStr | None
    _env_file: str | os.PathLike[str] | None  # None: do not read a `.env`


class Settings(BaseSettings):
    """Everything that can be set. Arguments override the environment (`OUTBOX_…`), which overrides `.env`.

    Raises:
        ConfigError: A value cannot be used; the message names the field and never shows the value.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=rules.ENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,  # SUPABASE_SECRET_KEY= must not hide a SUPABASE_KEY
        extra="ignore",  # a bot's .env holds other programs' secrets
        hide_input_in_errors=True,
        frozen=True,
        populate_by_name=True,
    )

    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    path: Path = Field(default=rules.DEFAULT_PATH, description="the SQLite file")
    supabase_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices(rules.URL),
        description="the project's URL; rows stay pending without it",
    )
    supabase_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices(*KEYS),
        description="the project's secret key; rows stay pending without it",
    )
    batch_rows: int = Field(default=500, ge=1, le=10_000, description="the most rows in one request")
    batch_bytes: int = Field(default=1_000_000, ge=1_000, description="the most bytes in one request")
    backoff_base_s: float = Field(default=0.5, gt=0, description="the first pause after a failure, before jitter")
    backoff_cap_s: float = Field(default=300.0, gt=0, description="the longest pause after failures")
    pause_probe_s: float = Field(default=60.0, gt=0, description="how often to retry while a pause needs an operator")
    request_deadline_s: float = Field(default=30.0, gt=0, description="time limit for one request, from start to end")
    requests_in_flight: int = Field(
        default=4, ge=1, le=32, description="the most concurrent requests; a table without one gets one more"
    )
    poll_s: float = Field(default=1.0, gt=0, description="how often to look for rows that a shell inserted")
    busy_timeout_s: float = Field(default=5.0, gt=0, description="how long a put waits for a locked or failing file")
    transaction_limit_s: float = Field(default=2.0, gt=0, description="time limit for a transaction() block")
    max_waiting: int = Field(
        default=10_000, ge=1, description="the most put_nowait and put_threadsafe calls that wait for their commit"
    )
    max_waiting_bytes: int = Field(default=67_108_864, ge=1, description="the same limit, in bytes of payload")
    orphan_attempts: int = Field(
        default=10, ge=1, description="give up a row whose parent is missing after this many refusals"
    )
    orphan_after_s: float = Field(
        default=86_400.0, gt=0, description="give up such a row no earlier than this after its first refusal"
    )
    strict_order: bool | None = Field(
        default=None,
        description="a dead entry holds back later entries of its key; unset: what the file was last opened with",
    )
    reserve_bytes: int = Field(
        default=8_388_608, ge=0, description="disk space reserved so that a full disk can still drain; 0: none"
    )
    max_pending_rows: int | None = Field(
        default=None, ge=1, description="refuse puts while this many rows are pending; unset: no limit"
    )
    max_pending_bytes: int | None = Field(
        default=None, ge=1, description="refuse puts while this many bytes of payload are pending; unset: no limit"
    )
    retention_days: float = Field(default=7.0, ge=0, description="how long delivered rows are kept; inf: for ever")
    allow_insecure: bool = Field(default=False, description="allow http:// to other machines")
    source: str | None = Field(
        default_factory=lambda values: _source_of(values["path"]),
        description="the bot's name, stored with each row; default: the names of the file and the host",
    )
    health_s: float = Field(
        default=60.0, ge=0, description="how often to report to the remote table outbox_health; 0: never"
    )
    access_token: SecretStr | None = Field(
        default=None, description="a JWT for a role of your own, sent along with a publishable key"
    )

    def __init__(self, **options: Unpack[SettingsOptions]) -> None:
        values = cast("dict[str, Any]", options)  # no copy: the key must not stay in the other
        _hide(values)
        _refuse_unknown(values)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _config_error(error, values) from None  # the original would show what was set
        except (OSError, UnicodeDecodeError, SettingsError) as error:
            # Without its cause: a UnicodeDecodeError carries the whole file.
            raise ConfigError(f".env cannot be read: {type(error).__name__}", field="env_file") from None
        self._given = values
        _warn_about_unknown_names(values.get("_env_file", self.model_config.get("env_file")))

    @field_validator("path")
    @classmethod
    def _is_a_file(cls, path: Path) -> Path:
        return rules.checked_path(path)

    @field_validator("retention_days")
    @classmethod
    def _can_be_counted(cls, days: float) -> float:
        return min(days, _FOR_EVER_DAYS)  # `inf`: nothing is removed

    @field_validator("source")
    @classmethod
    def _can_be_stored(cls, source: str | None) -> str | None:
        # An environment variable need not be UTF-8; SQLite would refuse it at every put.
        if source is not None and (source.encode(errors="replace").decode() != source or "\0" in source):
            raise ValueError("holds characters that cannot be stored")
        if source is not None and len(source) > _LONGEST_SOURCE:  # it travels in a header of each request
            raise ValueError(f"has more than {_LONGEST_SOURCE} characters")
        return source

    @field_validator("supabase_url", "supabase_key", "access_token", mode="before")
    @classmethod
    def _empty_is_absent(cls, value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        return rules.given(text) if isinstance(text, str) else value

    @field_validator("supabase_key", "access_token")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            rules.checked_key(key.get_secret_value())
        return key

    @model_validator(mode="after")
    def _url_is_safe(self) -> Self:
        if self.supabase_url is not None:
            rules.checked_url(self.supabase_url, allow_insecure=self.allow_insecure)
        return self

    def reread(self) -> Self:
        """Return the settings read again from the environment and `.env`, with the same arguments.

        Raises:
            ConfigError: A value cannot be used.
        """
        return type(self)(**self._given)

    @property
    def rest_url(self) -> str | None:
        """Return the REST endpoint without a trailing slash, or None."""
        if self.supabase_url is None:
            return None
        base = self.supabase_url.rstrip("/")
        return base if base.endswith("/rest/v1") else f"{base}/rest/v1"

    @property
    def in_the_clear(self) -> bool:
        """Return whether the key travels unencrypted to another machine."""
        parts = urlsplit(self.supabase_url or "")
        return parts.scheme == "http" and not is_loopback(parts.hostname or "")

    @property
    def key_kind(self) -> KeyKind | None:
        """Return the kind of the key; None: no key is set."""
        return rules.key_kind(self._key)

    @property
    def _key(self) -> str | None:
        return None if self.supabase_key is None else self.supabase_key.get_secret_value()

    @property
    def key_places(self) -> tuple[str, ...]:
        """Return where a key is set, the one in use first, such as "SUPABASE_KEY in the environment"; never its value.

        A second one with the same value is left out.
        """
        return tuple(f"{name} in {place}" if place else "an argument" for name, place in _places_of_key(self._given))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what is wrong with the settings, in one sentence each: rows are kept, but will not arrive."""
        return rules.warnings(self.supabase_url, self._key, token=self.access_token is not None)

    @classmethod
    def options(cls) -> list[tuple[str, str, str]]:
        """Return (environment name, default, description) of every setting, for the docs and `--help`."""
        rows = []
        for name, field in cls.model_fields.items():
            alias = field.validation_alias
            names = (
                [str(each) for each in alias.choices] if isinstance(alias, AliasChoices) else [PREFIX + name.upper()]
            )
            default = "file@host" if name == "source" else str(field.default)
            rows.append((", ".join(names), "" if default == "None" else default, field.description or ""))
        return rows


def _source_of(path: Path) -> str:
    """Return the name of a bot that nobody has named. A file's name may be invalid UTF-8, or too long for a source."""
    name = f"{path.stem}@{socket.gethostname()}".encode(errors="backslashreplace").decode()
    return name[-_LONGEST_SOURCE:]


def load(**values: Any) -> Settings:
    """Return the settings; arguments that are None count as not given."""
    return Settings(**{name: value for name, value in values.items() if value is not None})


def _places_of_key(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return where a key is set, the one in use first: its name and its place, which an argument has not."""
    if argument := next((name for name in ("supabase_key", *KEYS) if given.get(name)), None):
        return [(argument, "")]
    file = DotEnvSettingsSource(Settings, env_file=given.get("_env_file", Settings.model_config["env_file"]))
    found: dict[str, tuple[str, str]] = {}
    for values, place in ((os.environ, "the environment"), (file.env_vars, ".env")):
        upper = {name.upper(): (value or "").strip() for name, value in values.items()}
        for name in KEYS:
            if upper.get(name):
                found.setdefault(upper[name], (name, place))
    return list(found.values())


def _config_error(error: ValidationError, given: Mapping[str, Any]) -> ConfigError:
    first = error.errors(include_input=False, include_context=False, include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if field in KEYS:  # pydantic-settings says the first of them, whichever is set
        field = next((name for name, _ in _places_of_key(given)), field)
    message = str(first["msg"]).removeprefix("Value error, ")
    if not field and ": " in message:
        field, message = message.split(": ", 1)
    return ConfigError(f"{field}: {message}", field=field or None)


def _hide(values: dict[str, Any]) -> None:
    """Keep bare keys out of every frame above our errors: crash reporters show each frame's variables."""
    for name in _SECRETS & values.keys():
        if isinstance(values[name], str):
            values[name] = SecretStr(values[name])


def _refuse_unknown(values: Mapping[str, Any]) -> None:
    """`extra="ignore"` is for the bot's .env; a misspelt argument is a mistake. `_…`: pydantic-settings' own."""
    known = set(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        if isinstance(field.validation_alias, AliasChoices):
            known.update(str(alias) for alias in field.validation_alias.choices)
        else:
            known.add(PREFIX + name.upper())
    for name in values:
        if name not in known and not name.startswith("_"):
            close = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(f"{name}: unknown setting{f'; did you mean {close[0]}?' if close else ''}", field=name)


def _warn_about_unknown_names(env_file: Any) -> None:
    """A misspelt setting would otherwise be ignored in silence. Only names: values may be other programs' secrets."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    in_file = DotEnvSettingsSource(Settings, env_file=env_file).env_vars
    for name in sorted({*os.environ, *(name.upper() for name in in_file)}):
        if name.startswith(PREFIX) and name not in known and name not in _warned:
            _warned.add(name)
            close = difflib.get_close_matches(name, known, n=1)
            logger.warning("unknown setting is ignored", extra={"setting": name, "meant": close[0] if close else None})


_warned: set[str] = set()
