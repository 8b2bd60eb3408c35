"""What may be changed from the page, by whom, and who is refused: over HTTP, with the forms that the page has."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from outbox import Outbox
from outbox.web.actions import ACT, DEAD, ENTER
from outbox.web.operations import Operations, refusal
from tests.admin.test_inbox import states
from tests.support import run_async
from tests.web.home import TOO_MUCH, busy_bot, open_site

HOST = "127.0.0.1:8001"
AT_HOME = {"host": HOST, "origin": f"http://{HOST}"}


class Forms(HTMLParser):
    """The forms of a page: each its address and its fields."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        if tag == "form":
            self.found.append((str(facts["action"]), {}))
        elif tag == "input":
            self.found[-1][1][str(facts["name"])] = facts.get("value") or ""


def form_of(page: str, action: str, number: int = 0) -> dict[str, str]:
    return [fields for _, fields in Forms(page).found if fields.get("action") == action][number]


class Visitor:
    """A browser, as far as cookies and headers go."""

    def __init__(self, site: Any) -> None:
        self._site = site
        self.cookies: dict[str, str] = {}

    async def get(self, address: str, **headers: str) -> Any:
        return self._kept(await self._site.client.get(address, headers=self._sent(headers), follow_redirects=False))

    async def post(self, fields: dict[str, str], **headers: str) -> Any:
        answer = await self._site.client.post(ACT, data=fields, headers=self._sent(AT_HOME | headers))
        return self._kept(answer)

    async def enter(self) -> Any:
        return await self.get(f"{ENTER}?key={self._site.outbox_operations.key}")

    def _sent(self, headers: dict[str, str]) -> dict[str, str]:
        told = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {"host": HOST, **headers, **({"cookie": told} if told else {})}

    def _kept(self, answer: Any) -> Any:
        self.cookies |= dict(re.findall(r"(?:^|, )([\w-]+)=([^;,]+)", answer.headers.get("set-cookie", ""))[:2])
        return answer


@asynccontextmanager
async def visited(tmp_path: Path, *, allow_actions: bool = True) -> AsyncIterator[tuple[Visitor, Outbox, Any]]:
    async with busy_bot(tmp_path / "bot.db") as outbox:
        with open_site(tmp_path / "bot.db", allow_actions=allow_actions) as site:
            yield Visitor(site), outbox, site


@run_async
async def test_the_first_page_says_what_status_says_and_shows_the_outage(tmp_path: Path) -> None:
    async with visited(tmp_path, allow_actions=False) as (visitor, _, _):
        page = (await visitor.get("/?refresh=5")).text
        plain = (await visitor.get("/")).text
    for words in ("stalled", "Pending  4", "Paused", "unreachable", "Writer", "Flusher", "and still"):
        assert words in page
    assert '<meta http-equiv="refresh" content="5">' in page
    assert 'http-equiv="refresh"' not in plain


@run_async
async def test_a_cause_is_requeued_by_the_running_bot_and_another_given_up_with_a_reason(tmp_path: Path) -> None:
    async with visited(tmp_path) as (visitor, outbox, _):
        assert (await visitor.enter()).status_code == 302
        page = (await visitor.get(DEAD)).text
        assert TOO_MUCH.replace('"', "&#34;") in page
        answered = await visitor.post(form_of(page, "discard") | {"reason": "test rows", "ids": ""})
        assert (answered.status_code, "2 discarded by the running bot" in answered.text) == (200, True)
        assert "No entry is dead" in answered.text
        assert (await outbox.stats()).discarded == 2
        again = await visitor.post(form_of(page, "requeue"))
        assert "nothing was changed" in again.text


@run_async
async def test_without_a_bot_the_page_does_it_itself_and_an_entry_may_be_named_by_the_start_of_its_id(
    tmp_path: Path,
) -> None:
    async with busy_bot(tmp_path / "bot.db"):
        pass
    with open_site(tmp_path / "bot.db", allow_actions=True) as site:
        visitor = Visitor(site)
        await visitor.enter()
        page = (await visitor.get(DEAD)).text
        (an_id,) = re.findall(r"<code>([0-9a-f-]{36})</code>", page)
        answered = await visitor.post(form_of(page, "requeue", 1) | {"ids": an_id[:-2]})
        assert "1 requeued" in answered.text
        nothing = await visitor.post(form_of(page, "discard", 1) | {"ids": an_id})
        assert (nothing.status_code, "reason" in nothing.text) == (400, True)
    assert states(tmp_path / "bot.db") == {"delivered": 4, "dead": 1, "pending": 5}


