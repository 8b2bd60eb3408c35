"""Settings come from arguments, the environment and `.env`, in this order, and never show a value that is wrong."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import os
import pickle
import socket
import traceback
from pathlib import Path
from typing import Any

import pytest

from outbox import ConfigError, Settings, setting_rules as rules, settings as module
from outbox.postgrest.project import KeyKind
from outbox.settings import load

CANARY = "sb_secret_canary-4711"
NAMES = ("SUPABASE_URL", "SUPABASE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder and none of our names in the environment; nothing was warned about yet."""
    for name in (*NAMES, *os.environ):
        if name.upper() in NAMES or name.upper().startswith("OUTBOX_"):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_warned", set())


def key(settings: Settings) -> str | None:
    return None if settings.supabase_key is None else settings.supabase_key.get_secret_value()


# ---------------------------------------------------------------------------------------------- where from


@pytest.mark.parametrize(
    ("dotenv", "environment", "arguments", "wanted"),
    [
        pytest.param({}, {}, {}, None, id="nothing set"),
        pytest.param({}, {"SUPABASE_KEY": "a"}, {}, "a", id="KEY"),
        pytest.param({}, {"SUPABASE_KEY": "a", "SUPABASE_SERVICE_ROLE_KEY": "b"}, {}, "b", id="SERVICE_ROLE over KEY"),
        pytest.param(
            {}, {"SUPABASE_KEY": "a", "SUPABASE_SERVICE_ROLE_KEY": "b", "SUPABASE_SECRET_KEY": "c"}, {}, "c",
            id="SECRET over SERVICE_ROLE over KEY",
        ),
        pytest.param({"SUPABASE_SECRET_KEY": "d"}, {}, {}, "d", id=".env"),
        pytest.param({"SUPABASE_SECRET_KEY": "d"}, {"SUPABASE_SECRET_KEY": "c"}, {}, "c", id="environment over .env"),
        pytest.param(
            {"SUPABASE_SECRET_KEY": "d"}, {"SUPABASE_KEY": "a"}, {}, "a", id="environment over .env, by another name"
        ),
        pytest.param(
            {"SUPABASE_SECRET_KEY": "d"}, {"SUPABASE_SECRET_KEY": "c"}, {"supabase_key": "e"}, "e",
            id="argument over environment over .env",
        ),
        pytest.param({}, {"SUPABASE_SECRET_KEY": "", "SUPABASE_KEY": "a"}, {}, "a", id="an empty one hides none"),
        pytest.param({"SUPABASE_KEY": "d"}, {"SUPABASE_SECRET_KEY": " "}, {}, None, id="only blanks is none"),
        pytest.param({}, {}, {"supabase_key": "a\n"}, "a", id="a key from a file ends with its line"),
        pytest.param({}, {"SUPABASE_KEY": "a"}, {"supabase_key": ""}, None, id="an empty argument takes the key away"),
    ],
)  # fmt: skip
def test_where_the_key_comes_from(
    dotenv: dict[str, str],
    environment: dict[str, str],
    arguments: dict[str, Any],
    wanted: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in dotenv.items()), encoding="utf-8")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert key(Settings(**arguments)) == wanted


def test_each_setting_has_its_name_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OUTBOX_PATH": "other.db",
        "OUTBOX_BATCH_ROWS": "7",
        "OUTBOX_BUSY_TIMEOUT_S": "0.5",
        "OUTBOX_RETENTION_DAYS": "0",
        "OUTBOX_SOURCE": "bot-1",
        "OUTBOX_ALLOW_INSECURE": "true",
        "SUPABASE_URL": "http://10.0.0.1:54321/",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.path == Path("other.db")
    assert (settings.batch_rows, settings.busy_timeout_s, settings.retention_days) == (7, 0.5, 0)
    assert (settings.source, settings.allow_insecure) == ("bot-1", True)
    assert settings.rest_url == "http://10.0.0.1:54321/rest/v1"


def test_a_bot_is_named_after_its_file_and_its_host_unless_it_has_a_name() -> None:
    host = socket.gethostname()
    assert Settings(path="/var/lib/trend.db").source == f"trend@{host}"
    assert Settings().source == f"outbox@{host}"
    assert Settings(source=None).source is None
    assert Settings(source="x" * 200).source == "x" * 200
    with pytest.raises(ConfigError, match="source: has more than 200 characters"):
        Settings(source="x" * 201)


