"""`outbox inspect`: the file in a browser."""

from __future__ import annotations

import asyncio
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from outbox.cli import format as formatting
from outbox.cli.common import FilePath, complaints, file_and_warnings
from outbox.errors import ConfigError
from outbox.store.files import real_path
from outbox.store.read_only import look


def inspect(
    path: FilePath = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 is any that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser there.")] = True,
) -> None:
    """Look at the file in a browser.

    Ready questions, the backlog over time. Works while a bot runs.

    Runs Datasette, read-only, on 127.0.0.1: no other machine can reach it. It
    shows payloads. Needs the extra `inspect`, and no network. Ctrl-C stops it.

    \b
    Example:
      outbox inspect --path bot.db --no-browser

    \b
    Exit codes:
      0  stopped
      3  the file is missing, unreadable or no outbox; the port is taken; the
         extra is not installed
    """
    with complaints(path, as_object=False):
        where = real_path(file_and_warnings(path)[0])
        asyncio.run(look(where, lambda observer: observer.counts()))  # it is an outbox, or says what it is
        _serve(where, port, browser=browser)


def _serve(where: Path, port: int, *, browser: bool) -> None:
    try:
        from outbox.web.server import serve
    except ModuleNotFoundError as error:
        hint = "python3 -m pip install 'datasette<0.66'"
        raise ConfigError(f"outbox inspect needs the extra `inspect` ({error}): {hint}", field="inspect") from error
    console = formatting.console()

    def ready(address: str) -> None:
        console.print(f"{where} is at {address} for this machine alone. Ctrl-C stops it.", soft_wrap=True)
        if browser:
            webbrowser.open(address)

    serve(where, port, ready)
