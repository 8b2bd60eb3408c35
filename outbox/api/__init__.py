"""Floor 6 · api. What a bot calls: opens, wires, closes.

outbox       `Outbox` itself
intake       from a caller's row to an entry
futures      what `put_nowait` returns
transaction  all or nothing, together with the bot's own SQL
drains       sending until nothing is left
remote       the remote end as the settings name it now
reports      what `drain` and `stats` return
"""

from outbox.api.intake import DECLARED
from outbox.api.outbox import Outbox
from outbox.api.reports import DrainReport, Stats
from outbox.api.transaction import Transaction

__all__ = ["DECLARED", "DrainReport", "Outbox", "Stats", "Transaction"]
