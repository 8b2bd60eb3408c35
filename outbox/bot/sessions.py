"""`SessionManager`: the life of a bot's session, from start or recovery to its end.

The state is one row of `outbox_sessions` per source, committed together with its entries: after any crash either both
are there or neither. Remotely a session is an insert at its start and an upsert at its end; both carry a version that
grows, so that with the trigger of `supabase_sql/` an older one that arrives late reverts nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from weakref import WeakValueDictionary

from outbox import logs
from outbox.bot import queries
from outbox.bot.records import check_outbox, event_row, moment
from outbox.bot.session_state import (
    Session,
    SessionEndReason,
    end_figures,
    figure,
    midnight,
    names,
    remote_row,
    restored,
    stored,
    text,
)
from outbox.entry import Operation
from outbox.errors import SessionNotRunning, SessionRunning
from outbox.outbox import Outbox
from outbox.prepare import member, mint_id
from outbox.transaction import AnyTransaction, Transaction

__all__ = ["SessionEndReason", "SessionManager"]

logger: logs.Logger = logs.named("outbox.sessions")

# A clock that is set back across midnight by less than this was corrected: the reported day has only just begun.
_SET_RIGHT = timedelta(hours=12)
# A live manager holds its outbox, so the outbox's address stays its own as long as the entry is here.
_managers: WeakValueDictionary[tuple[int, str], SessionManager] = WeakValueDictionary()


class SessionManager:
    """Starts, or recovers after a crash, and ends the session of one bot; keeps its heartbeat.

    Each coroutine takes `tx`, an open `outbox.transaction()`, to commit with everything else in it; if that is rolled
    back, the session returns to its previous state.

    Args:
        outbox: Where the session is kept, and its rows are put.
        source: Which bot, for two in one process; else the settings' `source`. A session is recovered only under the
            source that started it.

    Raises:
        UsageError: `outbox` is not an Outbox.
    """

    def __init__(self, outbox: Outbox, *, source: str | None = None) -> None:
        check_outbox(outbox, "SessionManager")
        self._outbox = outbox
        self._source = (outbox.source or "") if source is None else source
        self._session = Session()
        self._day_in_file: datetime | None = None

    @property
    def session_id(self) -> str:
        """The running session or the last one of this object; "" before the first."""
        return self._session.session_id

    @property
    def start_time(self) -> datetime | None:
        """When the session began, even if in an earlier process."""
        return self._session.start_time

    @property
    def day_start(self) -> datetime | None:
        """The UTC midnight before the last `check_day_boundary`, at first the one before the start."""
        return self._session.day_start

    @property
    def last_heartbeat(self) -> datetime | None:
        """The last heartbeat that was stored, or written in a block that has not ended."""
        return self._session.last_heartbeat

    @property
    def is_recovered(self) -> bool:
        """Whether an earlier process began the session and did not end it."""
        return self._session.recovered

    @property
    def initial_balance(self) -> float | None:
        """The balance that the session began with."""
        return self._session.initial_balance

    @property
    def current_balance(self) -> float | None:
        """The balance of the last heartbeat that gave one."""
        return self._session.current_balance

    @property
    def symbols(self) -> list[str]:
        """What the session trades."""
        return list(self._session.symbols)

    # ------------------------------------------------------------------------------------------ the session's life

    async def start_session(
        self, initial_balance: float | Decimal | None, symbols: Iterable[str], *, tx: AnyTransaction | None = None
    ) -> str:
        """Begin a session, or continue the one that a crash left running. Durable on return.

        A recovered session keeps its start, day, balances and symbols; the arguments then only appear in the event
        SESSION_RECOVERED, beside the seconds since the last heartbeat (`gap_seconds`, never below 0).
        Other errors as `Outbox.transaction`.

        Args:
            initial_balance: The balance that the session begins with.
            symbols: What the session trades.
            tx: As part of that transaction.

        Returns:
            The session's id, a full UUID.

        Raises:
            SessionRunning: The session is already started. Nothing was written.
            InvalidEntry: The balance is not a number, or the symbols are not a list of strings. Nothing was written.
        """
        balance, traded = figure(initial_balance, "initial_balance"), names(symbols)
        async with self._within(tx) as block:
            self._claim(block)
            rows = await block.execute(queries.FIND.sql, (self._source,))
            if rows:
                await self._recover(block, restored(rows[0]), balance, traded)
            else:
                await self._warn_of_others(block)
                await self._begin(block, balance, traded)
        return self.session_id

    async def end_session(
        self,
        stats: Mapping[str, Any],
        reason: SessionEndReason | str = SessionEndReason.NORMAL,
        *,
        tx: AnyTransaction | None = None,
    ) -> None:
        """End the session. Durable on return. If it raises, the session still runs and can be ended again.

        Other errors as `Outbox.transaction`.

        Args:
            stats: `balance`, `total_trades`, `total_pnl`. A figure that is missing, None or not finite is
                unknown and becomes null, except the balance, which is then the last heartbeat's. Other figures have
                no column: a warning names them.
            reason: Why it ends.
            tx: As part of that transaction.

        Raises:
            SessionNotRunning: No session runs. Nothing was written.
            InvalidEntry: A figure is not a number. Nothing was written.
        """
        why = member(SessionEndReason, reason, field="reason").value
        figures = end_figures(stats)
        async with self._within(tx) as block:
            session = self._session
            if not session.running:
                raise SessionNotRunning(
                    "no session is running: it was never started, or has ended; nothing was written",
                    session_id=session.session_id,
                )
            ended = replace(session, version=session.version + 1, running=False)
            now = self._now()
            if figures["final_balance"] is None:
                figures["final_balance"] = ended.current_balance
            row = {**remote_row(ended), **figures, "end_time": now, "end_reason": why, "status": "STOPPED"}
            await block.put("sessions", row, operation=Operation.UPSERT, on_conflict=("session_id",))
            await block.execute(queries.SAVE.sql, (*stored(ended), self._source, "STOPPED", why, text(now)))
            self._session = ended
            block.when_over(self._after_end)

    async def update_heartbeat(
        self, balance: float | Decimal | None = None, *, tx: AnyTransaction | None = None
    ) -> None:
        """Store a heartbeat, the day, and `balance` if given. One write to the file; nothing is sent.

        Without a running session it does nothing: a ticker may outlive the session. Other errors as
        `Outbox.transaction`.

        Args:
            balance: The current balance.
            tx: As part of that transaction.

        Raises:
            SessionNotRunning: It runs here, but somebody else has ended or removed it in the file.
            InvalidEntry: The balance is not a number. Nothing was written.
        """
        given = figure(balance, "balance")
        if not self._session.running:
            return
        async with self._within(tx) as block:
            before = self._session
            if not before.running:
                return  # it ended while this call waited
            now, current = self._now(), before.current_balance if given is None else given
            values = (text(now), text(before.day_start), current, self._source, before.session_id)
            if not await block.execute(queries.BEAT.sql, values):
                if before.ending:
                    return  # its end was stored after all
                raise SessionNotRunning(
                    f"the file does not hold session {before.session_id} as a running one; nothing was written."
                    " End it, then start the next",
                    session_id=before.session_id,
                )
            self._session = replace(self._session, last_heartbeat=now, current_balance=current)
            block.when_over(lambda committed: self._after_beat(before, committed, shared=tx is not None))

    def check_day_boundary(self) -> bool:
        """Return True once for each new UTC day, or once for several that passed unseen; False at the first call.

        Touches no file: the next heartbeat stores the day. After a crash between the two, the recovered session returns
        True again, so what the bot does on a new day may be repeated. To do it exactly once, commit it together with
        `update_heartbeat(tx=tx)`. A clock that was days ahead and is corrected is followed at once: a day may be
        reported twice, none is missed. One set back by less than half a day across midnight changes nothing.
        """
        now, before = self._now(), self._session.day_start
        today = midnight(now)
        if today == before or (before is not None and now < before < now + _SET_RIGHT):
            return False
        self._session = replace(self._session, day_start=today)
        return before is not None

    # ------------------------------------------------------------------------------------------ inside a transaction

    @contextlib.asynccontextmanager
    async def _within(self, tx: AnyTransaction | None) -> AsyncIterator[Transaction]:
        if tx is not None:
            yield tx.transaction
        else:
            async with self._outbox.transaction() as block:
                yield block

    def _claim(self, block: Transaction) -> None:
        """Let no other manager of this process start the same session; undone if the block is rolled back."""
        other, before = _managers.get(self._place), self._session
        if other is not None and other._session.running:
            whose = "this SessionManager" if other is self else "another SessionManager of this process"
            raise SessionRunning(
                f"session {other.session_id} of source {self._source!r} is run by {whose}; nothing was written."
                " End it first; a second bot in one process needs a source of its own",
                session_id=other.session_id,
            )
        _managers[self._place] = self
        block.when_over(lambda committed: None if committed else self._undo_start(before))

    def _undo_start(self, before: Session) -> None:
        self._session = before
        self._release()

    def _after_end(self, committed: bool) -> None:
        if not committed:
            # Keep the version: if it was committed after all, the next end must be newer.
            self._session = replace(self._session, running=True, ending=True)
            _managers.setdefault(self._place, self)
        elif not self._session.running:  # else the same transaction has started the next one
            self._release()

    def _after_beat(self, before: Session, committed: bool, *, shared: bool) -> None:
        if committed:
            self._day_in_file = before.day_start
        elif self._session.session_id == before.session_id:
            # The bot's own block also rolled back the day's work: `check_day_boundary` reports the day again.
            day = self._day_in_file if shared else self._session.day_start
            last, balance = before.last_heartbeat, before.current_balance
            self._session = replace(self._session, last_heartbeat=last, current_balance=balance, day_start=day)

    def _release(self) -> None:
        if _managers.get(self._place) is self:
            del _managers[self._place]

    @property
    def _place(self) -> tuple[int, str]:
        return id(self._outbox), self._source

    async def _begin(self, block: Transaction, balance: float | None, symbols: tuple[str, ...]) -> None:
        now = self._now()
        session = Session(
            session_id=mint_id(self._outbox.clock.now_ms(), os.urandom(10)),
            start_time=now,
            day_start=midnight(now),
            last_heartbeat=now,
            initial_balance=balance,
            symbols=symbols,
            version=1,
            running=True,
        )
        row = {**remote_row(session), "status": "RUNNING"}
        await block.put("sessions", row, operation=Operation.INSERT, key=session.session_id)
        await self._run(block, session)

    async def _warn_of_others(self, block: Transaction) -> None:
        """Warn that the file holds running sessions of other sources, which this process does not run."""
        for source, session_id, last in await block.execute(queries.FIND_OTHERS.sql, (self._source,)):
            if (id(self._outbox), source) not in _managers:
                facts = {"source": self._source, "other": source, "session_id": session_id, "last_heartbeat": last}
                logger.warning("another source has a running session in this file", extra=facts)

    async def _recover(
        self, block: Transaction, found: Session, balance: float | None, symbols: tuple[str, ...]
    ) -> None:
        now, last = self._now(), found.last_heartbeat
        assert last is not None
        facts = {
            "old_session_id": found.session_id,
            "recovered_at": now,
            "start_time": found.start_time,
            "last_heartbeat": last,
            "gap_seconds": max(0.0, (now - last).total_seconds()),
            "balance": balance,
            "symbols": symbols,
        }
        row = event_row("SESSION_RECOVERED", facts, found.session_id, now=now)
        await block.put("events", row, operation=Operation.INSERT)
        await self._run(block, replace(found, last_heartbeat=now, running=True, recovered=True))

    async def _run(self, block: Transaction, session: Session) -> None:
        await block.execute(queries.SAVE.sql, (*stored(session), self._source, "RUNNING", None, None))
        self._session = session
        self._day_in_file = session.day_start

    def _now(self) -> datetime:
        return moment(self._outbox.clock.now_ms())
