"""Plotly figures of the Compare and Evaluate tabs."""
