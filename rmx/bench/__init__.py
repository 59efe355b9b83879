"""Benchmarks of the hot paths, as ratios."""
