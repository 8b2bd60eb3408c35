"""Looking at a file without changing it: entries, tail, export, backup."""
