"""The explore road: prompt → generate → Trace → forks → swap → answer."""