@run_async
async def test_an_entry_that_died_after_the_page_was_made_is_left_alone(tmp_path: Path) -> None:
    async with visited(tmp_path) as (visitor, outbox, _):
        await visitor.enter()
        form = form_of((await visitor.get(DEAD)).text, "requeue") | {"died_until_ms": "1"}
        answered = await visitor.post(form)
        assert "nothing was changed" in answered.text
        assert (await outbox.stats()).dead == 2


REFUSED = [
    pytest.param({"origin": "http://evil.example"}, "sent by another page", id="a form of another site"),
    pytest.param({"origin": "http://127.0.0.1:9999"}, "sent by another page", id="a page of another port"),
    pytest.param({"origin": "null"}, "sent by another page", id="a page without an origin"),
    pytest.param({"x-forwarded-for": "192.0.2.7"}, "through a proxy", id="through a proxy"),
    pytest.param({"host": "rebound.example:8001", "origin": "http://rebound.example:8001"}, "Come by 127.0.0.1",
                 id="a name of a stranger's for this machine"),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "why"), REFUSED)
@run_async
async def test_a_form_of_another_origin_changes_nothing(headers: dict[str, str], why: str, tmp_path: Path) -> None:
    async with visited(tmp_path) as (visitor, outbox, _):
        await visitor.enter()
        form = form_of((await visitor.get(DEAD)).text, "requeue")
        refused = await visitor.post(form, **headers)
        assert (refused.status_code, why in refused.text) == (403, True)
        assert (await outbox.stats()).dead == 2
        assert (await visitor.post(form)).status_code == 200  # the control: the same form from its own page
        assert (await outbox.stats()).dead == 0


@run_async
async def test_who_has_not_the_key_or_not_the_pages_token_changes_nothing_and_sees_no_form(tmp_path: Path) -> None:
    async with visited(tmp_path) as (visitor, outbox, site):
        stranger = Visitor(site)
        page = (await stranger.get(DEAD)).text
        assert ("<form" in page, "outbox requeue" in page) == (False, True)
        assert (await stranger.get(f"{ENTER}?key=wrong")).status_code == 403
        await visitor.enter()
        form = form_of((await visitor.get(DEAD)).text, "requeue")
        for who, fields in ((stranger, form), (visitor, form | {"csrftoken": "wrong"})):
            assert (await who.post(fields)).status_code == 403
        assert (await outbox.stats()).dead == 2
        key = next(value for name, value in visitor.cookies.items() if name.startswith("outbox-"))
        assert key not in (await visitor.get("/")).text + (await visitor.get(DEAD)).text


@run_async
async def test_the_key_is_in_a_cookie_that_no_script_and_no_other_site_gets(tmp_path: Path) -> None:
    async with visited(tmp_path) as (visitor, _, _):
        answer = await visitor.enter()
    cookie = answer.headers["set-cookie"].lower()
    assert answer.headers["location"] == "/"
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert answer.headers["referrer-policy"] == "same-origin"


@run_async
async def test_without_allow_actions_nothing_can_be_changed_whatever_is_sent(tmp_path: Path) -> None:
    async with visited(tmp_path, allow_actions=False) as (visitor, outbox, _):
        assert (await visitor.get(f"{ENTER}?key=None")).status_code == 403
        refused = await visitor.post({"action": "requeue", "destination": "trades"})
        assert (refused.status_code, "--allow-actions" in refused.text) == (403, True)
        assert (await outbox.stats()).dead == 2


async def nothing(*_: object) -> Any:
    raise AssertionError


def test_from_another_machine_nothing_can_be_changed() -> None:
    operations = Operations(nothing, nothing, nothing, key="k")
    cookies = {operations.cookie: "k"}
    assert refusal(operations, AT_HOME, "127.0.0.1", cookies, posts=True) is None  # the control
    assert "another machine" in str(refusal(operations, AT_HOME, "192.0.2.7", cookies, posts=True))
    assert "printed" in str(refusal(operations, AT_HOME, "127.0.0.1", {"outbox-x": "k"}, posts=False))
