"""How long a call may hold a lent GPU, in seconds: estimates from what is asked for, with a floor and a cap.

ZeroGPU lends a GPU for a number of seconds that is named before. Too many, and the visitor's quota refuses the call (it
must hold all of them, though only what was used is taken off); too few, and the call is killed. The numbers are for
models of 1 to 8 billion parameters in bf16 and err on the slow side.
"""

START = 8.0  # a new process, CUDA, and the weights on their way to the GPU; only a process that is warm has none of it
STEP = 0.05  # one decoding step, of one row or of a batch; transformers without a compiled graph needs 20 to 40 ms
PAIR_STEP = 0.09  # one step of two models side by side
READ = 1 / 2000  # one token that is only read
FLOOR = 15  # least that is asked for
# Most: a visitor without an account has 120 s a day, and on cards with a factor of 1.5 a second counts as much.
CAP = 80


def bounded(seconds: float) -> int:
    """What is asked for: the estimate and the start, not below the floor nor above the cap."""
    return round(min(max(seconds + START, FLOOR), CAP))


def work(seconds: int) -> float:
    """Of the seconds that were asked for, those that a call may work before it ends itself."""
    return seconds - START


def decoding(steps: int, read: int = 0) -> float:
    """Decode `steps` tokens, one row or a batch, after reading `read` tokens."""
    return steps * STEP + read * READ


def side_by_side(steps: int, read: int = 0) -> float:
    """The same under two models."""
    return steps * PAIR_STEP + 2 * read * READ
