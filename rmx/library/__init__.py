"""What `import rmx` offers: a model, its solutions, a pair of models, training and evaluation as Python objects.

    model.py     a model, a pair of models: solve, read, compare, patch
    solution.py  a solution: its forks, swaps, what its answer hangs on
    training.py  train, evaluate
    results.py   documents with their tables, data frames, charts and progress bars

Whatever cannot be done is an RmxError with a sentence. Nothing is computed here: each call goes to the function behind
the command of the same name, and `json()` of a result is the document that the command prints with `--json`.
"""
