"""The train road: rollouts, selection, gate, loss, adapter."""
