"""The remote end for every test that asks for it: one PostgreSQL and one REST server for the whole run.

Nothing is started before a test names a fixture. `clean_remote` is the one to use: it is up and empty.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from supabase_lite import SQL, Driver, EmbeddedPostgres, SupabaseLite

from tests.memory import keep_files_in_memory
from tests.secrets import MARK, leaks, overheard, redacted

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

TESTS = Path(__file__).parent
FAULTS = TESTS / "integration" / "faults.sql"
# They begin a run, so that no worker is alone with a long one at its end.
LONGEST = (
    "proof/simulation",
    "test_dependencies.py",
    "test_demo.py",
    "proof/power",
    "test_bad_night.py",
    "proof/crash",
    "proof/disk",
    "test_first_minutes.py",
    "proof",
    "integration",
)
# Their tests start processes, live through hours or read many pages: half a second of processor time each, or more.
LONG = (
    "admin/test_inbox.py",
    "blocking/test_blocking.py",
    "cli/test_adopt.py",
    "cli/test_backup.py",
    "cli/test_changes.py",
    "cli/test_cli.py",
    "cli/test_edges.py",
    "cli/test_export.py",
    "cli/test_outages.py",
    "cli/test_put_resend.py",
    "cli/test_salvage.py",
    "cli/test_startup.py",
    "cli/test_tools.py",
    "flusher/test_many_lanes.py",
    "flusher/test_orphans.py",
    "flusher/test_refusal_runs.py",
    "flusher/test_turns.py",
    "flusher/test_unmatched.py",
    "legacy/test_fragments.py",
    "legacy/test_legacy.py",
    "recovery/test_corruption.py",
    "recovery/test_first_opening.py",
    "recovery/test_loss_foretold.py",
    "recovery/test_page_scan.py",
    "recovery/test_salvage.py",
    "store/test_golden.py",
    "store/test_lines.py",
    "store/test_vanished.py",
    "store/test_work.py",
    "test_bench.py",
    "test_bounded_stop.py",
    "test_cancellation.py",
    "test_counted_work.py",
    "test_deploy.py",
    "test_herd.py",
    "test_network_environment.py",
    "test_release.py",
    "test_secrets.py",
    "test_stop.py",
    "test_supabase_script.py",
    "test_types.py",
    "web/test_actions.py",
    "web/test_command.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out what needs a server or a minute of patience")


def pytest_configure() -> None:
    """Before the first temporary folder is made: pytest's workers and all that a test starts inherit its place."""
    keep_files_in_memory()
    # A busy machine stops a process for seconds, and the 2 s of a block are over. What is tested of them says its own.
    os.environ.setdefault("OUTBOX_TRANSACTION_LIMIT_S", "200")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --quick, do not even import the files that are left out."""
    left_out = config.getoption("--quick") and any(collection_path == TESTS / name for name in (*LONGEST, *LONG))
    return True if left_out else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest files. With --quick, leave out what asks for a server, and what is slow."""
    items.sort(key=lambda item: next((rank for rank, name in enumerate(LONGEST) if is_in(item, name)), len(LONGEST)))
    if not config.getoption("--quick"):
        return
    left_out = [
        item for item in items if "postgres" in getattr(item, "fixturenames", ()) or item.get_closest_marker("slow")
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def is_in(item: pytest.Item, name: str) -> bool:
    """Tell whether a test is of the file, or below the folder, that is called `name` here."""
    return item.path.is_relative_to(TESTS / name)


@pytest.fixture(autouse=True)
def no_key_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: no file of the outbox, nothing beside it, no log and nothing that was said holds a key."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    caplog = request.getfixturevalue("caplog")
    yield
    if folder is not None:
        assert leaks(folder) == [], "a key stands in a file"
    assert MARK.decode() not in caplog.text, "a key stands in the log"
    assert overheard.take() == [], "a key was said"


# How fast the machine makes up an example, and runs it, is no fault of what is tested. CI tries the same ones each
# time: what a new one finds is no fault of the change that CI looks at.
hypothesis.settings.register_profile(
    "any machine",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any machine")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Listen, unless this process runs no test and only hears what its workers report: names of tests hold keys."""
    session.config.stash[_LATE] = []
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so its children
    if not session.config.pluginmanager.hasplugin("dsession"):
        overheard.start()
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        # While one worker has stopped a server to start it again, another one must not take its port.
        first = 20_000 + 2_000 * int(worker.removeprefix("gw"))
        os.environ["SUPABASE_LITE_PORTS"] = f"{first}-{first + 1_999}"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run for what a process has said after its test, or after the last one, as a server of the whole run."""
    late = session.config.stash[_LATE]
    if not session.config.pluginmanager.hasplugin("dsession"):
        late += overheard.take()
        overheard.stop()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["late"] = late
    if late:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker has heard after its last test."""
    node.config.stash[_LATE] += getattr(node, "workeroutput", {}).get("late", [])


_LATE = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why the run failed."""
    for where in terminalreporter.config.stash.get(_LATE, []):
        terminalreporter.section("a key was said", red=True)
        terminalreporter.line(where)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test whose report holds a key, in a traceback or in what was captured, and let the report hold none."""
    report = yield
    traceback = redacted(report.longreprtext)
    if traceback != report.longreprtext:
        report.longrepr = f"{traceback}\na key stands in this traceback"
        report.outcome = "failed"
    captured = [(name, redacted(text)) for name, text in report.sections]
    # The sections of the phases before are repeated in each report; they have failed their own.
    news = [name for name, text in report.sections if name.endswith(f" {report.when}") and redacted(text) != text]
    if news:
        report.longrepr = f"{traceback}\na key stands in {', '.join(news)}".lstrip()
        report.outcome = "failed"
    report.sections = captured
    return report


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that a test may stop or kill; the next test that asks finds it up."""
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture(scope="session")
def remote(postgres: EmbeddedPostgres) -> Iterator[SupabaseLite]:
    """The REST server on `postgres`, with `supabase_sql` and the injected faults of `tests/integration/faults.sql`."""
    with SupabaseLite(Driver.POSTGRES, dsn=postgres.dsn, extra_sql=[FAULTS]) as server:
        yield server


@pytest.fixture
def sql(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection[TupleRow]]:
    """A superuser's connection to the database behind `remote`; every statement commits by itself."""
    import psycopg

    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def clean_remote(remote: SupabaseLite, sql: psycopg.Connection[TupleRow]) -> SupabaseLite:
    """`remote`, up again whatever the test before did to it, with its tables empty and the shipped privileges."""
    remote.start()
    sql.execute("set lock_timeout = '100s'")  # a slow request of the test before may still hold a table
    # Supabase Lite, each time it starts, grants everything on every table to all three roles.
    sql.execute((SQL / "0002_access.sql").read_bytes())
    sql.execute("truncate public.sessions, public.trades, public.events, public.outbox_health")
    return remote