def test_a_publishable_key_is_enough_beside_a_token() -> None:
    url, publishable = "https://p.supabase.co", f"sb_publishable_{CANARY}"
    assert Settings(supabase_url=url, supabase_key=publishable).warnings != ()
    settings = Settings(supabase_url=url, supabase_key=publishable, access_token=f"{CANARY}\n")
    assert settings.warnings == ()
    assert settings.access_token is not None
    assert settings.access_token.get_secret_value() == CANARY
    assert CANARY not in repr(settings) + str(settings.model_dump())


def test_the_documented_names_are_the_ones_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for names, _, _ in Settings.options() for name in names.split(", ")]
    assert "OUTBOX_PATH" in names
    assert {*NAMES} <= set(names)
    for name in names:
        monkeypatch.setenv(name, "\N{SNOWMAN}")  # a value that every kind of setting but a text refuses
    with pytest.raises(ConfigError):
        Settings()


def test_other_programs_lines_in_dotenv_are_ignored() -> None:
    Path(".env").write_text(f"OTHER_SECRET={CANARY}\nOUTBOX_BATCH_ROWS=9\n", encoding="utf-8")
    settings = Settings()
    assert settings.batch_rows == 9
    assert CANARY not in repr(settings) + str(settings) + str(settings.model_dump()) + repr(vars(settings))


def test_settings_are_read_again_under_the_same_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(batch_rows=3)
    assert key(settings) is None
    monkeypatch.setenv("SUPABASE_KEY", "new")
    monkeypatch.setenv("OUTBOX_BATCH_ROWS", "5")
    fresh = settings.reread()
    assert (key(fresh), fresh.batch_rows) == ("new", 3)
    assert key(settings) is None


def test_arguments_that_are_none_count_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_BATCH_ROWS", "5")
    assert load(batch_rows=None, path="x.db").batch_rows == 5


# ---------------------------------------------------------------------------------------------- mistakes


def test_an_unknown_name_is_warned_about_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OUTBOX_BATCH_ROW", CANARY)
    Path(".env").write_text(f"OUTBOX_RETENTON_DAYS={CANARY}\nOTHER=1\n", encoding="utf-8")
    Settings()
    Settings()
    told = [vars(record) for record in caplog.records]
    assert [(facts["setting"], facts["meant"]) for facts in told] == [
        ("OUTBOX_BATCH_ROW", "OUTBOX_BATCH_ROWS"),
        ("OUTBOX_RETENTON_DAYS", "OUTBOX_RETENTION_DAYS"),
    ]
    assert CANARY not in repr(told)


