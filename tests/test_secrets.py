"""The look for keys during and after every test (tests/conftest.py, tests/secrets.py) finds each planted one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.testing

from outbox import ConfigError, Outbox, OutboxError, Settings, SupabaseClient, TradeLogger
from outbox.postgrest.client import PostgrestTransport
from outbox.testing import FakeRemote
from tests.secrets import HIDDEN, MARK, Finder, leaks, overheard
from tests.store.tools import ROOT, shell
from tests.support import run_async

KEY = f"{MARK.decode()}canary_0123456789"
on_posix = pytest.mark.skipif(os.name == "nt", reason="a process's pipes are overheard on POSIX alone")


@run_async
async def test_a_key_in_a_row_is_found_in_the_file(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")  # not tmp_path: the look after this test would find it
    async with Outbox.open(Settings(path=elsewhere / "bot.db"), transport=FakeRemote()) as outbox:
        assert leaks(elsewhere) == []
        await outbox.put("trades", {"note": f"{MARK.decode()}planted"})
    assert [each.name for each in leaks(elsewhere)] == ["bot.db"]


@run_async
async def test_a_key_that_is_used_stands_in_no_file_repr_or_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = Settings(path=tmp_path / "bot.db", supabase_url="http://127.0.0.1:9", supabase_key=KEY)
    async with Outbox.open(settings) as outbox:
        await outbox.put("trades", {"n": 1})
        report = await outbox.drain(timeout=0.5)
        told = [repr(outbox), repr(report), repr(await outbox.stats()), repr(settings), str(settings)]
        told += [repr(SupabaseClient(outbox)), repr(TradeLogger(outbox, "s-1"))]
    transport = PostgrestTransport("http://127.0.0.1:9", KEY)
    told += [repr(transport), repr(vars(transport)), repr(vars(transport._auth).keys())]
    await transport.aclose()
    assert report.pending == 1
    assert [text for text in (*told, caplog.text) if KEY in text] == []
    assert leaks(tmp_path) == []


# ---------------------------------------------------------------------------------------------- tracebacks


async def no_answer(folder: Path) -> object:
    async with Outbox.open(with_key(folder)) as outbox:
        return await SupabaseClient(outbox).get_trades("s-1")


async def no_time(folder: Path) -> object:
    """Inside httpx, with a request under way."""
    async with await asyncio.start_server(hold, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        async with Outbox.open(with_key(folder, port, request_deadline_s=0.2)) as outbox:
            return await SupabaseClient(outbox).get_trades("s-1")


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer):
        await reader.read()


async def two_writers(folder: Path) -> object:
    async with Outbox.open(with_key(folder)):
        return await Outbox.open(with_key(folder))


async def a_bad_row(folder: Path) -> object:
    async with Outbox.open(with_key(folder)) as outbox:
        return await outbox.put("trades", {"pnl": object()})


async def a_locked_file(folder: Path) -> object:
    async with Outbox.open(with_key(folder, busy_timeout_s=0.01)) as outbox:
        with shell(folder / "bot.db") as other:
            other.execute("begin immediate")
            return await outbox.put("trades", {"n": 1})


async def no_database(folder: Path) -> object:
    (folder / "bot.db").write_text("a letter, and no database at all " * 200, encoding="utf-8")
    return await Outbox.open(with_key(folder))


async def a_bad_key(folder: Path) -> object:
    return Settings(supabase_url="https://x.supabase.co", supabase_key=f"{KEY}\n{KEY}", _env_file=None)


async def an_unknown_name(folder: Path) -> object:
    wrong: dict[str, Any] = {"supabase_kye": "x"}
    return Settings(**wrong, supabase_key=KEY, access_token=KEY, _env_file=None)


def with_key(folder: Path, port: int = 9, **more: Any) -> Settings:
    return Settings(
        path=folder / "bot.db", supabase_url=f"http://127.0.0.1:{port}", supabase_key=KEY, _env_file=None, **more
    )


@pytest.mark.parametrize(
    "trouble", [no_answer, no_time, two_writers, a_bad_row, a_locked_file, no_database, a_bad_key, an_unknown_name]
)
@run_async
async def test_the_key_stands_in_no_traceback_repr_or_local_variable_of_an_error(
    trouble: Callable[[Path], Coroutine[Any, Any, object]], tmp_path: Path
) -> None:
    with pytest.raises(OutboxError) as caught:
        await trouble(tmp_path)
    shown = with_locals(caught.value)
    assert "supabase_url" in shown or "settings" in shown or "self = " in shown, "no local variable is shown"
    assert KEY not in shown
    assert KEY not in repr(caught.value) + repr(caught.value.args) + repr(vars(caught.value))


def test_control_a_key_in_a_local_variable_is_found() -> None:
    def planted(key: str) -> None:
        raise ConfigError("no use", field="key")

    with pytest.raises(ConfigError) as caught:
        planted(KEY)
    assert KEY in with_locals(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def with_locals(error: BaseException) -> str:
    """Return the traceback with each frame's variables, as a crash reporter sends it; its causes as well."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


# ---------------------------------------------------------------------------------------------- processes


@on_posix
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_key_that_a_process_says_is_found_and_its_reader_gets_every_byte(stream: str) -> None:
    code = f"import sys; print(sys.argv[1], file=sys.{stream})"
    done = subprocess.run([sys.executable, "-c", code, KEY], check=True, capture_output=True)
    assert getattr(done, stream) == f"{KEY}{os.linesep}".encode()
    assert heard() == [f"{stream} of a process"]


