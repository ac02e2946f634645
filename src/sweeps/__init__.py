"""Sweeps and searches: their jobs in processes of their own, Hydra's sweeper, Optuna's studies."""
