"""Damaged, lost or foreign files: told apart at opening, set aside, salvaged."""
