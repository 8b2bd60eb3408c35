"""The alert rules as Prometheus' own promtool plays them: what fires, when, and for whom."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest
import yaml
from debian import program

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docs" / "monitoring" / "alerts.yml"
CASES = ROOT / "tests" / "metrics" / "alerts_test.yml"


def play(folder: Path, rules: str, alerts: Container[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Play the cases against `rules`; alerts: only these rules, and the cases that ask for one of them."""
    played, cases = yaml.safe_load(rules), yaml.safe_load(CASES.read_text(encoding="utf-8"))
    cases["rule_files"] = ["alerts.yml"]
    if alerts is not None:
        for group in played["groups"]:
            group["rules"] = [rule for rule in group["rules"] if rule["alert"] in alerts]
        for case in cases["tests"]:
            case["alert_rule_test"] = [asked for asked in case["alert_rule_test"] if asked["alertname"] in alerts]
        cases["tests"] = [case for case in cases["tests"] if case["alert_rule_test"]]
    (folder / "alerts.yml").write_text(yaml.safe_dump(played), encoding="utf-8")
    (folder / "cases.yml").write_text(yaml.safe_dump(cases), encoding="utf-8")
    command = [str(program("prometheus", "promtool")), "test", "rules", str(folder / "cases.yml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def rules_of(text: str) -> list[dict[str, Any]]:
    return yaml.safe_load(text)["groups"][0]["rules"]  # type: ignore[no-any-return]


def test_each_alert_fires_for_its_trouble_and_for_nothing_else(tmp_path: Path) -> None:
    done = play(tmp_path, RULES.read_text(encoding="utf-8"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_trouble_that_rings_and_a_blip_that_does_not() -> None:
    rules = rules_of(RULES.read_text(encoding="utf-8"))
    cases: list[dict[str, Any]] = yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]
    rings = {each["alertname"] for case in cases for each in case["alert_rule_test"] if each["exp_alerts"]}
    quiet = {
        each["alertname"] for case in cases if "30 s" in case["name"] for each in case["alert_rule_test"]
        if not each["exp_alerts"]
    }  # fmt: skip
    # What is wrong as soon as it is there once: it does not go by itself, so there is no blip of it.
    at_once = {each["alert"] for each in rules if "for" not in each}
    assert rings == {each["alert"] for each in rules}
    assert quiet == rings - at_once


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('up{job="outbox"} == 0 or ', ""),
        ("sum by (outbox_name, instance) (\n", "sum by (outbox_name, instance, outbox_pause_reason) (\n"),
        ("\n                and on (outbox_name, instance) outbox_flusher_running offset 5m", ""),
        ('outbox_cause="loss"', 'outbox_cause="lost"'),
        ("outbox_entries_oldest_age_seconds > 900", "outbox_entries_oldest_age_seconds > 9000"),
        ("sum by (outbox_name, instance, outbox_destination) (outbox_entries_dead)", "sum(outbox_entries_dead)"),
        ("rejected_total[10m])) > 20", "rejected_total[10m])) > 0"),
        ("outbox_checkpoint_held_back_seconds > 300", "outbox_checkpoint_held_back_seconds > 3000"),
        ("|refused|other_project", ""),
    ],
    ids=[
        "absent alone", "an outage by its reason", "a new Prometheus", "a cause that nobody serves", "a long wait",
        "nobody's name", "a single refusal", "a reader's patience", "a reason that is left out",
    ],
)  # fmt: skip
def test_a_rule_that_is_wrong_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    """The controls: rules as they once were, or might be."""
    rules = RULES.read_text(encoding="utf-8")
    broken = rules.replace(right, wrong)
    changed = {now["alert"] for now, then in zip(rules_of(broken), rules_of(rules), strict=True) if now != then}
    done = play(tmp_path, broken, changed)
    assert done.returncode != 0
    assert {f"alertname: {alert}" for alert in changed} & set(re.findall(r"alertname: \w+", done.stdout + done.stderr))


def test_an_alert_without_its_for_clause_fires_at_a_blip(tmp_path: Path) -> None:
    rules = RULES.read_text(encoding="utf-8")
    patient = {each["alert"] for each in rules_of(rules) if "for" in each}
    assert len(patient) > 5
    done = play(tmp_path, re.sub(r"\n +for: \w+", "", rules))
    assert patient - set(re.findall(r"alertname: (\w+)", done.stdout + done.stderr)) == set()
