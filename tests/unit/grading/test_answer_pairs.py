r"""Pairs of answers over all kinds that mathematics problems have: which say the same, and which do not.

All pairs are made up for these tests.
"""

import pytest

from rmx.grading.answers import equal

SAME = {
    "whole numbers": [
        ("4096", "4,096"),
        (r"7\,200", "7200"),
        ("+31", "31"),
        ("-0017", "-17"),
        ("6.000", "6"),
        (r"\mathbf{23}", "23"),
        ("3^4", "81"),
        ("5!", "120"),
        (r"\binom{6}{3}", "20"),
        (r"2^5 \cdot 3", "96"),
    ],
    "fractions and decimals": [
        ("7/8", r"\frac{7}{8}"),
        ("0.875", r"\tfrac{7}{8}"),
        (r"2\frac14", "9/4"),
        ("2 1/4", "2.25"),
        (r"-\frac{5}{12}", r"\frac{-5}{12}"),
        (r"\frac{10}{24}", r"\frac{5}{12}"),
        (r"\cfrac{3}{11}", r"\frac{3}{11}"),
        ("0.090909", r"\frac{1}{11}"),
        (r"\frac{1}{\frac{3}{4}}", r"\frac{4}{3}"),
    ],
    "roots and powers": [
        (r"\sqrt{48}", r"4\sqrt{3}"),
        (r"4\sqrt3", r"4 \sqrt{3}"),
        (r"\frac{6}{\sqrt{3}}", r"2\sqrt{3}"),
        (r"\sqrt[3]{54}", r"3\sqrt[3]{2}"),
        (r"2+\sqrt{7}", r"\sqrt{7}+2"),
        (r"(1+\sqrt2)^2", r"3+2\sqrt2"),
        ("8^{2/3}", "4"),
        (r"\frac{1}{\sqrt{5}}", r"\frac{\sqrt{5}}{5}"),
    ],
    "pi": [
        (r"9\pi", r"9 \pi"),
        ("9pi", r"9\pi"),
        ("9π", r"9\pi"),
        (r"\frac{9\pi}{2}", r"4.5\pi"),
        (r"\frac{9}{2}\pi", r"\frac{9\pi}{2}"),
        (r"25 - 4\pi", r"-4\pi + 25"),
    ],
    "units behind numbers": [
        ("42 cm", "42"),
        (r"42\text{ cm}", r"42\,\mathrm{cm}"),
        (r"42 \text{ square centimeters}", "42"),
        (r"30\text{ mph}", "30 miles per hour"),
        (r"\$12.50", "12.5"),
        ("1 hour", r"1\text{ hr}"),
        (r"75^\circ", r"75 \text{ degrees}"),
    ],
    "units behind pi": [
        (r"12\pi \text{ cm}", r"12\pi"),
        (r"12\pi\text{ cm}^2", r"12\pi"),
        (r"12\pi\,\mathrm{cm}^{2}", r"12\pi"),
        (r"12\pi cm", r"12\pi"),
        (r"12\pi \text{ cm}", r"12\pi \text{ centimeters}"),
        (r"12\pi \text{ square inches}", r"12\pi"),
        (r"12\pi \text{ cubic feet}", r"12\pi"),
        (r"12\pi \text{ units}", r"12\pi"),
        (r"12 \pi \text{ square units}", r"12\pi"),
        (r"\frac{\pi}{6} \text{ radians}", r"\frac{\pi}{6}"),
        (r"\frac{\pi}{6} radians", r"\frac{\pi}{6}"),
        ("12π cm", "12π"),
        (r"25-4\pi \text{ m}^2", r"25-4\pi"),
    ],
    "units behind roots": [
        (r"5\sqrt{2} \text{ cm}", r"5\sqrt{2}"),
        (r"5\sqrt{2} cm", r"5\sqrt{2}"),
        (r"5\sqrt2\text{ inches}", r"5\sqrt{2}"),
        (r"5\sqrt{2}\text{ units}", r"5\sqrt{2}"),
        (r"\sqrt{5} \text{ miles}", r"\sqrt{5}"),
    ],
    "units behind letters": [
        (r"3x \text{ dollars}", "3x"),
        (r"x+2 \text{ meters}", "x+2"),
        (r"\frac{n}{2} \text{ cm}", r"\frac{n}{2}"),
        (r"2ab \text{ square units}", "2ab"),
        (r"r^2 \text{ cm}^2", "r^2"),
        (r"\frac{a}{b} \text{ hours}", r"\frac{a}{b}"),
    ],
    "percent": [
        ("35%", r"35\%"),
        ("35 percent", "35"),
        ("0.35", r"35\%"),
        (r"\frac{7}{20}", "35%"),
    ],
    "expressions": [
        ("x^2 - 9", "(x+3)(x-3)"),
        ("2(a+b)", "2a+2b"),
        (r"\frac{x+1}{2}", r"\frac{1}{2}x + \frac{1}{2}"),
        ("-(y-4)", "4-y"),
        (r"x \cdot x \cdot x", "x^3"),
        ("4t^2 + 4t + 1", "(2t+1)^2"),
        (r"e^{2x}", r"(e^x)^2"),
    ],
    "equations and assignments": [
        ("k = -6", "-6"),
        ("y = 3x - 2", "y=3x-2"),
        ("3x - 2", "y = 3x - 2"),
        ("n=11", "11 = n"),
        (r"f(x) = x^2", "x^2"),
    ],
    "lists, sets and tuples": [
        ("4, 9", "9, 4"),
        (r"-3 \text{ and } 8", "8, -3"),
        ("x = -3 or x = 8", "-3, 8"),
        (r"\{2, 3, 5\}", r"\{5, 2, 3\}"),
        (r"(2,\ -7)", "(2,-7)"),
        (r"\left(\frac12, 4\right)", "(0.5, 4)"),
        (r"x = 1 \pm \sqrt{6}", r"1-\sqrt6, 1+\sqrt6"),
        (r"\pm 12", "12, -12"),
    ],
    "intervals and inequalities": [
        (r"(-\infty, 4]", "(-inf, 4]"),
        (r"x \in [0, 5)", "[0,5)"),
        ("0 < t < 6", "(0, 6)"),
        (r"[1,2] \cup [5,6]", r"[5,6] \cup [1,2]"),
        (r"x \leq 9", "x <= 9"),
        ("9 >= x", "x <= 9"),
    ],
    "matrices and vectors": [
        (r"\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}", r"\begin{pmatrix}1&0\\0&1\end{pmatrix}"),
        (r"\begin{pmatrix} 0.5 \\ 4 \end{pmatrix}", r"\begin{pmatrix} \frac12 \\ 4 \end{pmatrix}"),
        (r"\begin{bmatrix} 2 \\ 3 \end{bmatrix}", r"\begin{pmatrix} 2 \\ 3 \end{pmatrix}"),
    ],
    "complex numbers": [
        ("4 + 3i", "3i + 4"),
        (r"\frac{1+i}{2}", r"\frac12 + \frac12 i"),
        ("7 - i", "-i + 7"),
    ],
    "words and choices": [
        (r"\text{Saturday}", "Saturday"),
        ("(D)", "D"),
        (r"\textbf{(D)}", "(D)"),
        (r"\text{neither}", "neither"),
        ("ellipse", r"\text{ellipse}"),
    ],
    "bases, times and ratios": [
        ("2021_5", "2021_{5}"),
        (r"1101_2", r"1101_{\text{2}}"),
        ("08:15", "8:15"),
        ("6:4", "3/2"),
    ],
    "trigonometry and logarithms": [
        (r"\log_2 8", "3"),
        (r"\ln(e^4)", "4"),
        (r"\cos^2 x", r"1 - \sin^2 x"),
    ],
}  # fmt: skip

