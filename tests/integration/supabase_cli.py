"""Supabase's own command line: `db push`, and `db advisors`, which runs its database linter (splinter).

The version that tests/integration/tools/package-lock.json pins is installed once, beside Supabase Lite. It needs
neither Docker nor a network: both commands speak to the database alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from supabase_lite import RemoteEndError, find_node, install

MANIFEST = Path(__file__).parent / "tools"

# The linter takes the schemas that PostgREST shows from here in version 3, from the database's settings in version 2.
_CONFIG = """\
project_id = "outbox"
[api]
schemas = ["public", "graphql_public", "pgmq_public"]
"""


class Finding(NamedTuple):
    """What the linter found: its rule, the table or function, and its own sentence."""

    rule: str
    name: str
    detail: str


class SupabaseCli:
    """The program in a project folder of its own. `migrations`: where `db push` looks for files."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._project = folder / "project"
        self._home = folder / "home"
        self.migrations = self._project / "supabase" / "migrations"
        self.migrations.mkdir(parents=True)
        self._home.mkdir()
        (self._project / "supabase" / "config.toml").write_text(_CONFIG, "utf-8")

    @staticmethod
    def install() -> Path:
        """Return the program's path. Raises RemoteEndError: it cannot be had, or there is none for this machine."""
        packages = install(find_node(), manifest=MANIFEST)
        # The program itself: the wrapper in the package `supabase` is a process more, and a time-out would end only it.
        for name in ("supabase", "supabase.exe"):
            for program in sorted(packages.glob(f"@supabase/cli-*/bin/{name}")):
                return program
        raise RemoteEndError("the Supabase command line has no program for this machine")

    def copy(self, files: Iterable[Path]) -> None:
        """Make the files migrations of the project, under their own names."""
        for file in files:
            shutil.copy(file, self.migrations)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end, as one who has said yes to what it would ask."""
        # Told not to look whether a program or a person calls it: what it writes is the same for both.
        command = [str(self._program), *arguments, "--yes", "--agent", "no"]
        return subprocess.run(
            command,
            cwd=self._project,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=200,
            check=False,
        )

    def push(self, dsn: str, *flags: str) -> subprocess.CompletedProcess[str]:
        return self.run("db", "push", "--db-url", dsn, *flags)

    def findings(self, dsn: str) -> list[Finding]:
        """What all rules of the linter find, those of level INFO too."""
        done = self.run("db", "advisors", "--db-url", dsn, "--level", "info", "--output-format", "json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)["results"]
        return [Finding(each["name"], each["metadata"].get("name", ""), each["detail"]) for each in found]

    def _environment(self) -> Mapping[str, str]:
        """Nothing of the caller's Supabase or PostgreSQL settings, no telemetry, no look for a newer version."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SUPABASE_", "PG"))}
        home = str(self._home)
        return kept | {
            "HOME": home,
            "USERPROFILE": home,
            "SUPABASE_HOME": home,
            "DO_NOT_TRACK": "1",
            "SUPABASE_TELEMETRY_DISABLED": "1",
            "SUPABASE_NO_UPDATE_NOTIFIER": "1",
            "NO_COLOR": "1",
            "PGSSLMODE": "disable",  # the wheel's PostgreSQL has no TLS; it would be tried first
        }
