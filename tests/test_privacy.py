"""No module touches what is private to another one, and none is too long to be read at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import outbox

PACKAGE = Path(outbox.__file__).parent
# Other libraries' own, each behind one door, with the reason beside it there; and what Python gives a NamedTuple.
FOREIGN = {"_execute", "_conn", "_thread", "_pool", "_get_running_loop", "_replace", "_asdict", "_fields"}


def touched(source: str) -> Iterator[str]:
    """Yield the private attributes that are used here and made elsewhere, be it by a class's own base."""
    nodes = list(ast.walk(ast.parse(source)))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            by_itself = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not by_itself and node.attr not in own | FOREIGN:
                yield ast.unparse(node)


@pytest.mark.slow
def test_no_module_touches_what_is_private_to_another() -> None:
    paths = sorted(PACKAGE.rglob("*.py"))
    found = {path.name: each for path in paths if (each := list(touched(path.read_text("utf-8"))))}
    assert not found and len(paths) > 100


def test_control_a_touch_is_found() -> None:
    assert list(touched("def path(outbox):\n    return outbox._store.path")) == ["outbox._store"]
    assert not list(touched("class A:\n    def __init__(self): self._a = 1\n    def of(self, other): return other._a"))


def longer_than(lines: int) -> list[str]:
    return [path.name for path in PACKAGE.rglob("*.py") if len(path.read_text("utf-8").splitlines()) > lines]


def test_no_module_is_longer_than_400_lines() -> None:
    assert longer_than(400) == []


def test_control_a_long_module_is_found() -> None:
    assert "encoding.py" in longer_than(300)
