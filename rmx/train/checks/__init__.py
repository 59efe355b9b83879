"""Checks of a run under way: held-out problems, guards, diagnostics, replayed forks."""
