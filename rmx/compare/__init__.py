"""A base and an adapted model side by side: where they part, and what patching those places does."""
