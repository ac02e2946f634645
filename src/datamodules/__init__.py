"""Data: one LightningDataModule over manifests, and a generator of demo data."""
