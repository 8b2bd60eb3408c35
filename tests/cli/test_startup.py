"""What a command loads, counted in modules: what it does not load costs no time on any machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import typer

from outbox import BlockingOutbox
from outbox.cli.app import app

# What sends loads these; what only reads the file does not need them.
NETWORK = {"httpx", "httpcore", "h11", "anyio", "tenacity", "certifi", "outbox.postgrest.client", "outbox.store.store"}
# Nor does what only looks: the event loop, and pydantic, which typer and the settings load where they must.
SPARED = {
    "aiosqlite",
    "asyncio",
    "pydantic",
    "pydantic_settings",
    "dotenv",
    "outbox.settings",
    "outbox.stats",
    "outbox.store.reader",
}
MODULES = 41
LOADED = """
import json, sys
from outbox.cli import main
sys.argv = ["outbox", *sys.argv[1:]]
try:
    main()
finally:
    sys.stderr.write(json.dumps(sorted(sys.modules)))
"""


def loaded_by(*typed: object, folder: Path) -> set[str]:
    """Return the modules that the command has loaded when it ends."""
    command = [sys.executable, "-c", LOADED, *map(str, typed)]
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("OUTBOX_", "SUPABASE_"))}
    done = subprocess.run(command, cwd=folder, env=bare, capture_output=True, text=True, timeout=200, check=False)
    return set(json.loads(done.stderr.splitlines()[-1]))


def commands(loaded: set[str]) -> set[str]:
    return {name.removeprefix("outbox.cli.") for name in loaded if name.startswith("outbox.cli.")}


def test_a_command_loads_its_own_module_and_what_that_names(tmp_path: Path) -> None:
    assert commands(loaded_by("--version", folder=tmp_path)) == {"app", "streams"}
    found = commands(loaded_by("status", "--help", folder=tmp_path))
    assert "status_command" in found
    assert not {"drain", "doctor", "watch", "dead_letters", "schema"} & found
    assert {"drain", "doctor", "dead_letters", "schema"} <= commands(loaded_by("--help", folder=tmp_path))


def test_status_loads_nothing_of_the_network_and_no_more_than_it_shows(tmp_path: Path) -> None:
    with BlockingOutbox.open(path=tmp_path / "bot.db") as outbox:
        outbox.put("trades", {"n": 1})
    found = loaded_by("status", "--path", "bot.db", folder=tmp_path)
    assert {"outbox.snapshot", "outbox.store.read_once"} <= found
    assert not (NETWORK | SPARED) & found
    assert sum(name.startswith("outbox.") for name in found) <= MODULES
    assert not (NETWORK | SPARED) & loaded_by("status", "bot.db", "--json", folder=tmp_path)
    assert not {"asyncio", "pydantic"} & loaded_by("--version", folder=tmp_path)
    control = loaded_by("drain", "--help", folder=tmp_path)
    assert control >= (NETWORK | SPARED) - {"dotenv", "httpcore", "h11", "anyio"}  # those come with a `.env`, a client
    assert sum(name.startswith("outbox.") for name in control) > MODULES


def test_a_setting_that_only_the_model_can_read_loads_it(tmp_path: Path) -> None:
    usual = "OUTBOX_PATH=bot.db\nSUPABASE_URL=https://p.supabase.co\nTOKEN=x\n"
    (tmp_path / ".env").write_text(usual, encoding="utf-8")
    assert {"dotenv"} == loaded_by("status", folder=tmp_path) & (SPARED - {"asyncio"})
    (tmp_path / ".env").write_text("OUTBOX_RETENTION_DAYS=3\n", encoding="utf-8")
    assert {"outbox.settings", "pydantic_settings"} <= loaded_by("status", folder=tmp_path)


def test_each_name_leads_to_the_command_of_that_name() -> None:
    group = typer.main.get_command(app)
    found = vars(group)["commands"]
    assert len(found) == 26
    assert [name for name, command in found.items() if command.name != name] == []
    assert "statu" not in found
