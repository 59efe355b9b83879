"""A finished run as a card, an export and its provenance."""
