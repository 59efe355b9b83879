"""Estimates as text: value, interval, and what stands there without one."""

import pytest

from rmx.stats.text import brief, in_format, percent, points

FOUND = {"value": 0.4125, "low": 0.3821, "high": 0.4449, "n": 100}
ALONE = FOUND | {"low": None, "high": None}
NOTHING = {"value": None, "low": None, "high": None, "n": 0}


def test_a_share_stands_with_its_interval() -> None:
    assert percent(FOUND) == "41.2 % [38.2, 44.5]"
    assert percent(FOUND, "{:5.1f} %", "  ({:.0f} to {:.0f})") == " 41.2 %  (38 to 44)"
    assert percent(ALONE) == "41.2 %"
    assert in_format(ALONE, "{:.1f} %", "", " (no interval)", scale=100) == "41.2 % (no interval)"
    assert percent(NOTHING) == "–"


def test_a_difference_has_its_sign_at_every_end() -> None:
    assert points(FOUND | {"low": -0.003}) == "+41.2 points [-0.3, +44.5]"
    assert in_format(FOUND, "{:.4f}", " ({:.3f} to {:.3f})") == "0.4125 (0.382 to 0.445)"


@pytest.mark.parametrize(
    ("found", "unit", "said"),
    [
        (FOUND, "%", "41.2 % [38.2, 44.5]"),
        (FOUND, "points", "+41.2 points [+38.2, +44.5]"),
        (FOUND, "x", "0.412x [0.382, 0.445]"),
        (FOUND | {"low": 0.0}, "points", "+41.2 points [0, +44.5]"),
        (FOUND | {"value": 0.00001}, "", "0.00001 [0.382, 0.445]"),
        ({"value": 0.0, "low": 0.0, "high": 0.00000012, "n": 9}, "%", "0 % [0, 0.000012]"),
        ({"value": 2.31, "low": 2.1, "high": 2.5, "n": 9}, "", "2.31 [2.1, 2.5]"),
        (ALONE, "%", "41.2 %"),
        (NOTHING, "%", "–"),
    ],
)
def test_a_few_digits_and_never_a_signed_zero_or_an_exponent(found: dict, unit: str, said: str) -> None:
    assert brief(found, unit) == said
