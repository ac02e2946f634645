"""Finished runs as members, what they look at and how, their votes."""