def test_a_known_name_is_not_warned_about(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OUTBOX_BATCH_ROWS", "5")
    Settings()
    assert not caplog.records


def test_an_unknown_argument_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="did you mean batch_rows") as caught:
        Settings(bacth_rows=3)  # type: ignore[call-arg]
    assert caught.value.field == "bacth_rows"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        pytest.param({"batch_rows": CANARY}, "batch_rows", id="no number"),
        pytest.param({"batch_rows": 0}, "batch_rows", id="too small"),
        pytest.param({"backoff_base_s": "nan"}, "backoff_base_s", id="no number at all"),
        pytest.param({"path": ":memory:"}, "path", id="in memory"),
        pytest.param({"path": f"file:{CANARY}?mode=memory"}, "path", id="a URI"),
        pytest.param({"path": ""}, "path", id="no path"),
        pytest.param({"path": ".."}, "path", id="a folder"),
        pytest.param({"path": f"{CANARY}\0.db"}, "path", id="a NUL in the path"),
        pytest.param({"path": f"~{CANARY}/bot.db"}, "path", id="nobody's home"),
        pytest.param({"supabase_key": f"{CANARY}\r\nx: y"}, "supabase_key", id="a header of its own"),
        pytest.param({"supabase_key": f"{CANARY}\N{SNOWMAN}"}, "supabase_key", id="no ASCII"),
        pytest.param({"source": f"{CANARY}\udcff"}, "source", id="no UTF-8"),
        pytest.param({"supabase_key": [CANARY]}, "supabase_key", id="a list"),
        pytest.param({"supabase_url": CANARY}, "supabase_url", id="no URL"),
        pytest.param({"supabase_url": f"ftp://{CANARY}"}, "supabase_url", id="another scheme"),
        pytest.param({"supabase_url": "https://"}, "supabase_url", id="no host"),
        pytest.param({"supabase_url": f"https://u:{CANARY}@x.co"}, "supabase_url", id="a password"),
        pytest.param({"supabase_url": f"https://x.co/?apikey={CANARY}"}, "supabase_url", id="a query"),
        pytest.param({"supabase_url": f"https://u:{CANARY}@[x"}, "supabase_url", id="half an IPv6 address"),
        pytest.param({"supabase_url": f"https://u:{CANARY}\N{ACCOUNT OF}@x.co"}, "supabase_url", id="odd characters"),
        pytest.param({"supabase_url": f"https://{CANARY}:99999"}, "supabase_url", id="no port"),
        pytest.param({"supabase_url": f"https://{CANARY}:x"}, "supabase_url", id="a port that is no number"),
    ],
)
def test_what_cannot_be_used_is_refused_without_showing_it(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(**values)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + str(vars(caught.value))
    assert "canary" not in text


@pytest.mark.parametrize("place", ["environment", ".env"])
@pytest.mark.parametrize("name", NAMES[1:])
def test_a_key_that_cannot_be_used_is_named_as_it_was_set(
    name: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == ".env":
        Path(".env").write_text(f"{name}=sb_secret_caf\xe9\n", encoding="utf-8")
    else:
        monkeypatch.setenv(name, "sb_secret_caf\xe9")
    with pytest.raises(ConfigError, match=f"^{name}: has characters") as caught:
        Settings()
    assert caught.value.field == name


def test_a_dotenv_that_cannot_be_read_is_a_typed_error() -> None:
    Path(".env").write_bytes(f"NAME=caf\xe9\nOTHER_SECRET={CANARY}\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"\.env cannot be read") as caught:
        Settings()
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        pytest.param("https://x.supabase.co", True, id="https"),
        pytest.param("http://127.0.0.1:54321", True, id="loopback"),
        pytest.param("http://127.9.9.9", True, id="all of 127"),
        pytest.param("http://[::1]:54321", True, id="loopback, IPv6"),
        pytest.param("http://localhost:54321", True, id="localhost"),
        pytest.param("http://LOCALHOST", True, id="in capitals"),
        pytest.param("http://db.localhost", True, id="below localhost"),
        pytest.param("http://192.168.1.1", False, id="the same network"),
        pytest.param("http://x.supabase.co", False, id="the internet"),
        pytest.param("http://localhost.example.com", False, id="called like localhost"),
        pytest.param("http://notlocalhost", False, id="ends like localhost"),
        pytest.param("http://127.0.0.1.example.com", False, id="called like loopback"),
        pytest.param("http://127.0.0.1\\.example.com", False, id="a backslash"),
        pytest.param("http://0.0.0.0", False, id="any address"),
        pytest.param("http://2130706433", False, id="loopback as one number"),
        pytest.param("http://[2001:db8::1]", False, id="another machine, IPv6"),
    ],
)
def test_the_key_travels_in_the_clear_only_within_this_machine(url: str, taken: bool) -> None:
    assert Settings(supabase_url=url, allow_insecure=True).supabase_url == url
    if taken:
        assert Settings(supabase_url=url).supabase_url == url
    else:
        with pytest.raises(ConfigError, match="in the clear") as caught:
            Settings(supabase_url=url)
        assert caught.value.field == "supabase_url"


@pytest.mark.parametrize(
    "url",
    ["https://x.co", "https://x.co/", " https://x.co//\n", "https://x.co/rest/v1", "https://x.co/rest/v1/"],
)
def test_the_endpoint_is_the_same_however_the_url_ends(url: str) -> None:
    assert Settings(supabase_url=url).rest_url == "https://x.co/rest/v1"


# ---------------------------------------------------------------------------------------------- keys


def jwt(claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256'})}.{part(claims)}.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "kind", "warned"),
    [
        pytest.param("sb_secret_x", KeyKind.SECRET, False, id="secret"),
        pytest.param("sb_publishable_x", KeyKind.PUBLISHABLE, True, id="publishable"),
        pytest.param(jwt({"role": "service_role"}), KeyKind.LEGACY_SERVICE_ROLE, False, id="JWT of service_role"),
        pytest.param(jwt({"role": "anon"}), KeyKind.LEGACY_ANON, True, id="JWT of anon"),
        pytest.param(jwt({"role": "reader"}), KeyKind.UNKNOWN, False, id="JWT of another role"),
        pytest.param(jwt({"role": ["anon"]}), KeyKind.UNKNOWN, False, id="JWT of several roles"),
        pytest.param(jwt({}), KeyKind.UNKNOWN, False, id="JWT without a role"),
        pytest.param(jwt([1]), KeyKind.UNKNOWN, False, id="JWT without claims"),
        pytest.param("a.!!!.c", KeyKind.UNKNOWN, False, id="three parts of nothing"),
        pytest.param("a./w.c", KeyKind.UNKNOWN, False, id="no UTF-8"),
        pytest.param("whatever", KeyKind.UNKNOWN, False, id="anything"),
    ],
)
def test_a_key_tells_what_it_is_for(text: str, kind: KeyKind, warned: bool) -> None:
    settings = Settings(supabase_url="https://x.co", supabase_key=text)
    assert settings.key_kind is kind
    assert bool(settings.warnings) is warned
    assert text not in "".join(settings.warnings)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({}, "SUPABASE_URL and SUPABASE_SECRET_KEY not set", id="neither"),
        pytest.param({"supabase_key": "sb_secret_x"}, "SUPABASE_URL not set", id="no URL"),
        pytest.param({"supabase_url": "https://x.co"}, "SUPABASE_SECRET_KEY not set", id="no key"),
    ],
)
def test_what_is_missing_is_said(values: dict[str, Any], words: str) -> None:
    (warning,) = Settings(**values).warnings
    assert warning.startswith(words)
    assert "kept" in warning


