"""One optimizer step: items, batches, order, loss, and the LoRA policy that it changes."""