DIFFERENT = {
    "whole numbers": [
        ("4096", "4095"),
        ("-31", "31"),
        ("120", "12"),
        ("7200", "72000"),
        ("3^4", "4^3"),
        ("5!", "5"),
        ("1,2", "12"),
    ],
    "fractions and decimals": [
        ("7/8", "8/7"),
        (r"\frac{7}{8}", r"\frac{7}{9}"),
        ("0.875", "0.87"),
        (r"2\frac14", "2.5"),
        ("0.33", "1/3"),
        (r"\frac{5}{12}", r"-\frac{5}{12}"),
        ("0.1", "0.01"),
    ],
    "roots and powers": [
        (r"4\sqrt{3}", r"3\sqrt{4}"),
        (r"\sqrt{48}", "48"),
        (r"\sqrt[3]{2}", r"\sqrt{2}"),
        (r"2+\sqrt{7}", r"2-\sqrt{7}"),
        ("8^{2/3}", "8^{3/2}"),
    ],
    "pi": [
        (r"9\pi", "9"),
        (r"9\pi", r"9\pi^2"),
        (r"9\pi", r"3\pi"),
        (r"9\pi", "28.27"),
        (r"\frac{\pi}{2}", r"\frac{2}{\pi}"),
    ],
    "units": [
        ("42 cm", "42 m"),
        ("42 hours", "42 minutes"),
        (r"12\pi \text{ cm}", r"12\pi \text{ m}"),
        (r"12\pi cm", r"12\pi inches"),
        (r"12\pi \text{ cm}", r"13\pi"),
        (r"12\pi \text{ cm}", "12"),
        (r"5\sqrt{2} \text{ cm}", r"5\sqrt{2} \text{ inches}"),
        (r"5\sqrt{2} \text{ cm}", r"2\sqrt{5}"),
        (r"3x \text{ dollars}", r"3x \text{ cents}"),
        (r"3x \text{ dollars}", "3y"),
        (r"3x \text{ dollars}", "3"),
        ("3 m", "3 s"),
        ("5m", "5"),
        (r"2\pi r", r"2\pi"),
        (r"\pi m", r"\pi"),
        (r"\pi r^2 h", r"\pi r^2"),
    ],
    "percent": [
        ("35%", "3.5%"),
        ("35%", "0.035"),
        ("0.35%", "0.35"),
    ],
    "expressions": [
        ("x^2 - 9", "(x-3)^2"),
        ("2(a+b)", "2a+b"),
        ("x+1", "x-1"),
        ("-(y-4)", "y-4"),
        (r"\frac{x+1}{2}", r"\frac{x}{2}+1"),
        ("x^3", "x^2"),
        ("ab", "a+b"),
        (r"e^{2x}", "2e^x"),
    ],
    "equations and assignments": [
        ("k = -6", "k = 6"),
        ("k = -6", "m = -6"),
        ("y = 3x - 2", "y = 3x + 2"),
        ("y = 3x - 2", "y = 2x - 3"),
    ],
    "lists, sets and tuples": [
        ("4, 9", "4"),
        ("4, 9", "4, 8"),
        ("(2,-7)", "(-7,2)"),
        (r"\{2, 3\}", r"\{2, 3, 5\}"),
        (r"\{2, 3\}", "(2, 3)"),
        (r"1 \pm \sqrt6", r"1 + \sqrt6"),
        (r"\pm 12", "12"),
        ("x = -3 or x = 8", "x = 3 or x = 8"),
    ],
    "intervals and inequalities": [
        ("(0, 6)", "[0, 6]"),
        ("(0, 6)", "(0, 7)"),
        ("0 < t < 6", r"0 \le t \le 6"),
        (r"x \le 9", r"x \ge 9"),
        (r"(-\infty, 4]", r"[4, \infty)"),
        (r"[1,2] \cup [5,6]", "[1,6]"),
    ],
    "matrices and vectors": [
        (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}", r"\begin{pmatrix}0&1\\1&0\end{pmatrix}"),
        (r"\begin{pmatrix} 2 \\ 3 \end{pmatrix}", r"\begin{pmatrix} 3 \\ 2 \end{pmatrix}"),
    ],
    "complex numbers": [
        ("4 + 3i", "4 - 3i"),
        ("4 + 3i", "3 + 4i"),
        ("2i", "2"),
    ],
    "words and choices": [
        (r"\text{Saturday}", r"\text{Sunday}"),
        ("(D)", "(B)"),
        ("even", "odd"),
        ("D", "5"),
    ],
    "bases, times and ratios": [
        ("2021_5", "2021_6"),
        ("8:15", "8:51"),
        ("3:2", "2:3"),
    ],
    "trigonometry and logarithms": [
        (r"\sin x", r"\cos x"),
        (r"\log_2 8", r"\log_8 2"),
        (r"\ln 4", "4"),
    ],
}


def pairs(kinds):
    return [pytest.param(a, b, id=f"{kind}: {a} | {b}") for kind, found in kinds.items() for a, b in found]


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), pairs(SAME))
def test_the_same(one, other) -> None:
    assert equal(one, other)
    assert equal(other, one)


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), pairs(DIFFERENT))
def test_not_the_same(one, other) -> None:
    assert not equal(one, other)
    assert not equal(other, one)


def test_there_are_enough_of_both() -> None:
    same, different = sum(map(len, SAME.values())), sum(map(len, DIFFERENT.values()))
    assert same >= 90
    assert different >= 80
