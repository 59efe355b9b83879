"""Sampled solutions to train on: made here or by a server, selected, kept in a file."""
