"""`outbox help`: a command's help, or a page of the documentation, from this installation."""

from __future__ import annotations

from importlib.resources.abc import Traversable
from typing import Annotated

import typer
from typer.core import TyperGroup

from outbox.cli.common import complaints
from outbox.errors import InvalidRequest
from outbox.sql_files import folder


def show_help(
    context: typer.Context,
    topic: Annotated[str | None, typer.Argument(metavar="TOPIC", help="A command, or a page.")] = None,
) -> None:
    """Print a command's help, or a page of the docs.

    Without TOPIC: what there is.

    \b
    Examples:
      outbox help requeue
      outbox help forensics

    \b
    Exit codes:
      0  printed
      3  there is no such topic
    """
    with complaints(None, as_object=False):
        above = context.parent
        assert above is not None and isinstance(above.command, TyperGroup)
        if topic is None:
            typer.echo(above.get_help())
            typer.echo("\nPages: " + ", ".join(_pages()))
        elif (command := above.command.get_command(above, topic)) is not None:
            typer.echo(command.get_help(typer.Context(command, info_name=topic, parent=above)))
        else:
            typer.echo(_page(topic.removesuffix(".md")))


def _pages() -> dict[str, Traversable]:
    files = folder("docs").iterdir()
    return {file.name.removesuffix(".md"): file for file in sorted(files, key=str) if file.name.endswith(".md")}


def _page(topic: str) -> str:
    pages = _pages()
    if topic not in pages:
        raise InvalidRequest(f"{topic!r} is neither a command nor one of the pages {', '.join(pages)}", field="topic")
    return pages[topic].read_text(encoding="utf-8")
