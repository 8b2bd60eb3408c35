"""The alert rules as Prometheus' own promtool plays them: what fires, when, and for whom.

Only where promtool is: on the PATH, or unpacked from Debian's package `prometheus` below .cache/prom/x.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docs" / "monitoring" / "alerts.yml"
CASES = ROOT / "tests" / "metrics" / "alerts_test.yml"
UNPACKED = ROOT / ".cache" / "prom" / "x" / "usr" / "bin" / "promtool"
PROMTOOL = shutil.which("promtool") or (str(UNPACKED) if UNPACKED.exists() else None)


def play(folder: Path, rules: str) -> subprocess.CompletedProcess[str]:
    (folder / "alerts.yml").write_text(rules, encoding="utf-8")
    cases = CASES.read_text(encoding="utf-8").replace("../../docs/monitoring/alerts.yml", "alerts.yml")
    (folder / "cases.yml").write_text(cases, encoding="utf-8")
    command = [str(PROMTOOL), "test", "rules", str(folder / "cases.yml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


if PROMTOOL is not None:

    def test_each_alert_fires_for_its_trouble_and_for_nothing_else(tmp_path: Path) -> None:
        done = play(tmp_path, RULES.read_text(encoding="utf-8"))
        assert done.returncode == 0, done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("right", "wrong"),
        [
            ('up{job="outbox"} == 0 or ', ""),
            ("sum by (outbox_name, instance) (\n", "sum by (outbox_name, instance, outbox_pause_reason) (\n"),
            ("\n                and on (outbox_name, instance) outbox_flusher_running offset 5m", ""),
            ('outbox_cause="loss"', 'outbox_cause="lost"'),
        ],
        ids=["absent alone", "an outage by its reason", "a new Prometheus", "a cause that nobody serves"],
    )
    def test_a_rule_that_is_wrong_is_found(tmp_path: Path, right: str, wrong: str) -> None:
        """The controls: rules as they once were."""
        rules = RULES.read_text(encoding="utf-8")
        assert right in rules
        assert play(tmp_path, rules.replace(right, wrong)).returncode != 0
