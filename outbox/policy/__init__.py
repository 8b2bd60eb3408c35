"""Floor 2 · policy. Every decision of the outbox as a pure function: no I/O, no clock, no dice."""
