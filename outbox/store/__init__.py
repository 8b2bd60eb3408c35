"""Everything SQLite: one file, one writer, durable on return."""
