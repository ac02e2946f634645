"""From activation maps to masks: refinement, the pool of processes that does it, and a judge."""
