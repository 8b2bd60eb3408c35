"""Sends the recorded requests to a PostgREST, in their order, and says how each was answered.

usage: SUPABASE_SECRET_KEY=… python -m tests.postgrest.replay https://<project>.supabase.co

It writes rows: use a project for tests. Needs the tables of supabase_sql/ and the table `orders` that the file names.
The recorded keys are invented: the one of the environment takes their place, in the headers that its kind asks for.
Ends with 1 if an answer is not what the flusher takes for "it is there".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from outbox.entry import Operation
from outbox.postgrest.client import USER_AGENT
from outbox.postgrest.verdicts import Delivered, Reply, Retry, judge
from tests.postgrest.recording import FILE, Recorded, read


@dataclass(frozen=True)
class Answer:
    """request: what was sent. fits: whether the flusher, or a read, would have been content."""

    request: Recorded
    status: int
    body: str
    fits: bool


def replay(url: str, key: str) -> Iterator[Answer]:
    """Send every request to the project at `url` and yield its answer."""
    version = USER_AGENT.partition("/")[2]
    with httpx.Client(timeout=200) as client:
        for request in read(FILE.read_text(encoding="utf-8")):
            body = request.body.replace("{version}", version)
            reply = client.request(
                request.method, url.rstrip("/") + request.target, content=body, headers=_headers(request, url, key)
            )
            yield Answer(request, reply.status_code, reply.text, _fits(request, reply))


def _headers(request: Recorded, url: str, key: str) -> list[tuple[str, str]]:
    opened = {"host": urlsplit(url).netloc, "apikey": key, "user-agent": USER_AGENT}
    kept = [(name, opened.get(name, value)) for name, value in request.headers if name != "authorization"]
    return [*kept, ("authorization", f"Bearer {key}")] if key.startswith("eyJ") else kept


def _fits(request: Recorded, reply: httpx.Response) -> bool:
    if request.method == "GET":
        return reply.status_code == 200 and isinstance(reply.json(), list)
    merges = any(name == "prefer" and "merge-duplicates" in value for name, value in request.headers)
    posted = Operation.UPSERT if merges else Operation.INSERT
    operation = Operation.UPDATE if request.method == "PATCH" else posted
    found = Reply(reply.status_code, {name.lower(): value for name, value in reply.headers.items()}, reply.content)
    match judge(operation, 1, found):
        case Delivered():
            return True
        case Retry():  # an update of a row that is not there: 2xx and a count of 0
            return 200 <= reply.status_code < 300
        case _:
            return False


if __name__ == "__main__":
    if len(sys.argv) != 2 or not os.environ.get("SUPABASE_SECRET_KEY"):
        sys.exit(__doc__)
    answers = list(replay(sys.argv[1], os.environ["SUPABASE_SECRET_KEY"]))
    for answer in answers:
        sys.stdout.write(f"{'ok ' if answer.fits else 'NOT'} {answer.status} {answer.request.title}\n")
        if not answer.fits:
            sys.stdout.write(f"    {answer.body}\n")
    sys.exit(not all(answer.fits for answer in answers))
