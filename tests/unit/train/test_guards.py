"""When a run is stopped, and what the sentence says."""

import math

from rmx.stats.intervals import paired_difference, share
from rmx.train.heldout import below_base, kl_away, not_finite


def _estimates(lost: int, won: int, n: int = 100):
    """`lost` problems that only the base solves, `won` that only the adapter solves, half of the others both."""
    before = [True] * lost + [False] * won + [i % 2 == 0 for i in range(n - lost - won)]
    after = [False] * lost + [True] * won + before[lost + won :]
    return share(sum(before), n), share(sum(after), n), paired_difference(before, after)


def test_clear_fall_below_the_base_stops():
    message = below_base(*_estimates(lost=20, won=2), best="step_25")
    assert message is not None
    assert "59.0 %" in message
    assert "41.0 %" in message
    assert "-18.0 points" in message
    assert "n = 100" in message
    assert "step_25" in message
    assert "neg_floor_nats" in message
    assert "kl_weight" in message
    assert "lr" in message


def test_fall_within_the_noise_goes_on():
    assert below_base(*_estimates(lost=6, won=3)) is None
    assert below_base(*_estimates(lost=0, won=20)) is None


def test_no_problems_no_guard():
    assert below_base(share(0, 0), share(0, 0), paired_difference([], [])) is None


def test_kl_counts_the_last_window_only():
    assert kl_away([9.0] * 5 + [0.1] * 5, limit=0.5) is None
    message = kl_away([0.0] * 20 + [0.4, 0.5, 0.6, 0.7, 0.8], limit=0.5)
    assert message is not None
    assert "0.600 nats" in message
    assert "0.5 is the limit" in message


def test_kl_at_the_limit_goes_on_and_few_updates_never_strike():
    assert kl_away([0.5] * 5, limit=0.5) is None
    assert kl_away([7.0] * 4, limit=0.5) is None
    assert kl_away([7.0] * 2, limit=0.5, window=2) is not None


def test_kl_leaves_nan_to_the_other_rule():
    assert kl_away([math.nan] * 5, limit=0.5) is None


def test_finite_values_pass_and_others_are_named():
    assert not_finite(-3.0, 12.0, 4) is None
    assert "the gradient of update 4 is not finite" in str(not_finite(1.0, math.inf, 4))
    both = str(not_finite(math.nan, math.nan, 7))
    assert "the loss and the gradient of update 7 are not finite" in both
    assert "loss nan" in both


def test_what_is_kept_depends_on_whether_anything_was_checked():
    assert "none was checked" in str(not_finite(math.nan, 1.0, 1))
    assert "step_9 is the best" in str(not_finite(math.nan, 1.0, 1, best="step_9"))
