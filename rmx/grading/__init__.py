"""From the text of a solution to its final answer, and whether that answer is right."""
