"""Whatever the network's settings say: the outbox opens, rows are kept, sending pauses and names what to fix."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import certifi
import pytest
from typer.testing import CliRunner

from outbox import Outbox, Settings
from outbox.cli import edit
from outbox.cli.app import app
from tests.postgrest.test_network import bare as bare
from tests.postgrest.test_postgrest import OK, Server, keep_alive, serving
from tests.store.tools import ROOT, rows
from tests.support import run_async

KEY = "canary-key-0123456789"
CERTIFICATES = Path(certifi.where()).read_bytes()

BOT = """
import asyncio, logging
from outbox import Outbox
async def main():
    logging.basicConfig()
    async with Outbox.open() as outbox:
        await outbox.put("trades", {"n": 1})
        async with outbox.flushing():
            while (stats := await outbox.stats()).paused is None:
                await asyncio.sleep(0.01)
        # What somebody has to mend ends a drain; for what may pass, it waits.
        report = await outbox.drain(timeout=0 if stats.paused == "unreachable" else 200)
        print(report.pending, stats.paused, report.held_by)
asyncio.run(main())
"""


def ours(folder: Path) -> dict[str, str]:
    return {"OUTBOX_PATH": str(folder / "bot.db"), "SUPABASE_URL": "https://project.example", "SUPABASE_KEY": KEY}


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**base, **ours(folder), "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        text=True,
        encoding=environment.get("PYTHONIOENCODING", "utf-8"),
        timeout=200,
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        pytest.param("ALL_PROXY", "socks://127.0.0.1:1080", id="a proxy that nobody speaks"),
        pytest.param("HTTPS_PROXY", "http://[::1", id="garbage"),
        pytest.param("SSL_CERT_FILE", "/not/there.pem", id="a file that has gone"),
        pytest.param("SSLKEYLOGFILE", "/not/there/keys.log", id="a log of keys into nowhere"),
    ],
)
def test_a_bot_starts_and_puts_and_the_pause_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    bot = run(tmp_path, "-c", BOT, **{variable: value})
    assert bot.returncode == 0, bot.stderr
    assert bot.stdout.startswith("1 misconfigured "), bot.stdout
    assert variable in bot.stdout
    assert "sending paused" in bot.stderr
    monkeypatch.setenv(variable, value)
    for name, setting in ours(tmp_path).items():
        monkeypatch.setenv(name, setting)
    drain = CliRunner().invoke(app, ["drain", "--timeout", "200"])
    assert (variable in drain.output, drain.exit_code) == (True, 2), drain.output
    doctor = CliRunner().invoke(app, ["doctor", "--timeout", "5"])
    assert (variable in doctor.output, doctor.exit_code) == (True, 2), doctor.output
    assert len(rows(tmp_path / "bot.db")) == 1


def test_what_no_proxy_lists_is_no_reason_to_stop(tmp_path: Path) -> None:
    bot = run(tmp_path, "-c", BOT, NO_PROXY="[::1],localhost", HTTPS_PROXY="http://127.0.0.1:1")
    assert bot.returncode == 0, bot.stderr
    assert bot.stdout.startswith("1 unreachable ")


# ----------------------------------------------------------------------------------------------- fixed while it runs


def fast(**more: Any) -> Settings:
    return Settings(
        path=Path("bot.db"),
        health_s=0,
        pause_probe_s=0.05,
        backoff_base_s=0.01,
        backoff_cap_s=0.05,
        poll_s=0.02,
        **more,
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("OUTBOX_", "SUPABASE_")):
            monkeypatch.delenv(name)
    return tmp_path


async def outbox_moves() -> None:
    await asyncio.sleep(0.02)


async def until(outbox: Outbox, reason: str | None, *, pending: int = 1) -> None:
    while (stats := await outbox.stats()).paused != reason or stats.pending != pending:
        await outbox_moves()


@run_async
async def test_sending_goes_on_without_a_restart_once_the_certificates_are_back(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = home / "ca.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(place))
    async with (
        Outbox.open(fast(supabase_url="https://127.0.0.1:1", supabase_key=KEY)) as outbox,
        outbox.flushing(),
    ):
        await outbox.put("trades", {"n": 1})
        await until(outbox, "misconfigured")
        (pause,) = (await outbox.stats()).pauses
        assert "SSL_CERT_FILE" in (pause.message or "")
        place.write_bytes(CERTIFICATES)
        await until(outbox, "unreachable")  # as far as it gets here: nobody listens


def environment(folder: Path, server: Server, key: str) -> None:
    lines = [f"SUPABASE_URL={server.url.removesuffix('/rest/v1')}", f"SUPABASE_SECRET_KEY={key}"]
    (folder / "fresh").write_text("\n".join(lines))
    (folder / "fresh").replace(folder / ".env")


REFUSED = b'{"message":"Invalid API key: ' + KEY.encode() + b'"}'
UNAUTHORIZED = b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n%s" % (len(REFUSED), REFUSED)


@run_async
async def test_a_key_that_comes_back_after_its_file_was_missing_at_a_probe_is_read_again(home: Path) -> None:
    new_key = "another-key-0123456789"
    servers: list[Server] = []

    async def gateway(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK if servers[0].header("apikey") == new_key else UNAUTHORIZED)
        await writer.drain()

    async with serving(gateway) as server:
        servers.append(server)
        environment(home, server, KEY)
        async with Outbox.open(fast()) as outbox, outbox.flushing():
            await outbox.put("trades", {"n": 1})
            await until(outbox, "unauthorized")
            (home / ".env").unlink()
            while outbox.has_remote:  # until a probe reads the settings
                await outbox_moves()
            environment(home, server, new_key)
            await until(outbox, None, pending=0)
            assert server.header("apikey") == new_key
    assert KEY.encode() not in (home / "bot.db").read_bytes()  # what the gateway has quoted


@run_async
async def test_a_reload_in_a_bad_moment_keeps_nothing_old(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(keep_alive) as server:
        environment(home, server, KEY)
        async with Outbox.open(Settings(path="bot.db", health_s=0)) as outbox:
            await outbox.put("trades", {"n": 1})
            with monkeypatch.context() as moment:
                moment.setenv("SSL_CERT_FILE", "/not/there")
                environment(home, server, "another-key-0123456789")
                await outbox.reload()
            assert (await outbox.drain(timeout=200)).pending == 0
            assert server.header("apikey") == "another-key-0123456789"


@run_async
async def test_an_outbox_without_a_key_begins_to_send_when_one_comes(home: Path) -> None:
    async with serving(keep_alive) as server, Outbox.open(fast()) as outbox, outbox.flushing():
        await outbox.put("trades", {"n": 1})
        environment(home, server, KEY)
        await until(outbox, None, pending=0)


# ---------------------------------------------------------------------------------------------- which key


def test_doctor_says_which_key_is_in_use_and_why_not_the_other(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".env").write_text("SUPABASE_SECRET_KEY=canary-of-the-file\n")
    monkeypatch.setenv("SUPABASE_KEY", KEY)
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:1")
    assert Settings().key_places == ("SUPABASE_KEY in the environment", "SUPABASE_SECRET_KEY in .env")
    said = CliRunner().invoke(app, ["doctor", "--timeout", "2", "--json"]).output
    assert "the key in use is SUPABASE_KEY in the environment; another one, SUPABASE_SECRET_KEY in .env" in said
    assert "canary" not in said
    monkeypatch.setenv("SUPABASE_KEY", "canary-of-the-file")
    assert Settings().key_places == ("SUPABASE_KEY in the environment",)  # the same key twice is one
    assert Settings(supabase_key="x").key_places == ("an argument",)


# ---------------------------------------------------------------------------------------------- consoles


def test_a_console_that_lacks_a_character_gets_an_escape(tmp_path: Path) -> None:
    async def put() -> None:
        async with Outbox.open(Settings(path=tmp_path / "bot.db", _env_file=None)) as outbox:
            await outbox.put("events", {"data": "\U0001f4b9 \u20ac"})

    asyncio.run(put())
    its_id = rows(tmp_path / "bot.db", "select id from outbox")[0][0]
    for encoding in ("cp1252", "ascii"):
        shown = run(tmp_path, "-m", "outbox", "show", str(its_id), PYTHONIOENCODING=encoding)
        assert shown.returncode == 0, shown.stderr
        assert "\\U0001f4b9" in shown.stdout
        exported = run(tmp_path, "-m", "outbox", "export", PYTHONIOENCODING=encoding)
        assert exported.returncode == 0, exported.stderr
        line = exported.stdout.splitlines()[0]
        assert "\\ud83d\\udcb9" in line
        assert "\U0001f4b9" in str(json.loads(line))


def test_an_editor_whose_path_has_spaces_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = tmp_path / "my editor" / "ed it"
    editor.parent.mkdir()
    editor.write_text("")
    for chosen, wanted in (
        (str(editor), [str(editor)]),
        (f"{editor} --wait", [str(editor), "--wait"]),
        (f'"{editor}" --wait', [str(editor), "--wait"]),
        ("ed --wait 'a b'", ["ed", "--wait", "a b"]),
    ):
        monkeypatch.setenv("VISUAL", chosen)
        assert edit._editor() == wanted
