"""Plays programs against dbcef14, an older version of the library, without the calls that it does not know.

usage: PYTHONHASHSEED=0 python -m tests.proof.simulation.older SEED …

Needs git and that commit. What the simulation imports stood elsewhere then: it is given the names of today.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from dataclasses import replace
from types import ModuleType
from typing import Any

REVISION = "dbcef14"
MOVED = {
    "outbox.admin.inbox": "outbox.store.inbox",
    "outbox.postgrest.client": "outbox.transport",
    "outbox.postgrest.verdicts": "outbox.policy.verdicts",
}
NEWER = {"edit", "keep", "many", "request", "resend", "setting", "vanish"}


def enter(folder: str) -> None:
    """Let `outbox` be the package in `folder`."""
    sys.path.insert(0, folder)
    for new, old in MOVED.items():
        package, _, name = new.rpartition(".")
        sys.modules.setdefault(package, ModuleType(package))
        sys.modules[new] = importlib.import_module(old)
        setattr(sys.modules[package], name, sys.modules[new])
        setattr(sys.modules["outbox"], package.rpartition(".")[2], sys.modules[package])
    errors: Any = importlib.import_module("outbox.errors")
    errors.StoreVanished = type("StoreVanished", (errors.OutboxError,), {})
    vars(sys.modules["outbox"])["threads"] = sys.modules["outbox.threads"] = ModuleType("outbox.threads")


def main(seeds: list[str]) -> None:
    """Play the programs of `seeds` and say what is wrong with each."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["git", "archive", REVISION, "outbox", "migrations", "supabase_sql"]
        archive = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        enter(folder)
        from tests.proof.simulation import program, run

        for seed in map(int, seeds):
            lives = []
            for life in program.made(seed).lives:
                bots = [[action for action in actions if action[0] not in NEWER] for actions in life.bots]
                lives.append(replace(life, bots=bots, before=[each for each in life.before if each != "odd setting"]))
            world = run.play(program.Program(seed, lives))
            sys.stdout.write(f"{seed}: {world.wrongs}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
