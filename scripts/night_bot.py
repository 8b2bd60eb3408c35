"""One of the ten bots of scripts/night_of_ten: it puts a trade a second, sends, and serves its page to Prometheus.

usage: night_bot.py OUTBOX_FILE PORT        (URL, key and source from the environment)
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from outbox import Outbox, OutboxError, Settings
from outbox.metrics.prometheus import serve


async def main(path: Path, port: int) -> None:
    """Run until it is killed; a put that fails is told, and the next one tried."""
    async with Outbox.open(Settings(path=path)) as outbox, outbox.flushing():
        with serve(outbox, port=port):
            while True:
                row = {"session_id": "night", "symbol": "EURUSD", "timestamp": datetime.now(UTC), "pnl": 1.5}
                try:
                    await outbox.put("trades", row)
                except OutboxError as error:
                    print(f"not put: {error}", flush=True)
                await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
