"""Runs the Python of a Markdown page, so that what a reader copies works.

Every fenced block that begins with ```python is one block. The blocks of a page run in their order, in one namespace
and one event loop, and may use `await` at their top level. A block that calls `asyncio.run` itself runs in a thread of
its own. A comment in front of a fence, <!-- not run: why -->, lets the block only be compiled.

A failure's traceback names the page and the line in it.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import linecache
import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from outbox import Outbox

_FENCE = re.compile(r"\s*```(\w*)\s*$")
_NOT_RUN = re.compile(r"\s*<!-- not run: (.+) -->\s*$")


@dataclass(frozen=True, slots=True)
class Block:
    """One block. line: where its first line stands in the page, from 1. not_run: why, or None: it runs."""

    page: Path
    line: int
    text: str
    not_run: str | None

    def compiled(self) -> CodeType:
        """Return the code, with the page's own line numbers. Raises SyntaxError."""
        padded = "\n" * (self.line - 1) + self.text
        code = compile(padded, str(self.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        assert isinstance(code, CodeType)
        return code


def blocks_of(page: Path) -> list[Block]:
    """Return the page's blocks. Raises ValueError: it has none, or the last fence is open."""
    blocks: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    before, start, language = "", None, ""
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if start is None and fence:
            start, language = number + 1, fence[1]
        elif start is not None and fence and not fence[1]:
            if language == "python":
                text = textwrap.dedent("\n".join(lines[start - 1 : number - 1]))
                reason = _NOT_RUN.match(before)
                blocks.append(Block(page, start, text, reason[1] if reason else None))
            start = None
        elif start is None and line.strip():
            before = line
            continue
        before = before if start is not None else ""
    if start is not None or not blocks:
        raise ValueError(f"{page} has no block of Python, or an open one")
    return blocks


async def run_page(page: Path, folder: Path, *, fresh_folders: bool = False) -> int:
    """Run a page in the working directory `folder` and return how many blocks ran.

    fresh_folders: each block in an empty folder of its own below it; what one has imported or defined stays.
    """
    blocks = blocks_of(page)
    linecache.checkcache(str(page))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        for block in blocks:
            with _inside(folder / f"line-{block.line}" if fresh_folders else folder):
                await _run(block, namespace)
    finally:
        for value in list(namespace.values()):
            if isinstance(value, Outbox):
                await value.close()
    return sum(block.not_run is None for block in blocks)


async def _run(block: Block, namespace: dict[str, Any]) -> None:
    code = block.compiled()
    if block.not_run is not None:
        return
    if "asyncio.run(" in block.text:
        await asyncio.to_thread(exec, code, namespace)
        return
    result = eval(code, namespace)
    if inspect.iscoroutine(result):
        await result


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