def test_the_key_is_in_no_text_of_the_settings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = Settings(supabase_url="https://x.co", supabase_key=CANARY)
    texts = [
        repr(settings),
        str(settings),
        repr(vars(settings)),
        str(settings.model_dump()),
        settings.model_dump_json(),
        repr(settings.warnings),
        repr(Settings.options()),
        repr(list(settings)),
        *(record.getMessage() for record in caplog.records),
    ]
    assert not [text for text in texts if "canary" in text]
    assert key(settings) == CANARY


def test_settings_do_not_change() -> None:
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.batch_rows = 3


def test_settings_travel_to_another_process() -> None:
    settings = Settings(batch_rows=3, supabase_key=CANARY)
    again = pickle.loads(pickle.dumps(settings))
    assert again == settings
    assert again.reread() == settings


# ---------------------------------------------------------------------------------------------- without the model


SET = [
    None, ("OUTBOX_PATH", "other.db"), ("outbox_path", "other.db"), ("OUTBOX_PATH", ":memory:"), ("OUTBOX_PATH", ""),
    ("SUPABASE_URL", "https://p.supabase.co"), ("Supabase_Url", " https://p.supabase.co/ "), ("SUPABASE_URL", "p"),
    ("SUPABASE_URL", "http://p.example.com"), ("SUPABASE_KEY", "sb_publishable_1"), ("SUPABASE_KEY", " "),
    ("SUPABASE_SECRET_KEY", "sb_secret_1"), ("SUPABASE_SERVICE_ROLE_KEY", "k\u00e9"), ("OUTBOX_SUPABASE_KEY", "k"),
    ("OUTBOX_BATCH_ROWS", "0"), ("OUTBOX_ACCESS_TOKEN", "t"), ("OUTBOX_NOTHING", "1"), ("PATH_OUTBOX", "1"),
]  # fmt: skip


def by_model(path: Path | None) -> tuple[Path, tuple[str, ...]] | None:
    try:
        found = load(path=path)
    except ConfigError:
        return None
    return found.path, found.warnings


def test_what_needs_no_model_is_what_the_model_says() -> None:
    plain = 0
    in_both = ((in_file, (each,)) for in_file in SET for each in SET)
    for in_file, given in (*((None, pair) for pair in itertools.combinations(SET, 2)), *in_both):
        line = "" if in_file is None else f"{in_file[0]}={in_file[1]!r}\n"
        Path(".env").write_text(line, encoding="utf-8")
        with pytest.MonkeyPatch.context() as patched:
            for name, value in filter(None, given):
                patched.setenv(name, value)
            for path in (None, Path("given.db")):
                if (found := rules.without_model(path)) is not None:
                    assert found == by_model(path), (in_file, given, path)
                    plain += 1
    assert 200 < plain < 600


def test_a_file_of_settings_that_cannot_be_read_is_left_to_the_model() -> None:
    Path(".env").write_bytes(b"OUTBOX_PATH=\xff\n")
    assert rules.without_model(None) is None
    with pytest.raises(ConfigError, match=r"\.env cannot be read"):
        load()