@on_posix
@run_async
async def test_a_key_that_asyncios_process_says_is_found() -> None:
    process = await asyncio.create_subprocess_exec("echo", KEY, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == KEY
    assert heard() == ["stdout of a process"]


@on_posix
def test_a_key_is_found_in_output_that_no_test_reads(tmp_path: Path) -> None:
    subprocess.run(["echo", KEY], stdout=subprocess.DEVNULL, check=True)
    assert heard() == ["a process whose output nobody reads"]
    with (tmp_path / "said.txt").open("wb") as file:
        subprocess.run(["echo", KEY], stdout=file, check=True)
    assert heard() == ["stdout of a process"]
    (tmp_path / "said.txt").unlink()


def test_a_bot_that_ends_with_an_error_shows_its_key_nowhere(tmp_path: Path) -> None:
    """Python's own traceback, on the standard error of a process that has the key in its environment."""
    bot = "import asyncio; from outbox import Outbox\nasync def main():\n async with Outbox.open() as o: raise o\n"
    names = {"OUTBOX_PATH": str(tmp_path / "bot.db"), "SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SECRET_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", f"{bot}asyncio.run(main())"],
        env={**os.environ, **names, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert (done.returncode, "TypeError" in done.stderr, KEY in done.stderr) == (1, True, False)


def test_a_key_in_captured_output_and_in_a_commands_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    typer.echo(KEY)
    assert KEY in capsys.readouterr().out
    assert heard() == ["captured output"]

    app = typer.Typer()
    app.command()(lambda: typer.echo(KEY, err=True))
    assert KEY in typer.testing.CliRunner().invoke(app).output
    assert heard() == ["a command's output"]


def test_a_key_in_two_pieces_is_found_and_no_piece_is_kept() -> None:
    for cut in range(1, len(MARK)):
        finder = Finder()
        finder.feed(b"x" * 100 + MARK[:cut])
        assert not finder.found
        finder.feed(MARK[cut:] + b"y")
        assert finder.found


def heard() -> list[str]:
    """Take what was found, so that the look after this test finds nothing, without the names of tests."""
    return [re.sub(r" (\(.*|to .*)", "", place) for place in overheard.take()]


# ---------------------------------------------------------------------------------------------- the whole of it

PLANTED = """
import logging, os, subprocess, sys
import pytest

KEY = os.environ["PLANTED"]
ECHO = [sys.executable, "-c", "import os; print(os.environ['PLANTED'])"]

def test_file(tmp_path): (tmp_path / "bot.db-wal").write_text(KEY)
def test_log(caplog): caplog.set_level(0), logging.getLogger("x").debug("%s", KEY)
def test_stdout(): print(KEY)
def test_inherited(): subprocess.run(ECHO)
def test_pipe(): subprocess.run(ECHO, stdout=-1)
def test_nobody(): subprocess.run(ECHO, stdout=-3)
def test_error(): raise ValueError(KEY)
def test_assertion(): assert KEY == ""
def test_nothing(): subprocess.run(ECHO, stdout=-1, env={**os.environ, "PLANTED": "no key"})
@pytest.fixture(scope="session")
def late():
    yield
    subprocess.run(ECHO, stdout=-1)
def test_after_the_last_test(late): pass
"""


def planted_run(tmp_path: Path, tests: str, *options: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run `tests` with this project's conftest; return what pytest said, and its report for machines."""
    (tmp_path / "test_planted.py").write_text(tests, encoding="utf-8")
    report = tmp_path / "report.xml"
    command = [
        sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "pyproject.toml",
        f"--rootdir={tmp_path}", f"--junitxml={report}", "-o", "junit_logging=all", "-rA", *options, str(tmp_path),
    ]  # fmt: skip
    environment = {
        **os.environ, "PLANTED": KEY, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "scripts"))),
    }  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    return done, report.read_text(encoding="utf-8")


@on_posix
def test_each_planted_key_fails_a_run_of_its_own_and_stands_in_no_report(tmp_path: Path) -> None:
    """A run of pytest with this project's conftest, on tests that leak; the last one leaks after its end."""
    done, written = planted_run(tmp_path, PLANTED)
    bad = set(re.findall(r"^(?:FAILED|ERROR) \S*::test_(\w+)", done.stdout, re.MULTILINE))
    assert bad == {"file", "log", "stdout", "inherited", "pipe", "nobody", "error", "assertion"}, done.stdout
    assert done.stdout.count("stdout of a process") >= 2, "what was said after the last test was not heard"
    assert (KEY in done.stdout, HIDDEN in done.stdout, KEY in written) == (False, True, False)
    assert written.count("hidden") >= 4


@on_posix
@pytest.mark.parametrize("options", [(), ("-n1",)], ids=["in one process", "in a worker"])
def test_a_key_that_is_said_after_the_last_test_fails_a_run_that_would_be_good(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    quiet = PLANTED[: PLANTED.index("def test_file")] + PLANTED[PLANTED.index("def test_nothing") :]
    done, _ = planted_run(tmp_path, quiet, *options)
    assert (done.returncode, "2 passed" in done.stdout) == (pytest.ExitCode.TESTS_FAILED, True), done.stdout
    assert "stdout of a process (" in done.stdout, "it is not said why"
