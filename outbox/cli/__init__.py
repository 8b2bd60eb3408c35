"""argv to calls, results to text, JSON and exit codes. Loads typer and rich; the library does not."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    import gc
    import logging
    import os
    import sys
    from pathlib import Path

    # Python has None for a stream that was closed before it began (>&-): what was said to it would end the command.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - until the command ends
            setattr(sys, name, nowhere)
    gc.disable()  # until the command is loaded: that makes many objects, hardly any garbage
    from outbox.cli.app import app

    logging.getLogger("outbox").setLevel(logging.ERROR)  # the commands themselves show what a warning would say
    from outbox.cli.streams import tolerate

    for stream in (sys.stdout, sys.stderr):
        tolerate(stream)
    app()
