"""Models with their tokenizers and adapters: loading, naming, pairs, and what a site allows."""
