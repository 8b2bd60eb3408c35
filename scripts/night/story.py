"""One trouble after the other: what happens, what the operator sees, what is typed about it, and what comes back.

Each command that is typed was suggested by an earlier answer (the terminal refuses any other), but for `outbox status`,
which the README names. The troubles are the methods of `Night`, in the order in which `play` calls them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from night.home import LAST_SMALL_TICKET, Home
from night.terminal import NightError, Terminal, Typed

STALLED: Final = (2,)
FAULT: Final = (2,)
HINDERED: Final = (4,)
# Some of them still fit where the WAL has been before.
FILLS_ON_A_FULL_DISK: Final = 300
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What is odd about two fills of the night: a volume in another country's spelling, and a time that is none.
COMMA: Final = LAST_SMALL_TICKET - 5
NOTICE: Final = LAST_SMALL_TICKET - 3
QUIRKS: Final[dict[str, dict[str, object]]] = {
    f"fill_{COMMA}": {"volume": "0,1"},
    f"fill_{NOTICE}": {"notices": [{"time": "soon", "text": "maintenance"}]},
}


@dataclass(frozen=True, slots=True)
class Count:
    """What is where in the morning. fills: that the bot acknowledged."""

    fills: int
    trades: int
    different_trades: int
    missing_trades: int
    events: int
    different_events: int
    expected_events: int
    given_up: int
    dead_or_pending: int

    def exactly_once(self) -> bool:
        """Whether each write is at the remote end once, but for the one that was given up with a reason."""
        return (
            self.trades == self.different_trades == self.fills
            and self.missing_trades == self.dead_or_pending == 0
            and self.events == self.different_events == self.expected_events
            and self.given_up == 1
        )


class Night:
    """The troubles of one night."""

    def __init__(self, home: Home, terminal: Terminal, *, say: Callable[[str], None], own_disk: bool) -> None:
        """own_disk: the bot's folder is a disk of its own, which can be filled."""
        self._home = home
        self._terminal = terminal
        self._say = say
        self._own_disk = own_disk

    def play(self) -> Count:
        """Let it all happen, and count."""
        self.evening()
        self.outage()
        self.key()
        self.column()
        self.poison()
        self.kill()
        if self._own_disk:
            self.full_disk()
        return self.morning()

    # ------------------------------------------------------------------------------------------ the troubles

    def evening(self) -> None:
        """All is well."""
        home = self._home
        home.migrate("alter table public.trades add column ticket int")  # the bot's author keeps the broker's number
        home.configure()
        home.start_bot()
        home.trade(20)
        home.until(home.all_sent, "the first fills are sent")
        self._types("evening-status", "outbox status")

    def outage(self) -> None:
        """The remote end is gone, and comes back by itself."""
        home = self._home
        self._say("-- the remote end does not answer any more")
        home.remote.stop()
        home.trade(30)
        home.until(lambda: home.paused("unreachable"), "the pause is in the file")
        # Whether the connection was refused or broke off hangs on the moment.
        self._types("outage-status", "outbox status", codes=STALLED, varies=True)
        self._types("outage-doctor", "outbox doctor", told="outbox doctor", codes=FAULT, varies=True)
        self._say("-- the remote end is back")
        home.remote.start()
        home.until(home.all_sent, "the outage's fills are sent")
        self._types("outage-over", "outbox status")

    def key(self) -> None:
        """The project's key is replaced; the bot has the old one."""
        home = self._home
        self._say("-- somebody rotates the project's secret key")
        home.remote.stop()
        home.remote.rotate_key()
        home.remote.start()
        home.trade(30)
        home.until(lambda: home.paused("unauthorized"), "the key is refused")
        self._types("key-status", "outbox status", codes=STALLED)
        self._types("key-doctor", "outbox doctor", told="outbox doctor", codes=FAULT)
        self._say("-- the new key goes into .env")
        home.configure()
        self._types("key-reload", "outbox reload", told="then: outbox reload")
        home.until(home.all_sent, "all is sent with the new key")
        self._types("key-over", "outbox status")

    def column(self) -> None:
        """Somebody drops a column that the bot sends."""
        home = self._home
        self._say("-- a migration drops trades.pnl_pips")
        home.migrate("alter table public.trades drop column pnl_pips")
        home.trade(30)
        home.until(lambda: home.paused("schema") and home.count("pending") == 30, "trades wait, events pass")
        self._types("column-status", "outbox status", codes=STALLED)
        doctor = self._types("column-doctor", "outbox doctor", told="outbox doctor", codes=FAULT)
        mend = self._suggested(doctor, r'psql "\$SUPABASE_DB_URL" .*0001_tables.sql')
        self._types("column-mend", mend, told=mend)
        home.remote.stop()  # Supabase's server learns of the column by itself, this one by a restart
        home.remote.start()
        self._types("column-reload", "outbox reload", told="then: outbox reload")
        home.until(home.all_sent, "the trades are sent")
        self._types("column-over", "outbox status")

    def poison(self) -> None:
        """Five writes that the server refuses for good: two ways to spell, and tickets that do not fit any more."""
        home = self._home
        self._say("-- the broker's tickets pass 2,147,483,647; a volume has a comma; a notice has no time")
        home.trade(LAST_SMALL_TICKET + 3 - home.fed, **QUIRKS)
        home.until(lambda: home.all_acknowledged() and home.count("dead") == 5, "five entries are dead")
        home.until(home.all_sent, "all others are sent")
        self._types("poison-status", "outbox status", codes=(1,))
        listed = self._types("poison-ls", "outbox ls --state dead", told="outbox ls --state dead")
        ticket, notice, volume = (self._dead(listed, code) for code in ("22003", "22007", "22P02"))
        self._types("poison-show", f"outbox show {ticket}", told="outbox show ID")
        mend = 'psql "$SUPABASE_DB_URL" -c "alter table public.trades alter column ticket type bigint"'
        self._types("poison-mend", mend, told="out of range for type integer")
        self._types("poison-dead", "outbox dead", told="outbox dead")
        again = "outbox requeue --destination trades --code 22003"
        self._types("poison-requeue", again, told=again, answers="y")
        self._types("poison-show-volume", f"outbox show {volume}", told="outbox show ID")
        self._types(
            "poison-edit",
            f"outbox edit {volume}",
            told=f"outbox edit {volume}",
            answers="y",
            editor=_editor("0,1", "0.1"),
        )
        self._types("poison-show-notice", f"outbox show {notice}", told="outbox show ID")
        discard = f'outbox discard --reason "the broker tells no time" {notice}'
        self._types("poison-discard", discard, told="outbox discard --reason", answers="y")
        home.until(lambda: home.all_sent() and home.count("dead") == 0, "what was fixed is sent")
        self._types("poison-over", "outbox status")

    def kill(self) -> None:
        """The bot is killed while it sends."""
        home = self._home
        self._say("-- kill -9")
        begin = home.acknowledged
        with home.held("trades"):
            home.trade(200)
            home.until(
                lambda: home.acknowledged >= begin + 120 and home.waiting_requests() > 0, "it is in the middle of it"
            )
            home.broker.kill()
        self._types("kill-status", "outbox status", codes=(0, *STALLED), varies=True)
        self._say("-- the bot is started again")
        home.start_bot()
        home.trade(begin + 200 - home.fed)
        home.until(home.all_sent, "all is sent")
        self._types("kill-over", "outbox status")

    def full_disk(self) -> None:
        """A log file takes all the room that the disk has, while the remote end is there."""
        home = self._home
        self._say("-- broker.log takes all the room that is left")
        home.fill_disk()
        home.trade(FILLS_ON_A_FULL_DISK)
        home.until(home.hindered, "the bot holds a fill, and the file says why")
        home.until(lambda: home.count("pending") == 0, "what it has is sent all the same")
        self._types("disk-status", "outbox status", codes=HINDERED, varies=True)
        self._types("disk-doctor", "outbox doctor", told="outbox doctor", codes=FAULT, varies=True)
        self._types("disk-mend", "rm broker.log", told="make room on that disk")
        home.until(home.all_sent, "the bot goes on with the fill that it holds")
        home.until(lambda: not home.hindered(), "the reserve is set aside again")
        self._types("disk-over", "outbox status", varies=True)

    def morning(self) -> Count:
        """The broker hangs up; the bot ends its session, sends everything and ends. Count it all, by SQL."""
        home = self._home
        home.broker.hang_up()
        query = "select pending, delivered, dead, discarded, pruned, removed from v_health"
        self._types("morning-local", f'sqlite3 -readonly -box bot.db "{query}"', varies=True)
        why = "select destination, words from v_history where event = 'discarded'"
        self._types("morning-given-up", f'sqlite3 -readonly -box bot.db "{why}"')
        self._types("morning-remote", f'psql "$SUPABASE_DB_URL" -c "{REMOTE_COUNT}"', varies=True)
        return count(home)

    # ------------------------------------------------------------------------------------------ typing

    def _types(
        self,
        name: str,
        command: str,
        *,
        told: str = "",
        codes: tuple[int, ...] = (0,),
        answers: str = "",
        editor: str = "",
        varies: bool = False,
    ) -> Typed:
        return self._terminal.types(
            name, command, told=told, codes=codes, answers=answers, editor=editor, varies=varies
        )

    @staticmethod
    def _suggested(typed: Typed, pattern: str) -> str:
        """Return the command that an answer prints. Raises NightError: it prints none."""
        found = re.search(pattern, typed.answer)
        if found is None:
            raise NightError(f"{typed.command!r} suggests no {pattern}:\n{typed.answer}")
        return found[0]

    @staticmethod
    def _dead(listed: Typed, code: str) -> str:
        """Return the id of the first entry in a list that was refused with this code."""
        lines = listed.answer.splitlines()
        for above, line in zip(lines, lines[2:], strict=False):  # between them: what the row says
            if code in line and (found := _ID.match(above)):
                return found[0]
        raise NightError(f"nothing was refused with {code}:\n{listed.answer}")


