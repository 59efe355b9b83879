"""A solution with its branches: as a file, a page, a link, and back."""
