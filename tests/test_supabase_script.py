"""scripts/supabase: what it prints is all that a bot needs, and Ctrl-C stops it without a trace."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from outbox import Outbox, Settings
from tests.support import run_async

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, str(ROOT / "scripts" / "supabase")]


@run_async
async def sent(env: Path) -> int:
    async with Outbox.open(Settings(_env_file=env, path=env.with_name("bot.db"))) as outbox:
        await outbox.put("events", {"event_type": "TRY", "timestamp": "2026-01-02T10:00:00Z"})
        return (await outbox.drain(timeout=200)).delivered


def test_the_file_that_it_writes_leads_a_bot_to_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUPABASE_URL", "SUPABASE_KEY", "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    env = tmp_path / "bot.env"
    with subprocess.Popen([*PROGRAM, "--env", str(env)], stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        try:
            assert any(line.startswith("Ready") for line in started.stderr)
            assert env.stat().st_mode & 0o077 == 0 or sys.platform == "win32"
            assert sent(env) == 1
            again = subprocess.run([*PROGRAM, "--env", str(env)], capture_output=True, text=True, timeout=200)
            assert again.returncode == 1
            assert "stays as it is" in again.stderr
        finally:
            started.send_signal(signal.SIGINT)
        assert started.wait(200) == 0
