"""`python -m outbox` is the command line."""

from outbox.cli import main

if __name__ == "__main__":
    main()
