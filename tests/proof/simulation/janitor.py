"""Random damage to the files while no process has them, and a random environment for the next one."""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.proof.simulation.world import World

# What may go or come without any row being at stake.
HARMLESS = ("no shm", "no lock", "scribbled lock", "strangers", "environment", "clock")
# What may take rows: it must be told, by `stats().loss`, a file set aside, or a refusal to open.
HARMFUL = ("no wal", "cut wal", "scribbled wal", "scribbled file")
# Under a running bot, which brings back what its connection holds.
VANISHING = ("no shm", "no lock", "no wal", "no file", "moved file")
# If it is killed before it has looked, nothing is left of a file that is gone, and nobody who could tell.
UNTOLD = ("no file", "moved file")
_GONE = {"no shm": "bot.db-shm", "no lock": "bot.db.lock", "no wal": "bot.db-wal", "no file": "bot.db"}
_ENVIRONMENT = {
    "HTTP_PROXY": ("http://127.0.0.1:9", "socks://nowhere", "::"),
    "ALL_PROXY": ("socks5://user@nowhere:1",),
    "NO_PROXY": ("[::1]", "*"),
    "SSL_CERT_FILE": ("/nowhere/certificates.pem",),
    "SSLKEYLOGFILE": ("/nowhere/keys",),
    "OUTBOX_UNKNOWN": ("1",),
    "TZ": ("Pacific/Kiritimati", "nowhere"),
    "LC_ALL": ("C",),
    "TMPDIR": ("/nowhere",),
}
# What each of these settings refuses.
ODD_SETTINGS = (
    ("OUTBOX_BATCH_BYTES", "1 MB"),
    ("OUTBOX_BUSY_TIMEOUT_S", "nan"),
    ("OUTBOX_HEALTH_S", "-1"),
    ("OUTBOX_MAX_PENDING_ROWS", "0"),
    ("OUTBOX_RETENTION_DAYS", "soon"),
    ("OUTBOX_STRICT_ORDER", "perhaps"),
    ("SUPABASE_SECRET_KEY", "a key\nof two lines"),
    ("SUPABASE_URL", "http://not-encrypted.example"),
)


def visit(world: World, path: Path, what: str) -> None:
    """Do one of them; `world` knows from here on whether rows may be missing."""
    world.tell(f"--- the janitor: {what}")
    dice, wal = world.dice, path.with_name("bot.db-wal")
    world.harmed = world.harmed or what in (*HARMFUL, *UNTOLD)
    world.unmarked = world.unmarked or what in ("no lock", "scribbled lock")
    world.cut = world.cut or what in ("cut wal", "scribbled wal")
    if what in _GONE:
        world.hurt = world.hurt or (what == "no wal" and wal.exists())
        path.with_name(_GONE[what]).unlink(missing_ok=True)
    elif what in ("scribbled wal", "scribbled file"):
        _scribble(world, wal if what == "scribbled wal" else path)
    elif what == "moved file" and path.exists():
        path.rename(path.with_name("moved.db"))
    elif what == "scribbled lock":
        path.with_name("bot.db.lock").write_bytes(dice.randbytes(dice.randrange(200)))
    elif what == "strangers":
        _strangers(path, dice)
    elif what == "cut wal" and wal.exists():
        world.hurt = True
        os.truncate(wal, dice.randrange(wal.stat().st_size + 1))
    else:
        _around(world, what)


def _around(world: World, what: str) -> None:
    if what == "environment":
        world.environment = {name: world.dice.choice(values) for name, values in _ENVIRONMENT.items()}
    elif what == "odd setting":
        world.environment |= [world.dice.choice(ODD_SETTINGS)]
    elif what == "clock":
        world.step_clock(world.dice.choice((-1, 1)) * world.dice.choice((3_600, 200_000)))


def _strangers(path: Path, dice: random.Random) -> None:
    """What editors, backups and killed commands leave beside a file."""
    for name in ("bot.db.bak", "bot.db-journal", "bot.db.reserve.new", ".bot.db.swp", "bot.db.inbox/x.request.json"):
        stranger = path.parent / name
        stranger.parent.mkdir(exist_ok=True)
        stranger.write_bytes(b"" if name.endswith("-journal") else dice.randbytes(dice.randrange(50)))


def _scribble(world: World, file: Path) -> None:
    """Write over some bytes, at a place where something stands."""
    size = file.stat().st_size if file.exists() else 0
    if size:
        world.hurt = True
        with file.open("r+b") as stream:
            stream.seek(world.dice.randrange(size))
            stream.write(world.dice.randbytes(world.dice.choice((1, 100, 5_000))))
