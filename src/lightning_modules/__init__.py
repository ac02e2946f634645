"""LightningModules: one method a file, the whole method in it."""
