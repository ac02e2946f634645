"""Where Hydra looks for sweepers: it takes them from a package of this name alone."""

from src.sweeps.sweeper import Sweeper


class Sweep(Sweeper):
    """What conf/hydra/sweeper names."""
