"""The bad night of docs/forensics.md: a bot, what happens to it, and what is typed about it."""
