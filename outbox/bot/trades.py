"""`TradeLogger`: one session's trades, real and simulated, on disk when the call returns."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol

from outbox.bot.records import check_outbox, put_trade
from outbox.columns import SHIPPED
from outbox.errors import InvalidEntry
from outbox.outbox import Outbox
from outbox.store.receipts import Receipt
from outbox.transaction import AnyTransaction

Number = float | Decimal


class PaperTrade(Protocol):
    """What `log_paper_trade` reads from a simulated trade; any object with these attributes will do."""

    @property
    def symbol(self) -> str: ...
    @property
    def direction(self) -> int | None: ...
    @property
    def intensity(self) -> int | None: ...
    @property
    def volume(self) -> Number | None: ...
    @property
    def entry_price(self) -> Number | None: ...
    @property
    def exit_price(self) -> Number | None: ...
    @property
    def pnl(self) -> Number | None: ...
    @property
    def pnl_pips(self) -> Number | None: ...
    @property
    def hmm_state(self) -> int | None: ...
    @property
    def commission(self) -> Number | None: ...


# Each property of `PaperTrade` is a column of `trades`.
_PAPER = tuple(name for name in SHIPPED["trades"] if name in vars(PaperTrade))


class TradeLogger:
    """Records trades under one session. Every method returns the receipt once the trade is on disk.

    Rounding leaves None, NaN and infinities alone, and a Decimal stays a Decimal.

    Args:
        outbox: Where the trades are put.
        session_id: Whose trades these are.
        round_pnl: Decimals that `log_trade` and `log_paper_trade` round to. None: as given, so that a gain below a cent
            stays visible (the old module rounded to 2).
        round_pips: The same for pips (the old module rounded to 1).

    Raises:
        UsageError: `outbox` is not an Outbox.
    """

    def __init__(
        self, outbox: Outbox, session_id: str, *, round_pnl: int | None = None, round_pips: int | None = None
    ) -> None:
        check_outbox(outbox, "TradeLogger")
        self._outbox = outbox
        self._round_pnl = round_pnl
        self._round_pips = round_pips
        self.session_id = session_id

    async def log_trade(  # noqa: D417 - the others are columns of `trades`
        self,
        symbol: str,
        direction: int | None,
        intensity: int | None,
        action: str | None,
        volume: Number | None,
        entry_price: Number | None,
        exit_price: Number | None,
        pnl: Number | None,
        pnl_pips: Number | None,
        hmm_state: int | None,
        *,
        commission: Number | None = 0,
        comment: str | None = "",
        is_paper: bool = False,
        id: object = None,
        tx: AnyTransaction | None = None,
    ) -> Receipt:
        """Record one trade, now; errors as `Outbox.put`.

        Args:
            is_paper: Simulated.
            id: The broker's own name for it. Logged again, for example after a restart, it is the same trade: the
                first one stays, whatever the second says, and the receipt says `duplicate`.
            tx: As part of that transaction.
        """
        trade = {
            "session_id": self.session_id,
            "symbol": symbol,
            "direction": direction,
            "intensity": intensity,
            "action": action,
            "volume": volume,
            "entry_price": entry_price,
            "exit_price": exit_price,
            "pnl": rounded(pnl, self._round_pnl),
            "pnl_pips": rounded(pnl_pips, self._round_pips),
            "commission": commission,
            "hmm_state": hmm_state,
            "comment": comment,
            "is_paper": is_paper,
        }
        return await put_trade(self._outbox, trade, tx, id=id)

    async def log_real_trade(
        self, trade_data: Mapping[str, object], *, id: object = None, tx: AnyTransaction | None = None
    ) -> Receipt:
        """Record a trade that was executed, as `SupabaseClient.log_trade` does; errors as `Outbox.put`.

        Args:
            trade_data: It is not changed, and nothing in it is rounded. It counts as real and as this session's,
                whatever it contains.
            id: As `log_trade`.
            tx: As part of that transaction.
        """
        trade = {**trade_data, "is_paper": False, "session_id": self.session_id}
        return await put_trade(self._outbox, trade, tx, id=id)

    async def log_paper_trade(
        self, paper_trade: PaperTrade, *, id: object = None, tx: AnyTransaction | None = None
    ) -> Receipt:
        """Record a simulated trade that was closed; other errors as `Outbox.put`.

        Args:
            paper_trade: Any object with the attributes of `PaperTrade`.
            id: As `log_trade`.
            tx: As part of that transaction.

        Raises:
            InvalidEntry: `paper_trade` lacks an attribute. Nothing was written.
        """
        values = {name: _attribute(paper_trade, name) for name in _PAPER}
        return await self.log_trade(**values, action="CLOSE", is_paper=True, id=id, tx=tx)


def rounded(value: Any, digits: int | None) -> Any:
    """Return `value` rounded to `digits` decimals; unchanged if it cannot be rounded."""
    if digits is None or value is None:
        return value
    try:
        return round(value, digits)
    except (TypeError, ValueError, OverflowError, InvalidOperation):
        return value


def _attribute(paper_trade: PaperTrade, name: str) -> Any:
    try:
        return getattr(paper_trade, name)
    except AttributeError:
        kind = type(paper_trade).__name__
        raise InvalidEntry(f"a {kind} without this attribute", field=f"paper_trade.{name}") from None
