"""The paper on your model: its claims, one by one, measured on a pair of models and a set of problems.

`registry` names the claims, `studies` measures, `readings` turns what was measured into figures and a verdict by the
rules of `verdicts`, `board` runs it all, `report` writes one file that opens anywhere.
"""
