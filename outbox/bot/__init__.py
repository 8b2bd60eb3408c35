"""The bot's vocabulary above `Outbox`: trades, sessions, reads, bars; typed rows."""
