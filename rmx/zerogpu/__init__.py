"""Calls into the process that has the lent GPU of a ZeroGPU Space."""
