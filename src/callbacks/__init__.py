"""Callbacks: what happens around training, for every method."""
