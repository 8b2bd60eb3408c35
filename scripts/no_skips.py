"""A pytest plugin for CI: a skipped test fails the run, because a check that did not run proves nothing."""

import pytest

skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test that was skipped; an expected failure did run."""
    if report.skipped and not hasattr(report, "wasxfail"):
        skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note a whole module that was skipped while it was being collected."""
    if report.skipped:
        skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that would otherwise count as good."""
    if skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why the run failed."""
    if skipped:
        terminalreporter.section("skipped, which CI does not allow", red=True)
        for nodeid in skipped:
            terminalreporter.line(nodeid)
