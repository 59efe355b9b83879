"""Problem sets: bundled ones, those of the Hub, files, and their splits."""
