"""Run directories: the only thing that one stage hands to the next."""
