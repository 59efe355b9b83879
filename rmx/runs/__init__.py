"""A training run on disk: its files, lock, queue, costs. Needs no torch."""
