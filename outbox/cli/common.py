"""What all commands share: options, error messages, JSON, where the file is."""

from __future__ import annotations

import contextlib
import json
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from outbox import setting_rules
from outbox.cli import format as formatting
from outbox.errors import ConfigError, InvalidRequest, OutboxError, StoreCorrupt, StoreError
from outbox.snapshot import Health
from outbox.store.read_once import read_once

if TYPE_CHECKING:
    from outbox.store.read_only import ReadOnlyStore

T = TypeVar("T")

FilePath = Annotated[
    Path | None,
    # readable: an unreadable file is reported as any other error is, with code 3.
    typer.Option(
        "--path", "-p", readable=False, metavar="FILE", help="The outbox file, else OUTBOX_PATH, else outbox.db."
    ),
]
_FLAGS = {
    "ids": "IDS", "destination": "--destination", "code": "--code", "everything": "--all", "since": "--since",
    "until": "--until", "older-than": "--older-than",
    "reason": "--reason", "rename-column": "--rename-column", "all-matching": "--all-matching",
    "json": "--json", "before_ms": "--older-than", "optional": "--optional", "limit": "--limit",
    "session": "--session", "said": "--said", "where": "--where",
}  # fmt: skip


def in_flags(error: OutboxError) -> str:
    """Return what `error` says, naming the option instead of the Python argument."""
    words, field = str(error), getattr(error, "field", None)
    if field == "entries":  # none of them alone
        return words.removeprefix("entries: ")
    flag = _FLAGS.get(field) if isinstance(error, InvalidRequest) and isinstance(field, str) else None
    return words if flag is None else f"{flag}{words.removeprefix(str(field))}"


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on one line, for machines.")]


def file_and_warnings(path: Path | None) -> tuple[Path, tuple[str, ...]]:
    """Return the file, and what is wrong with the settings: a bad URL must not hide what the file says."""
    found = setting_rules.without_model(path)
    if found is not None:
        return found
    from outbox.settings import load

    try:
        settings = load(path=path)
    except ConfigError as error:
        if path is None or error.field == "path":
            raise
        return path, (f"the settings cannot be used: {error}",)
    return settings.path, settings.warnings


def read(where: Path, work: Callable[[ReadOnlyStore], Awaitable[T]]) -> T:
    """Return what `work` finds in the file. Raises StoreError: it is missing, holds no outbox, or cannot be read."""
    import asyncio

    from outbox.store.read_only import look

    return asyncio.run(look(where, work))


def check_outbox(where: Path) -> None:
    """Raise StoreError, which says what is there, unless it is an outbox."""
    read_once(where, lambda _: None)


@contextlib.contextmanager
def complaints(path: Path | None, *, as_object: bool) -> Iterator[None]:
    """Report an error in one sentence, or one object, and exit with code 3; suggested commands include `path`."""
    formatting.remember_path(path)
    try:
        yield
    except OutboxError as error:
        where = str(getattr(error, "path", path or "")) or None
        sentence = formatting.quoted(in_flags(error))
        if isinstance(error, StoreCorrupt):
            sentence += formatting.typed("; what to do: outbox doctor")
        if path is None and isinstance(error, StoreError) and not error.path.exists():
            sentence += "; --path or OUTBOX_PATH names another file"
        if as_object:
            print_json({"path": where, "health": "unreadable", "exit_code": int(Health.UNREADABLE), "error": sentence})
        else:
            formatting.complain(sentence)
        raise typer.Exit(Health.UNREADABLE) from None
    except OverflowError as error:  # of a number that was typed, and of none in the file: SQLite could not hold it
        raise typer.BadParameter("a number is larger than SQLite can hold") from error
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk behind `>`: a JSON object would not arrive either
        formatting.hang_up()
        what = "the output cannot be written: " if error.filename is None else ""
        formatting.complain(f"{what}{formatting.quoted(str(error))}")
        raise typer.Exit(Health.UNREADABLE) from None


@contextlib.contextmanager
def looking(path: Path | None, *, as_object: bool) -> Iterator[Path]:
    """Give the file to look at, by --path or the settings; report an error as `complaints` does."""
    with complaints(path, as_object=as_object):
        yield file_and_warnings(path)[0]


@contextlib.contextmanager
def quiet_pipe() -> Iterator[None]:
    """End the block quietly when whoever reads stdout has seen enough: `| head`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        formatting.hang_up()


def print_json(facts: Mapping[str, Any]) -> None:
    """Print one object on one line."""
    with quiet_pipe():
        sys.stdout.write(json_line(facts))


def json_line(facts: Mapping[str, Any]) -> str:
    """Return one object on one line."""
    return json_text(facts) + "\n"


def json_text(value: object) -> str:
    """Return `value` as JSON; a path is its text, a Decimal has all its digits."""
    place, numbers = uuid.uuid4().hex, list[str]()

    def told(value: object) -> str:
        if isinstance(value, Path):
            return str(value)
        numbers.append(str(value))
        return place

    first, *rest = json.dumps(value, default=told).split(f'"{place}"')
    return "".join([first, *chain.from_iterable(zip(numbers, rest, strict=True))])
