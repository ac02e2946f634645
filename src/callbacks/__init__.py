"""Callbacks: what happens around training, whatever the method."""
