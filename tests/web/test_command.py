"""`outbox inspect` as a program: an address of this machine alone, a browser that can read it, an end in order."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from outbox import ConfigError
from outbox.cli.inspection import _serve, operations_of
from outbox.web.server import listening
from tests.support import run_async
from tests.web.home import busy_bot

CHROMIUM = shutil.which("chromium")
PATIENCE_MS = 150_000
# No network of its own: no updates, no first-run pages; as root it has no sandbox.
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextlib.contextmanager
def inspecting(path: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command and give its process and its address."""
    command = [sys.executable, "-m", "outbox", "inspect", "--path", str(path), "--no-browser", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "20"}) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()  # it comes when the site answers; pytest's timeout bounds it
            yield process, next(word for word in line.split() if word.startswith("http://"))
        finally:
            process.kill()


@run_async
async def test_it_answers_while_the_bot_runs_and_ends_in_order(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with busy_bot(path) as outbox:
        with inspecting(path) as (process, address):
            async with httpx.AsyncClient(trust_env=False, timeout=200) as client:
                assert "Backlog over time" in (await client.get(address)).text
                await outbox.put("events", {"event_type": "TICK"})
                found = (await client.get(f"{address}outbox/outbox.json?_shape=array&destination=events")).json()
            assert [row["payload"] for row in found] == ['{"event_type":"TICK"}']
            if os.name == "posix":
                process.send_signal(signal.SIGINT)
                assert process.wait(200) == 0


def test_it_listens_on_the_loopback_alone_at_any_free_port() -> None:
    with listening(0) as one, listening(0) as other:
        assert one.getsockname()[0] == other.getsockname()[0] == "127.0.0.1"
        assert one.getsockname()[1] != other.getsockname()[1]


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 cannot be used"):
            listening(port)


def test_a_file_that_is_no_outbox_is_not_served(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "outbox", "inspect", "--path", str(tmp_path / "missing.db"), "--no-browser"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)

    assert done.returncode == 3
    assert "does not exist; nothing was created" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "outbox.web.server", None)

    with pytest.raises(ConfigError, match=r"pip install 'datasette<0\.66'"):
        _serve(tmp_path / "bot.db", 0, operations_of(tmp_path / "bot.db", (), allow_actions=False), browser=False)


async def answered(body: str, route: Any) -> None:
    await route.fulfill(body=body, content_type="text/html")


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no chromium on this machine")
@run_async
async def test_in_a_browser_an_entry_is_requeued_and_another_sites_page_can_do_nothing(tmp_path: Path) -> None:
    from playwright.async_api import async_playwright

    path = tmp_path / "bot.db"
    async with busy_bot(path) as outbox, async_playwright() as playwright:
        with inspecting(path, "--allow-actions") as (_, address):
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=PATIENCE_MS)
            page = await browser.new_page(viewport={"width": 1000, "height": 860})
            page.set_default_timeout(PATIENCE_MS)
            await page.goto(address)
            root = page.url
            assert "key=" not in root  # it is in a cookie by now
            assert "stalled" in await page.locator("pre.outbox-standing").inner_text()

            for stranger in ("http://stranger.example/", "http://127.0.0.1:1/"):  # ports share their cookies
                form = f'<form action="{root}-/outbox-act" method="post"><input name="action" value="requeue">'
                hostile = f'{form}<input name="destination" value="trades"><button>Win</button></form>'
                await page.route(stranger, partial(answered, hostile))
                await page.goto(stranger)
                await page.get_by_role("button", name="Win").click()
                await page.wait_for_url(f"{root}-/outbox-act")
                assert (await outbox.stats()).dead == 2
            assert not await page.get_by_text("requeued").count()

            await page.goto(f"{root}-/outbox-dead")
            await page.get_by_role("button", name="Requeue").first.click()
            await page.get_by_text("2 requeued by the running bot").wait_for()
            await browser.close()
        assert (await outbox.stats()).dead == 0


async def background(page: Any, scheme: str) -> str:
    await page.emulate_media(color_scheme=scheme)
    return str(await page.evaluate("getComputedStyle(document.body).backgroundColor"))


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no chromium on this machine")
@run_async
async def test_a_browser_shows_the_plot_and_the_questions_without_any_other_host(tmp_path: Path) -> None:
    from playwright.async_api import async_playwright

    path = tmp_path / "bot.db"
    asked: list[str] = []
    problems: list[str] = []
    async with busy_bot(path), async_playwright() as playwright:
        with inspecting(path) as (_, address):
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=PATIENCE_MS)
            page = await browser.new_page(viewport={"width": 1000, "height": 860})
            page.set_default_timeout(PATIENCE_MS)
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: problems.append(message.text))
            page.on("pageerror", lambda error: problems.append(str(error)))

            await page.goto(address)
            area = page.locator("svg.backlog path.area")
            box = await area.bounding_box()
            assert box is not None
            assert box["width"] > 600
            assert box["height"] > 50  # it is drawn, and not flat
            counts = await page.locator(".outbox-counts li").all_inner_texts()
            assert "2 dead" in [" ".join(text.split()) for text in counts]

            await page.get_by_text("What did the server refuse").click()
            await page.get_by_text("volume_limit").wait_for()

            await page.goto(address)
            await page.get_by_text("dead", exact=True).click()
            await page.get_by_text("2 rows where state").wait_for()
            light, dark = await background(page, "light"), await background(page, "dark")
            await browser.close()

    assert light != dark == "rgb(20, 23, 28)"
    assert problems == []  # the policy forbids nothing that the pages need
    assert [url for url in asked if not url.startswith(address)] == []
