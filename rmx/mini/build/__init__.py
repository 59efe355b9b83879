"""How the bundled miniature and its adapters were made; nothing of the app imports this."""
