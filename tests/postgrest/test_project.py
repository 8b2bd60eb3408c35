"""Which URLs name the same project."""

from __future__ import annotations

import pytest

from outbox.flusher.context import is_foreign
from outbox.postgrest.project import identity, refusal


@pytest.mark.parametrize(
    ("url", "project"),
    [
        pytest.param("https://abcdefghij.supabase.co", "abcdefghij", id="a project"),
        pytest.param("https://ABCdefghij.supabase.co:443/rest/v1/", "abcdefghij", id="the same, written otherwise"),
        pytest.param("https://abcdefghij.supabase.co.", "abcdefghij", id="a host with its last dot"),
        pytest.param("https://api.example.org/rest/v1", "api.example.org:443", id="a domain of one's own"),
        pytest.param("http://db.example.org", "db.example.org:80", id="the port of http"),
        pytest.param("http://db.example.org:3000", "db.example.org:3000", id="a port"),
        pytest.param("https://a.b.supabase.co", "a.b.supabase.co:443", id="no ref"),
        pytest.param("https://supabase.co", "supabase.co:443", id="no ref at all"),
        pytest.param("https://abc.supabase.co.example.org", "abc.supabase.co.example.org:443", id="somebody else's"),
        pytest.param("http://[2001:db8::1]:3000", "[2001:db8::1]:3000", id="IPv6"),
        pytest.param("http://localhost:54321", None, id="this machine by name"),
        pytest.param("http://supabase.localhost", None, id="this machine by another name"),
        pytest.param("http://127.0.0.2:54321", None, id="this machine by number"),
        pytest.param("http://[::1]:54321", None, id="this machine by its IPv6 number"),
        pytest.param("no url", None, id="nothing"),
    ],
)
def test_a_url_names_a_project(url: str, project: str | None) -> None:
    assert identity(url) == project


@pytest.mark.parametrize(
    ("belongs_to", "named", "foreign"),
    [
        pytest.param("a", "b", True, id="another one"),
        pytest.param("a", "a", False, id="its own"),
        pytest.param(None, "b", False, id="it has none yet"),
        pytest.param("a", None, False, id="this machine is never checked"),
    ],
)
def test_entries_stay_with_their_project(belongs_to: str | None, named: str | None, foreign: bool) -> None:
    assert is_foreign(belongs_to, named) is foreign


def test_the_refusal_says_both_names_and_what_to_type() -> None:
    words = refusal("mine", "yours")
    assert all(each in words for each in ("mine", "yours", "SUPABASE_URL", "outbox adopt"))
