"""Floor 3 · store. Everything SQLite: one file, one writer, durable on return."""
