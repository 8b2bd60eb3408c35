"""The pages of the site that are made while it is built (a hook of mkdocs): nothing is written into the tree.

The README is the first page, the top level's other pages have one each, and what the code says itself is read from it:
commands, exit codes, errors, tables and views.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import outbox
from outbox import sql_files
from outbox.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
# Their constructors are the library's own.
MADE_BY_CALLS = ("FlusherState", "Outbox", "PutFuture", "StoredPause", "Transaction")
# A link to a page of the site, as the other places write it.
PAGES = {"../" + source: page for page, source in TOP_LEVEL.items()} | {s: p for p, s in TOP_LEVEL.items()}
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?://)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/."""
    made = {page: (ROOT / source).read_text(encoding="utf-8") for page, source in TOP_LEVEL.items()}
    made |= {f"reference/{name}.md": text for name, text in reference().items()}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to the site's pages; what is no page, a file of the source, keeps its name and loses its link."""
    return LINK.sub(lambda link: _link(link, page.file.src_uri), markdown)


def _link(link: re.Match[str], page: str) -> str:
    text, target, anchor = link.groups()
    if target in PAGES:
        return f"[{text}]({PAGES[target]}{anchor or ''})"
    if page in TOP_LEVEL and target.startswith("docs/"):
        return f"[{text}]({target.removeprefix('docs/')}{anchor or ''})"
    folder = ROOT if page in TOP_LEVEL else ROOT / "docs"
    file = (folder / target).resolve()
    if file.exists() and not file.is_relative_to(ROOT / "docs"):
        return text  # a link that leads nowhere at all stays, and fails the build
    return link.group()


def reference() -> dict[str, str]:
    """Return the pages that the code itself holds: name to text."""
    return {
        "api": "\n".join(_api()),
        "commands": "\n".join(_commands()),
        "errors": "\n".join(_errors()),
        "exit-codes": "\n".join(_exit_codes()),
        "tables": "\n".join(_tables()),
    }


def _api() -> Iterator[str]:
    yield "# Python API\n"
    yield "What `from outbox import …` gives. What each module promises: [what may change](../compatibility.md).\n"
    for name in sorted(outbox.__all__, key=lambda name: (name != "Outbox", name.lower())):
        yield f"::: outbox.{name}"
        yield "    options: {merge_init_into_class: false}\n" if name in MADE_BY_CALLS else ""


def _errors() -> Iterator[str]:
    yield "# Errors\n"
    yield "```text"
    yield outbox.errors.__doc__.partition("\n\n")[2].strip()
    yield "```\n"
    yield "::: outbox.errors\n    options:\n      show_root_heading: false\n      inherited_members: false\n"
    yield "      show_docstring_description: false\n"


def _helps() -> Iterator[tuple[str, str]]:
    """Yield each command and its help, as 80 columns show it."""
    group = typer.main.get_command(app)
    queue = [("outbox", group)]
    while queue:
        name, command = queue.pop(0)
        context = typer.Context(command, info_name=name, terminal_width=80, max_content_width=80)
        yield name, command.get_help(context)
        queue[:0] = [(f"{name} {each}", sub) for each, sub in getattr(command, "commands", {}).items()]


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    for name, text in _helps():
        yield f"## {name}\n\n```text\n{text.strip()}\n```\n"


def _exit_codes() -> Iterator[str]:
    yield "# Exit codes\n"
    yield "A mistyped command exits with 2 as well, and says so on stderr; Ctrl-C exits with 130.\n"
    for name, text in _helps():
        found = re.search(r"^( *)Exit codes[^\n]*\n(?:\1 +[^\n]+\n?|\s*\n)*", text, re.MULTILINE)
        if found:
            yield f"## {name}\n\n```text\n{found.group().strip()}\n```\n"


def _tables() -> Iterator[str]:
    yield "# Tables and views\n"
    yield "What a new file holds; a shell may read all of it. How to ask: [a bad night](../forensics.md).\n"
    with sqlite3.connect(":memory:") as file:
        for script in sorted(sql_files.folder("migrations").iterdir(), key=str):
            file.executescript(script.read_text(encoding="utf-8"))
        for kind in ("table", "view"):
            yield f"## {kind.title()}s\n"
            query = "select name, sql from sqlite_schema where type = ? and name not like 'sqlite_%' order by name"
            for name, sql in file.execute(query, (kind,)):
                yield f"### {name}\n\n```sql\n{sql}\n```\n"
