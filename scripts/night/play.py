"""Sets the stage, plays the night on it and clears it away."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supabase_lite import ROOT, Driver, EmbeddedPostgres, SupabaseLite

from night.home import Home, own_disk
from night.story import Count, Night
from night.terminal import Terminal, Typed, outbox_command

CACHE: Final = ROOT / ".cache"


@dataclass(frozen=True, slots=True)
class Played:
    """What was typed in the night, and what is where in the morning."""

    typed: list[Typed]
    count: Count


def play(*, say: Callable[[str], None], last: Callable[[Home], None] | None = None) -> Played:
    """Play the whole night. say: told each line as it comes. last: called before all is cleared away.

    Raises NightError: it did not go as it should; RemoteEndError: the remote end did not start.
    """
    with contextlib.ExitStack() as stack:
        CACHE.mkdir(exist_ok=True)
        # Not in /tmp, which may be kept in memory: the doctor would say so.
        temporary = tempfile.TemporaryDirectory(prefix="bad-night-", dir=CACHE)
        folder = Path(stack.enter_context(temporary)).resolve()
        bot, logs = folder / "bot", folder / "logs"
        bot.mkdir()
        logs.mkdir()
        mounted = stack.enter_context(own_disk(bot))
        postgres = stack.enter_context(EmbeddedPostgres())
        remote = stack.enter_context(SupabaseLite(Driver.POSTGRES, dsn=postgres.dsn, progress=say))
        home = Home(bot, remote, postgres, logs)
        stack.callback(home.broker.kill)
        terminal = Terminal(
            bot,
            environment={"SUPABASE_DB_URL": postgres.dsn},
            programs={"outbox": outbox_command(), "psql": [str(postgres.bin / "psql")]},
            say=say,
        )
        count = Night(home, terminal, say=say, own_disk=mounted).play()
        if last:
            last(home)
        return Played(terminal.typed, count)
