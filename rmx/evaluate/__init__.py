"""Measuring models on problem sets: base against adapted, with intervals."""
