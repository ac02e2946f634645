"""From maps to masks: refinement, the pool of processes that does it, a judge, and a comparison of several runs."""
