"""What `scripts/test` runs with the installed wheel, from a folder without the source. Argument: the source's root."""

import asyncio
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import outbox
from outbox import Outbox, Settings

source = Path(sys.argv[1]).resolve()
assert source not in [Path(entry).resolve() for entry in sys.path], sys.path
assert not Path(outbox.__file__).resolve().is_relative_to(source), outbox.__file__
assert outbox.__version__ == version("durable-outbox")
assert (files("outbox") / "py.typed").is_file()
assert (files("outbox") / "_docs" / "forensics.md").is_file()
assert (files("outbox") / "web" / "templates" / "index.html").is_file()
assert any(file.name.endswith(".sql") for file in (files("outbox") / "_supabase_sql").iterdir())


async def use(path: Path) -> None:
    async with Outbox.open(Settings(path=path)) as opened:  # the migrations come from inside the wheel
        receipt = await opened.put("events", {"event_type": "WHEEL"})
        assert receipt.seq == 1


with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "new" / "bot.db"
    asyncio.run(use(file))
    command = Path(sys.executable).with_name("outbox.exe" if sys.platform == "win32" else "outbox")
    status = subprocess.run([command, "status", "--path", file, "--json"], capture_output=True, text=True, cwd=folder)
    assert json.loads(status.stdout)["pending"] == 1, (status.stdout, status.stderr)
    arguments = ["schema", "apply", "--dry-run", "--optional", "partitions"]  # from inside the wheel too
    schema = subprocess.run([command, *arguments], capture_output=True, text=True, encoding="utf-8", cwd=folder)
    assert "0001_tables.sql" in schema.stdout, (schema.stdout, schema.stderr)
    assert "add_months" in schema.stdout

sys.stdout.write(f"durable-outbox {outbox.__version__} works from its wheel\n")
