"""Random programs, from a seed alone: what the bots do, what happens around them, when the process is killed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.proof.simulation.janitor import HARMFUL, HARMLESS, ODD_SETTINGS, VANISHING
from tests.proof.simulation.network import MOODS
from tests.proof.simulation.world import BOUND_S, Action, trade_id

TABLES = {"trades": 5, "legs": 2, "orders": 2, "sessions": 2, "marks": 3}  # with how often each is written to


@dataclass(frozen=True)
class Life:
    """From an opening to a close or a kill. bots: what each does, one action after the other."""

    bots: list[list[Action]]
    settings: dict[str, Any] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)  # what the janitor does while no process has the files
    kill_at: int | None = None
    eager: float = 0.3
    stalls: float = 0.0


@dataclass(frozen=True)
class Program:
    """Lives, one after the other; `run` adds a last one in which everything is sound."""

    seed: int
    lives: list[Life]

    def actions(self) -> int:
        """Return how many there are."""
        return sum(len(life.before) + sum(map(len, life.bots)) for life in self.lives)


class _Maker:
    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.n = 0
        self.busy_lives = 0
        self.weights = list(TABLES.values())
        self.trades: list[int] = []

    def number(self) -> int:
        self.n += 1
        return self.n

    # ------------------------------------------------------------------------------------------ rows

    def write(self, bot: int) -> dict[str, Any]:
        """Return one put: its number, table, operation and row."""
        dice, n = self.dice, self.number()
        table = dice.choices(list(TABLES), self.weights)[0]
        row: dict[str, Any] = {"n": n}
        operation = "insert"
        if table == "trades":
            self.trades.append(n)
            row |= {"id": trade_id(n)} if dice.random() < 0.7 else {}
            self._spoil(row)
        elif table == "legs":
            near = dice.random()
            row["trade"] = trade_id(dice.choice(self.trades) if self.trades and near < 0.6 else n + dice.randrange(9))
            row["id"] = f"l{n}"
        elif table == "orders":
            row |= {"k": f"k{bot}"}
        elif table == "sessions":
            row |= {"session_id": f"s{bot}", "version": n}
            operation = "upsert"
        elif dice.random() < 0.5:
            row |= {"symbol": f"m{bot}-{dice.randrange(2)}"}
            operation = "upsert"
        else:
            row = {"u": n, "symbol": f"m{bot}-{dice.randrange(2)}"}
            operation = "update"
        return {"n": n, "table": table, "operation": operation, "row": row}

    def _spoil(self, row: dict[str, Any]) -> None:
        chance = self.dice.random()
        if chance < 0.05:
            row["poison"] = True
        elif chance < 0.09:
            row["big"] = "x" * self.dice.choice((1_500, 5_000))
        elif chance < 0.13:
            row["fill"] = self.dice.randrange(3)
        elif chance < 0.17:
            row["slow"] = self.dice.choice((1, 2, 4, -1))

    # ------------------------------------------------------------------------------------------ actions

    def action(self, bot: int) -> Action:
        """Return something that a bot, an operator or the world does."""
        around = {"latency": 1, "mood": 4, "bad": 4, "clock": 2, "shell": 2}
        calls = {
            "put": 30, "many": 5, "nowait": 5, "cancelled": 4, "transaction": 6, "sleep": 16, "drain": 3, "look": 3,
            "requeue": 2, "discard": 1, "rest": 1, "reload": 1, "session": 3, "again": 3, "thread": 3, "request": 2,
            "keep": 2, "edit": 2, "resend": 1, "vanish": 1,
        }  # fmt: skip
        kind = self.dice.choices([*around, *calls], [*around.values(), *calls.values()])[0]
        return kind, self._around(kind) if kind in around else self._call(kind, bot)

    def _around(self, kind: str) -> dict[str, Any]:
        dice = self.dice
        match kind:
            case "latency":
                return {"s": dice.choice((0.005, 0.05, 0.5))}
            case "mood":
                table, mood = dice.choice((None, *TABLES)), dice.choice(("down", *MOODS))
                return {"table": table, "kind": mood, "s": dice.uniform(0, 60)}
            case "bad":
                return {"share": dice.choice((0.1, 0.5, 0.9)), "s": dice.uniform(1, 60)}
            case "clock":
                return {"s": dice.choice((-1, 1)) * dice.choice((1, 3_600, 90_000, 40_000_000))}
            case _:
                return {"n": self.number()}

    def _call(self, kind: str, bot: int) -> dict[str, Any]:
        dice = self.dice
        found: dict[str, Callable[[], dict[str, Any]]] = {
            "request": lambda: {"action": dice.choice(("reload", "adopt", "prune", "acknowledge", "nonsense"))},
            "again": lambda: {"put": self.write(bot), "other": dice.random() < 0.3},
            "many": lambda: {"numbers": self._numbers(), "together": dice.random() < 0.3},
            "keep": lambda: {"numbers": self._numbers()},
            "edit": lambda: {"pick": dice.randrange(9)},
            "resend": lambda: {"destination": dice.choice((None, *TABLES))},
            "vanish": lambda: {"what": dice.choice(VANISHING), "n": self.number()},
            "transaction": lambda: self._transaction(bot),
            "sleep": lambda: {"s": dice.choice((0.0, 0.01, 0.3, 2.0, 30.0)) * dice.random()},
            "drain": lambda: {"timeout": dice.choice((0.5, 5.0, 30.0))},
            "rest": lambda: {"s": dice.uniform(0, 20)},
            "session": lambda: {"do": dice.choice(("start", "beat", "end"))},
        }
        if kind in ("put", "nowait", "cancelled", "thread"):
            return {"put": self.write(bot), "after": dice.randrange(40)}
        return found[kind]() if kind in found else {}

    def _transaction(self, bot: int) -> dict[str, Any]:
        end = self.dice.choices(("commit", "raise", "expire", "cancel"), (6, 2, 1, 1))[0]
        return {"puts": [self.write(bot) for _ in range(self.dice.randrange(1, 4))], "end": end}

    def _numbers(self) -> list[int]:
        return [self.number() for _ in range(self.dice.randrange(1, 6))]

    def visits(self) -> list[str]:
        """Return what the janitor does before the next life."""
        kinds, dice = [*HARMLESS, *HARMFUL], self.dice
        return [dice.choice(kinds if dice.random() < 0.3 else HARMLESS) for _ in range(dice.choice((0, 0, 1, 2)))]

    # ------------------------------------------------------------------------------------------ special loads

    def busy(self) -> list[list[Action]]:
        """A load on three tables that never ends while a row of another one has met a timeout."""
        seconds, first = BOUND_S + 90, 100_000 * self.busy_lives  # no number is put twice
        self.busy_lives += 1
        loads: list[list[Action]] = [
            [("load", {"table": f"busy{lane}", "first": 1_000_000 * (lane + 1) + first, "every_s": 0.8, "s": seconds})]
            for lane in range(3)
        ]
        rows = [self.write(9) for _ in range(4)]
        quiet: list[Action] = [("put", {"put": row, "after": 0}) for row in rows]
        slow = self.number()
        row = {"n": slow} | {"slow": self.dice.choice((1, 2))}
        put = {"n": slow, "table": "quiet", "operation": "insert", "row": row}
        return [*loads, [("latency", {"s": 1.0}), *quiet, ("put", {"put": put, "after": 0}), ("sleep", {"s": 20.0})]]

    def patient(self) -> list[list[Action]]:
        """Children whose parents come an hour later, and updates whose rows do, while the clock is set."""
        dice = self.dice
        first, cure = [self.number() for _ in range(3)], [self.number() for _ in range(3)]
        legs = [put(n, "legs", {"id": f"l{n}", "trade": trade_id(p)}) for n, p in zip(first, cure, strict=True)]
        trades = [put(n, "trades", {"id": trade_id(n)}) for n in cure]
        early = self.number()
        update = ("put", {"put": {"n": early, "table": "marks", "operation": "update",
                                  "row": {"u": early, "symbol": "m8"}}, "after": 0})  # fmt: skip
        late = self.number()
        upsert = ("put", {"put": {"n": late, "table": "marks", "operation": "upsert",
                                  "row": {"n": late, "symbol": "m8"}}, "after": 0})  # fmt: skip
        steps: list[Action] = [
            ("clock", {"s": -dice.choice((3_600, 100_000, 40_000_000))}), *legs, update,
            ("sleep", {"s": dice.uniform(100, 400)}), ("clock", {"s": dice.choice((100_000, 80_000_000))}),
            ("sleep", {"s": dice.uniform(1, 100)}), upsert, *trades, ("sleep", {"s": BOUND_S + 30}),
        ]  # fmt: skip
        return [steps, [self.action(1) for _ in range(4)]]


def put(n: int, table: str, row: dict[str, Any], operation: str = "insert") -> Action:
    """Return the put of `row` with its number."""
    return "put", {"put": {"n": n, "table": table, "operation": operation, "row": {"n": n, **row}}, "after": 0}


def made(seed: int) -> Program:
    """Return the program of `seed`."""
    maker = _Maker(seed)
    dice = maker.dice
    lives: list[Life] = []
    for _ in range(dice.choices((1, 2, 3, 4), (3, 4, 2, 1))[0]):
        flavour = dice.choices(("mixed", "busy", "patient"), (92, 2, 6))[0]
        if flavour == "mixed":
            favourite = dice.choice(("", *TABLES))
            maker.weights = [40 if table == favourite else weight for table, weight in TABLES.items()]
            length = dice.choice((3, 8, 20))
            bots = [[maker.action(bot) for _ in range(length)] for bot in range(dice.randrange(1, 4))]
        else:
            bots = maker.busy() if flavour == "busy" else maker.patient()
        lives.append(
            Life(
                bots,
                before=maker.visits() if lives else [],
                settings={
                    "batch_rows": dice.choice((1, 3, 10, 100)),
                    "requests_in_flight": dice.choice((1, 2, 4)),
                    "poll_s": dice.choice((0.5, 1.0, 3.0)),
                },
                kill_at=int(10 ** dice.uniform(1.5, 4)) if dice.random() < 0.6 else None,
                eager=dice.choice((0.02, 0.3, 0.9)),
                stalls=dice.choice((0.0, 0.0, 0.01)),
            )
        )
    return Program(seed, [_with_odd_settings(life, random.Random(f"{seed} {at}")) for at, life in enumerate(lives)])


def _with_odd_settings(life: Life, dice: random.Random) -> Life:
    """Let somebody write nonsense into the environment now and then. By dice of their own: each seed keeps the rest."""
    bots = [list(actions) for actions in life.bots]
    if dice.random() < 0.2:
        name, value = dice.choice(ODD_SETTINGS)
        actions = dice.choice(bots)
        actions.insert(dice.randrange(len(actions) + 1), ("setting", {"name": name, "value": value}))
    return replace(life, bots=bots, before=[*life.before, *(["odd setting"] if dice.random() < 0.2 else [])])


def smaller(program: Program) -> list[Program]:
    """Return programs that lack something of `program`, the boldest cuts first."""
    found = [
        replace(program, lives=program.lives[:at] + program.lives[at + 1 :])
        for at in range(len(program.lives))
        if len(program.lives) > 1
    ]
    for at, life in enumerate(program.lives):
        cuts = [replace(life, kill_at=None)] if life.kill_at is not None else []
        cuts += [replace(life, bots=life.bots[:bot] + life.bots[bot + 1 :]) for bot in range(len(life.bots))]
        for bot, actions in enumerate(life.bots):
            for size in (len(actions) // 2, 1):
                for start in range(0, len(actions), max(size, 1)):
                    if size:
                        rest = actions[:start] + actions[start + size :]
                        cuts.append(replace(life, bots=[*life.bots[:bot], rest, *life.bots[bot + 1 :]]))
        found += [replace(program, lives=[*program.lives[:at], cut, *program.lives[at + 1 :]]) for cut in cuts]
    return found
