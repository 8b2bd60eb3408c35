"""argv to calls, results to text, JSON and exit codes. Loads typer and rich; the library does not."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    import logging
    import sys

    from outbox.cli.app import app

    logging.getLogger("outbox").setLevel(logging.ERROR)  # the commands themselves show what a warning would say
    from outbox.cli.format import tolerate

    for stream in (sys.stdout, sys.stderr):
        tolerate(stream)
    app()
