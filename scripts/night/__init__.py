"""The bad night of docs/a-bad-night.md: a bot, what happens to it, and what is typed about it."""
