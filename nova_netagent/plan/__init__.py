"""Actual against desired gives edits: a file for each kind of thing that a host holds. Pure."""