REMOTE_COUNT: Final = (
    "select 'trades' as table, count(*), count(distinct trade_id) as different from trades"
    " union all select 'events', count(*), count(distinct id) from events"
    " union all select 'sessions', count(*), count(distinct session_id) from sessions"
)


def _editor(old: str, new: str) -> str:
    """Return a command that stands for an operator who replaces one text by another."""
    code = "import sys, pathlib; f = pathlib.Path(sys.argv[3]); f.write_text(f.read_text().replace(*sys.argv[1:3]))"
    return f'{Path(sys.executable).as_posix()} -c "{code}" {old} {new}'


def count(home: Home) -> Count:
    """Count what the bot acknowledged against what is in the remote tables."""
    acknowledged = home.broker.told["trades"]
    with home.sql() as sql:
        trades = [int(number) for (number,) in sql.execute("select trade_id from public.trades").fetchall()]
        events = sql.execute("select data ->> 'number' from public.events where event_type = 'TEN_FILLS'").fetchall()
    return Count(
        fills=len(acknowledged),
        trades=len(trades),
        different_trades=len(set(trades)),
        missing_trades=len(acknowledged - set(trades)),
        events=len(events),
        different_events=len(set(events)),
        expected_events=home.fed // 10,
        given_up=home.count("discarded"),
        dead_or_pending=home.count("dead") + home.count("pending"),
    )
