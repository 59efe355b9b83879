"""What a training run is asked to do. Needs no torch."""
