"""A step beyond the newest migration, so that migrating stays exercised whatever has been released."""

from __future__ import annotations

from outbox.store import migrate
from outbox.store.migrations import Migration, shipped

NUMBER = len(shipped()) + 1
STEP = Migration(
    NUMBER,
    f"{NUMBER:04}_planted",
    """-- A column, an index over what is there, a trigger made anew, and a view.
alter table outbox add column planted text;
create index outbox_planted on outbox (planted) where planted is not null;
drop trigger outbox_edits_gone;
create trigger outbox_edits_gone after delete on outbox
begin
    delete from outbox_edits where seq = old.seq;
end;
create view v_planted as select count(planted) as planted from outbox;
""",
)
_STEPS = (*shipped(), STEP)


def with_planted() -> tuple[Migration, ...]:
    """Return the shipped steps and the planted one."""
    return _STEPS


def plant() -> None:
    """Make this process the next version of the library."""
    migrate.shipped = with_planted
