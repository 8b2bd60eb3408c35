"""What travels to PostgREST and what its answers mean: client, batch, verdicts."""
