"""rmx: see, swap and test the fork tokens of a language model's reasoning."""

__version__ = "0.1.0"
