"""The durable outbox for Python bots."""
