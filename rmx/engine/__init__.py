"""Token ids in, logits and their statistics out. Knows no text, no web and no training."""
