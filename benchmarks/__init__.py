"""What `make bench` runs: figures, each beside what it is compared with."""
