"""The page for Prometheus, and what is built on it: rules, dashboard and the page of figures keep to what is served."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
import yaml
from prometheus_client.parser import text_string_to_metric_families

from outbox import ConfigError, IdConflict, Outbox, Settings, __version__
from outbox.cli.app import app
from outbox.metrics.figures import FIGURES
from outbox.metrics.prometheus import serve
from outbox.testing import FakeRemote, ManualClock
from tests.store.tools import until
from tests.support import run_async

DOCS = Path(__file__).parents[2] / "docs"
ALERTS = DOCS / "monitoring" / "alerts.yml"
DASHBOARD = DOCS / "monitoring" / "dashboard.json"
PAGE = DOCS / "monitoring.md"

Served = dict[str, set[str]]


@run_async
async def scraped(folder: Path) -> Served:
    """Return the names of all samples that a busy outbox serves, each with its labels."""
    clock, remote = ManualClock(), FakeRemote()
    async with Outbox.open(Settings(path=folder / "bot.db", _env_file=None), clock=clock, transport=remote) as outbox:
        with serve(outbox, port=0) as endpoint:
            await outbox.put("fills", {"volume": 1}, id="a")
            await outbox.drain()
            with pytest.raises(IdConflict):
                await outbox.put("fills", {"volume": 2}, id="a")
            remote.down()
            await outbox.put("fills", {"volume": 3})
            sent = len(remote.requests)
            async with outbox.flushing():
                await until(lambda: len(remote.requests) > sent)
            async with httpx.AsyncClient(trust_env=False, timeout=200) as client:
                text = (await client.get(endpoint.url)).text
    found: Served = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    # Nothing is dead there; its labels are those of the pending ones.
    return found | {"outbox_entries_dead": found["outbox_entries_pending"]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return scraped(tmp_path_factory.mktemp("served"))


# ------------------------------------------------------------------------------------------------ the page itself


@run_async
async def test_it_is_served_on_the_loopback_until_it_is_closed(tmp_path: Path) -> None:
    async with Outbox.open(Settings(path=tmp_path / "bot.db", _env_file=None)) as outbox:
        with serve(outbox, port=0) as endpoint:
            assert endpoint.url.startswith("http://127.0.0.1:")
            async with httpx.AsyncClient(trust_env=False, timeout=200) as client:
                assert "outbox_flusher_running" in (await client.get(endpoint.url)).text
        endpoint.close()  # idempotent
        async with httpx.AsyncClient(trust_env=False, timeout=200) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(endpoint.url)


@run_async
async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    async with Outbox.open(Settings(path=tmp_path / "bot.db", _env_file=None)) as outbox:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ConfigError, match=f"127.0.0.1:{port} cannot be served"):
                serve(outbox, port=port)


@run_async
async def test_the_label_is_the_source_unless_a_name_is_given(tmp_path: Path) -> None:
    async with (
        Outbox.open(Settings(path=tmp_path / "a.db", source="gold@desk", _env_file=None)) as gold,
        Outbox.open(Settings(path=tmp_path / "b.db", source="silver@desk", _env_file=None)) as silver,
    ):
        with serve(gold, silver, port=0) as both, serve(gold, port=0, name="gold-bot") as one:
            async with httpx.AsyncClient(trust_env=False, timeout=200) as client:
                texts = [(await client.get(each.url)).text for each in (both, one)]
        names = [set(re.findall(r'outbox_name="([^"]+)"', text)) for text in texts]
        assert names == [{"gold@desk", "silver@desk"}, {"gold-bot"}]
        with pytest.raises(ConfigError, match="belongs to one outbox"):
            serve(gold, silver, port=0, name="both")
        assert f'outbox_version="{__version__}"' in texts[0]
        assert f'otel_scope_version="{__version__}"' in texts[0]


@run_async
async def test_no_payload_is_on_it(tmp_path: Path) -> None:
    async with Outbox.open(Settings(path=tmp_path / "bot.db", _env_file=None)) as outbox:
        with serve(outbox, port=0) as endpoint:
            await outbox.put("fills", {"comment": "payload-canary"}, id="id-canary")
            text = await asyncio.to_thread(lambda: httpx.get(endpoint.url, trust_env=False, timeout=200).text)
    assert 'outbox_destination="fills"' in text
    assert "canary" not in text


# ------------------------------------------------------------------------------------------------ what is built on it


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])


def unknown(expression: str, served: Served) -> set[str]:
    """Return what `expression` names and no served sample of its has: metrics, and labels."""
    words = set(re.findall(r"\b[a-z_]+\b", re.sub(r'"[^"]*"', "", expression)))
    metrics = {word for word in words if word.startswith("outbox_") and word not in labels_of(served)}
    labels = {word for word in words if word in labels_of(served) or word.endswith(("_name", "_type", "_reason"))}
    has = set().union(*(served.get(metric, set()) for metric in metrics))
    return (metrics - served.keys()) | (labels - has)


def labels_of(served: Served) -> set[str]:
    return set().union(*served.values())


def test_every_rule_and_panel_names_what_is_served(served: Served) -> None:
    found = list(expressions())
    assert len(found) > 20
    assert {expression: missing for expression in found if (missing := unknown(expression, served))} == {}


@pytest.mark.parametrize(
    ("expression", "missing"),
    [
        ("sum by (outbox_name) (outbox_entries_waiting)", {"outbox_entries_waiting", "outbox_name"}),
        ('outbox_wal_size_bytes{outbox_destination="x"}', {"outbox_destination"}),
        ("rate(outbox_entries_delivered[5m])", {"outbox_entries_delivered"}),
    ],
    ids=["metric", "label", "a counter without _total"],
)
def test_a_misspelt_name_would_be_found(expression: str, missing: set[str], served: Served) -> None:
    assert unknown(expression, served) == missing


def test_every_figure_is_on_the_dashboard(served: Served) -> None:
    text = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in served if name.startswith("outbox_")}
    assert len(families) == len(FIGURES)
    assert [name for name in families if name not in text] == []


def test_every_alert_has_a_severity_a_summary_and_a_section_whose_commands_exist() -> None:
    sections = dict(
        re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    )
    commands = set(vars(typer.main.get_command(app))["commands"])
    assert list(sections) == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
    named = set(re.findall(r"`outbox ([a-z]+)", PAGE.read_text(encoding="utf-8").replace("outbox\n", "outbox ")))
    assert named <= commands
    assert {"status", "reload", "requeue", "discard", "show", "ls", "drain"} <= named


def test_the_table_of_figures_is_the_figures() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `outbox.")]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    assert rows == [(f"`{each.name}`", each.kind.value, f"`{each.unit}`", each.says) for each in FIGURES]
