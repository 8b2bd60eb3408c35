"""What `scripts/test` runs with the installed wheel, from a folder without the source. Argument: the source's root."""

import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import outbox
from outbox.errors import OutboxError

source = Path(sys.argv[1]).resolve()
assert source not in [Path(entry).resolve() for entry in sys.path], sys.path
assert not Path(outbox.__file__).resolve().is_relative_to(source), outbox.__file__
assert issubclass(OutboxError, Exception)
for folder in ("_migrations", "_supabase_sql"):
    names = [file.name for file in (files("outbox") / folder).iterdir()]
    assert any(name.endswith(".sql") for name in names), (folder, names)
assert (files("outbox") / "py.typed").is_file()

sys.stdout.write(f"durable-outbox {version('durable-outbox')} works from its wheel\n")
