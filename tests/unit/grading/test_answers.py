"""Final answers, their equality (with what the library gets wrong), and the stopping rule."""

import os
import random
import subprocess
import sys
import threading
import time

import pytest

from rmx.config import PACKAGE
from rmx.grading import math_verify_process as equality_worker
from rmx.grading.answers import GRACE, StopRule, equal, final_answer, grade
from rmx.grading.math_verify_process import WALL_LIMIT
from rmx.records import Answer

pytestmark = pytest.mark.slow

# ---- finding the answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"So \boxed{42}.", "42"),
        (r"First \boxed{1}, then \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {7}", "7"),
        (r"\fbox{x^{2}}", "x^{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        ("\\boxed{\n 12 \n}", "12"),
        (r"Write it as \boxed{}. Fine: \boxed{9}", "9"),
        (r"It is \boxed{9}, as \boxed{} asks, or \boxed{answer}, or \boxed{...}", "9"),
        (r"the \boxed{ is opened once too often, but \boxed{3}", "3"),
        (r"\boxed{1} and then \boxed{2", "1"),
        (r"\boxed{ as in #### 5", "5"),
        (r"12 \boxed{\frac{1}{2}", None),  # broken off inside the answer: no number of it counts
        ("She pays 9 * 2 = <<9*2=18>>18.\n#### 18", "18"),
        ("#### 1,234", "1,234"),
        ("#### $5.50", "5.50"),
        ("#### -3", "-3"),
        ("#### 3\nno: #### 4", "4"),
        (r"\boxed{5} #### 6", "5"),
        ("#### 1. First step\nso there are 7 of them", "7"),
        ("##### 5\nso 8", "8"),
        ("Total: 1,234.50 dollars", "1,234.50"),
        ("That makes $18.", "18"),
        ("a loss of -$5", "-5"),
        ("between 10-15", "15"),
        ("x = -5.", "-5"),
        ("x = \u22125", "-5"),
        ("it is 3/4 of it", "3/4"),
        ("it is 1 1/2 cups", "1 1/2"),
        (r"so $\frac{3}{4}$", r"\frac{3}{4}"),
        ("about 12.5% of it", "12.5%"),
        ("about 40 percent of it", "40%"),
        (r"30\% of x_1", r"30\%"),
        ("at 3:45", "3:45"),
        ("1.5e-3", "1.5e-3"),
        ("it is .5", ".5"),
        ("it is...5", "5"),
        ("**42**", "42"),
        ("H2O and x2", None),
        ("no number", None),
        ("", None),
    ],
)
def test_final_answer(text, expected):
    assert final_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"<think>\boxed{1}", None),
        (r"<think>maybe \boxed{1}</think>It is \boxed{2}", "2"),
        (r"<think>maybe \boxed{1}</think>It is open", None),
        (r"maybe \boxed{1}</think>7", "7"),  # the prompt had opened the block
        (r"<think>a</think>5<think>\boxed{6}", None),
    ],
)
def test_only_what_follows_the_thinking_counts(text, expected):
    assert final_answer(text) == expected


def test_thinking_that_the_prompt_opened():
    assert final_answer(r"\boxed{1}", thinking=True) is None
    assert final_answer(r"\boxed{1}</think> 2", thinking=True) == "2"


def test_styles_restrict_where_to_look():
    text = "8 #### 18"
    assert final_answer(text, styles=("boxed",)) is None
    assert final_answer(text, styles=("boxed", "hash")) == "18"
    assert final_answer("#### 18, or 8", styles=("last_number", "hash")) == "8"
    assert final_answer("only 8", styles=("boxed", "hash")) is None


def test_final_answer_is_linear():
    start = time.process_time()
    for text in (r"\boxed{" * 20_000, "1," * 60_000, "1 " * 60_000, "#" * 120_000, "{" * 120_000, "-" * 120_000):
        final_answer(text)
    assert time.process_time() - start < 3


def test_grade():
    assert grade(r"\boxed{18}", "18") == Answer("18", True)
    assert grade(r"\boxed{18}", "19") == Answer("18", False)
    assert grade(r"\boxed{18}", None) == Answer("18", None)
    assert grade("nothing", "19") == Answer(None, False)
    assert grade("nothing", None) == Answer(None, None)
    assert grade("about 19", "19", styles=("boxed",)) == Answer(None, False)
    assert grade("19", "19", thinking=True) == Answer(None, False)


# ---- equality

EQUAL = [
    # plain numbers, signs, separators
    ("18", "18.0"),
    ("018", "18"),
    ("+7", "7"),
    ("-0", "0"),
    ("\u22127", "-7"),
    ("1,234", "1234"),
    ("1{,}234", "1234"),
    (r"10,\!080", "10080"),
    ("1e3", "1000"),
    (r"1.5 \times 10^{3}", "1500"),
    ("2 million", "2000000"),
    ("5.", "5"),
    # fractions
    ("3/4", r"\frac{3}{4}"),
    (".75", r"\frac34"),
    ("0.75", r"\dfrac{3}{4}"),
    ("1.5", r"1\frac12"),
    ("1 1/2", r"\frac{3}{2}"),
    (r"-\frac{35}{9}", "-35/9"),
    ("0.333333", r"\frac{1}{3}"),
    # units and currency
    ("18 dollars", "18"),
    ("$18", "18"),
    (r"\$18.00", "18"),
    ("$18$", "18"),
    ("5 cm", "5"),
    (r"5\text{ cm}", "5 centimeters"),
    ("2,220 miles", "2220"),
    ("15 miles per hour", r"15 \text{ mph}"),
    ("864", r"864 \mbox{ inches}^2"),
    (r"90^\circ", "90"),
    (r"90^{\circ}", "90 degrees"),
    (r"16\sqrt{3} cm^2", r"16 \sqrt{3} \text{ cm}^2"),
    ("approximately 5", "5"),
    # percent: the sign may be dropped or computed
    (r"50\%", "50%"),
    ("50 percent", "50%"),
    ("50%", "0.5"),
    ("50%", "50"),
    (r"\frac{1}{10}", r"10\%"),
    # LaTeX and plain text
    (r"\left( 3, \frac{\pi}{2} \right)", "(3, pi/2)"),
    (r"$\boxed{\left( 3, \frac{\pi}{2} \right)}$", r"(3, \frac{\pi}{2})"),
    (r"11\sqrt2", r"11\sqrt{2}"),
    (r"\sqrt{117}", r"3\sqrt{13}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt3}"),
    ("(x-1)(x+1)", "x^2-1"),
    (r"\sin^2 x + \cos^2 x", "1"),
    (r"\text{(C)}", "C"),
    ("(A)", "A"),
    ("evelyn", r"\text{Evelyn}"),
    ("2^{10}", "1024"),
    (r"\binom{5}{2}", "10"),
    ("1011", "1011_2"),
    ("6-5 i", "6 - 5i"),
    (r"10^{-20}", r"\frac{1}{10^{20}}"),
    (r"\begin{pmatrix}1/2\\2\end{pmatrix}", r"\begin{pmatrix} \frac{1}{2} \\ 2 \end{pmatrix}"),
    # names, lists, sets, intervals
    ("x = 5", "5"),
    ("x=5", "x = 5"),
    ("5=x", "x=5"),
    ("2x+1", "y = 2x+1"),
    ("-2, 1", "1,-2"),
    ("x = 3 or x = 5", "3, 5"),
    (r"3 \text{ or } 5", "5, 3"),
    ("1,2", "(1,2)"),
    (r"\{2,1\}", r"\{1,2\}"),
    ("3, -3", r"x = \pm 3"),
    (r"[-2, inf)", r"[-2, \infty)"),
    (r"[-2,7]", r"x \in [-2,7]"),
    ("(1,3)", "1 < x < 3"),
    (r"(3,\infty)\cup(-\infty,2)", r"(-\infty,2)\cup(3,\infty)"),
    ("3<x", "x>3"),
    ("1/2", "1:2"),
    ("09:30", "9:30"),
]

DIFFERENT = [
    ("18", "19"),
    ("-7", "7"),
    ("12.5", "12"),
    ("1234", "1,2,3,4"),
    ("0.33", r"\frac{1}{3}"),
    ("3", r"\frac{1}{3}"),
    ("2/0", "1/0"),
    ("0.5%", "0.5"),
    ("5%", "5 dollars"),
    ("5 m", "5 cm"),
    ("$18", "18 euros"),
    ("3m", "3"),
    ("5x", "5"),
    ("2 theta", "2"),
    ("3 factorial", "3"),
    ("7 and 8", "7"),
    ("12_7", "12_8"),
    ("A", "B"),
    ("Carla", r"\text{Evelyn}"),
    ("y=5", "x=5"),
    ("x < 3", "x > 3"),
    (r"x \ge 3", "x > 3"),
    ("[1,2]", "(1,2)"),
    ("(2,1)", "(1,2)"),
    (r"\{1,2,2\}", r"\{1,1,2\}"),
    ("a-b", "a+b"),
    (r"2\sqrt{3}", r"3\sqrt{2}"),
    (r"-\infty", r"\infty"),
    (r"\begin{pmatrix}1\\3\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ("f(x)=x+2", "f(x)=x+1"),
    ("", "5"),
    ("", ""),
    ("   ", "   "),
]


@pytest.mark.parametrize(("given", "known"), EQUAL)
def test_equal(given, known):
    assert equal(given, known)
    assert equal(known, given)


@pytest.mark.parametrize(("given", "known"), DIFFERENT)
def test_different(given, known):
    assert not equal(given, known)
    assert not equal(known, given)


# What math-verify gets wrong or got wrong, by the number of its issue or pull request. With parse("$...$") and verify()
# version 0.9 answers as in the first column; the second is right.
REPORTED = [
    # library, right, known, given
    (True, False, r"\frac{1}{2004!}", r"\frac{1}{2006!}", "#14"),
    (True, False, r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", "#14"),
    (False, False, "n=2, 3, 4", "n=1, 2, 3", "#14"),
    (False, False, "D = (0, 1)", "D = (0, 1.5)", "#14"),
    (False, False, r"F_n = \sum_{k=0}^{n-1} F_k F_{n-k-1}", r"F_n = \sum_{k=0}^{n-2} F_k F_{n-k-2}", "#14"),
    (False, False, r"19, 46, \text{ and } 82", "21, 36, and 82", "#14"),
    (True, False, r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}", r"\frac{1}{3 \cdot 2^{2006}}", "#14"),
    (True, False, r"1 - \frac{1}{\mathrm{e}}", r"1 + \frac{1}{\mathrm{e}}", "#14, #82"),
    (False, False, r"\pm 2021", "2021", "#14"),
    (False, False, "12:00", "1:00", "#14"),
    (True, False, r"1, 2, \ldots, n", r"1, 3, 5, \ldots, 2n-1", "#14"),
    (True, False, r"1:2:3:\ldots", r"1:4:9:\ldots", "#14"),
    (False, True, r"1 - \frac{1}{\mathrm{e}}", r"1 - e^{-1}", "#82"),
    (True, False, "4", r"4\sqrt(2)", "#41"),
    (False, True, r"4\sqrt{2}", r"4\sqrt(2)", "#41"),
    (False, True, "e^{16} - 1", "-1 + exp(16)", "#69"),
    (False, True, r"\dfrac{\pi}{2}", "pi/2", "#69"),
    (False, True, "14 - i", "14.0 + -1.0i", "#69"),
    (False, True, r"-2\pi", "-2*pi", "#69"),
    (False, False, r"O(\log \log n)", "Theta(log log n)", "#69: no miss, a different statement"),
    (False, False, r"1331 \text{ and } 1728", "1728", "#47"),
    (True, False, "f(x) = 0", r"\forall x>0, f(x) = 0", "#64"),
    (True, True, "2x+4y-3=0", r"y = -\frac{1}{2}x + \frac{3}{4}", "#26"),
    (False, False, "x^2/4+y^2/3=1", "x^2/16+y^2/12=1", "#40"),
    # found here
    (True, False, "0.0000001", "0.0000002", "rounded to six places"),
    (True, False, r"5 \text{ cm}", r"5 \text{ m}", "units dropped"),
    (True, False, "3", "3m", "a variable taken for a unit"),
]


@pytest.mark.parametrize(("library", "right", "known", "given", "source"), REPORTED)
def test_what_was_reported_against_the_library(library, right, known, given, source):
    assert equal(given, known) is right


@pytest.mark.parametrize(("library", "right", "known", "given", "source"), [r for r in REPORTED if r[0] != r[1]])
def test_the_library_alone_is_still_wrong(library, right, known, given, source):
    """When this fails the library has been mended, and our repair may go."""
    from math_verify import parse, verify

    found = verify(
        parse(f"${known}$", parsing_timeout=None), parse(f"${given}$", parsing_timeout=None), timeout_seconds=None
    )
    assert found is library


@pytest.mark.parametrize(
    ("known", "given", "right"),
    [
        pytest.param(
            r"\sqrt{1/n}",
            r"\frac{1}{\sqrt{n}}",
            True,
            marks=pytest.mark.xfail(strict=True, reason="#64: equal for n > 0 only, and nothing says that n > 0"),
        ),
        pytest.param(
            r"-x + C + \frac{D}{x}",
            r"A + \frac{B}{x} - x",
            True,
            marks=pytest.mark.xfail(strict=True, reason="#75: nothing says that A, B, C, D are free constants"),
        ),
        pytest.param(
            "100 cm", "1 m", True, marks=pytest.mark.xfail(strict=True, reason="units are compared, not converted")
        ),
        pytest.param(
            r"\text{three}", "3", True, marks=pytest.mark.xfail(strict=True, reason="number words are not read")
        ),
        pytest.param(
            "5 apples",
            "5 oranges",
            False,
            marks=pytest.mark.xfail(strict=True, reason="a unit outside the table is dropped unseen"),
        ),
        pytest.param(
            "1", "1%", False, marks=pytest.mark.xfail(strict=True, reason="a dropped percent sign is allowed from 1 up")
        ),
    ],
)
def test_what_stays_wrong(known, given, right):
    assert equal(given, known) is right


def test_boxes_far_apart_are_not_one_answer():
    """Math-Verify #57 and #44: two boxes were joined to one answer."""
    text = r"I think it is \boxed{35 cm}. No wait. \boxed{4}"
    assert final_answer(text) == "4"
    assert grade(r"so \boxed{840}, indeed." + "\n\n**Final Answer**\n" + r"\boxed{840}", "840").correct


HOSTILE = [
    "9^9^9^9",
    "9^{9^{9}}",
    r"\binom{100000000}{50000000}",
    "(x+y+z+w)^{999}",
    "{" * 300,
    "(" * 900,
    r"\frac{" * 150 + "1",
    "x=y=" * 70,
    "1e999",
    "9" * 5000,
    "\x00\ud800",
    "$" * 99,
    r"\pm" * 100,
    "1:" * 400,
    "," * 900,
    r"\text{" * 150,
    "1 " * 450,
    "a " * 450,
]


def test_hostile_answers_come_back_in_time_from_other_threads():
    equal("x^2-1", "(x-1)(x+1)")  # a worker is up
    slow, wrong = {}, []

    def ask(hostile):
        for answer in hostile:
            start = time.monotonic()
            if equal(answer, "x+7"):
                wrong.append(answer)
            slow[answer] = time.monotonic() - start

    run_threads(ask, [HOSTILE[::2], HOSTILE[1::2]])
    assert not wrong
    assert len(slow) == len(HOSTILE)
    # the limit, and the start of a fresh worker after one was killed, on a busy machine
    assert max(slow.values()) < WALL_LIMIT + 10, slow


def run_threads(task, arguments):
    threads = [threading.Thread(target=task, args=(argument,)) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_list_of_hostile_parts_costs_no_more_than_one():
    hard = ", ".join(f"(x+y+z+w)^{{{n}}}" for n in range(990, 999))
    start = time.monotonic()
    assert not equal(hard, ", ".join(f"x+{n}" for n in range(9)))
    assert time.monotonic() - start < 2 * WALL_LIMIT + 10


def test_many_threads():
    results = []

    def ask(first):
        for k in range(first, first + 5):
            results.append((equal(rf"\frac{{{k}}}{{2}}x", rf"\frac{{x}}{{2}} \cdot {k}"), equal(f"{k}x", f"{k + 1}x")))

    run_threads(ask, range(2, 82, 5))
    assert results == [(True, False)] * 80


# A worker without the library, up at once: what has a bracket is equal, and at 49 it sleeps where no signal of its own
# wakes it.
STUB = """
import sys, time
print("ready", flush=True)
for line in sys.stdin:
    if "49" in line:
        time.sleep(600)
    print("equal" if "(" in line else "different", flush=True)
"""


@pytest.fixture
def stub_pool(monkeypatch):
    """The pool, with workers that run STUB."""
    pool = equality_worker._Pool()
    monkeypatch.setattr(equality_worker, "COMMAND", ("-c", STUB))
    monkeypatch.setattr(equality_worker, "_pool", pool)
    yield pool
    pool.stop()


def processes(pool):
    return [worker._process for worker in pool._workers if worker._process is not None]


def test_a_stuck_worker_is_killed_and_the_next_question_is_answered(stub_pool, monkeypatch):
    assert equal("(x-9)(x+9)", "x^2-81")
    (stuck,) = processes(stub_pool)
    with monkeypatch.context() as short:
        short.setattr(equality_worker, "WALL_LIMIT", 0.5)
        start = time.monotonic()
        assert not equal("(x-7)(x+7)", "x^2-49")
        assert 0.45 < time.monotonic() - start < 4.5
    assert stuck.poll() is not None
    assert equal("(x-8)(x+8)", "x^2-64")
    (fresh,) = processes(stub_pool)
    stub_pool.stop()
    assert fresh.poll() is not None


def test_a_worker_that_dies_is_replaced(stub_pool):
    assert equal("(x-4)(x+4)", "x^2-16")
    (dead,) = processes(stub_pool)
    dead.kill()
    assert equal("(x-5)(x+5)", "x^2-25")
    assert processes(stub_pool) != [dead]


def test_without_a_worker_answers_are_different_and_a_warning_is_logged(stub_pool, monkeypatch, caplog):
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/nowhere/python")
        assert not equal("(x-6)(x+6)", "x^2-36")
    assert "counted as different" in caplog.text
    assert equal("(x-6)(x+6)", "x^2-36")  # the failure was not remembered


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_worker_of_its_own():
    code = (
        "import os; from rmx.grading import math_verify_process as equality_worker\n"
        "from rmx.grading.equality import equal\n"
        f"equality_worker.COMMAND = ('-c', {STUB!r})\n"
        "def ids(): return {w._process.pid for w in equality_worker._pool._workers if w._process}\n"
        "assert equal('(x-1)(x+1)', 'x^2-1')\n"
        "before, child = ids(), os.fork()\n"
        "same = equal('(x-2)(x+2)', 'x^2-4') and not equal('x+1', 'x+2')\n"
        "if not child: os._exit(0 if same and not ids() & before else 3)\n"
        "assert same and ids() == before and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
    )
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**os.environ, "PYTHONPATH": path})


def test_plain_numbers_are_fast():
    start = time.process_time()
    for i in range(20_000):
        equal(str(i), f"{i}.0")
    assert time.process_time() - start < 1


def test_numbers_equal_python_fractions():
    """Random numbers in random dress against exact arithmetic."""
    rng = random.Random(0)
    for _ in range(2000):
        a, b = rng.randint(-30, 30), rng.randint(1, 12)
        c = a if rng.random() < 0.5 else rng.randint(-30, 30)
        given = rng.choice([f"{a}/{b}", rf"\frac{{{a}}}{{{b}}}", rf"$\dfrac{{{a}}}{{{b}}}$", rf"\boxed{{{a}/{b}}}"])
        known = rng.choice([f"{c}/{b}", f"{2 * c}/{2 * b}", rf"\frac{{{3 * c}}}{{{3 * b}}}", f"{c}/{b} dollars"])
        assert equal(given, known) is (a == c), (given, known)


# ---- when to stop


def stops_at(text, *, pieces=None, thinking=False):
    """The number of characters after which the rule ends the text, or None."""
    rule, length = StopRule(thinking=thinking), 0
    for piece in pieces or text:
        length += len(piece)
        if rule.feed(piece):
            return length
    return None


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("So \\boxed{42}.\n more", "So \\boxed{42}.\n"),
        ("So $\\boxed{\\frac{1}{2}}$ done\nmore", "So $\\boxed{\\frac{1}{2}}$ done\n"),
        ("\\boxed {42}\nmore", "\\boxed {42}\n"),
        ("\\fbox{42}\nmore", "\\fbox{42}\n"),
        ("\\boxed{\\{1\\}}\nmore", "\\boxed{\\{1\\}}\n"),
        ("\\boxed{\n42\n}\nmore", "\\boxed{\n42\n}\n"),
        ("in \\boxed{}\nthen \\boxed{1}\nmore", "in \\boxed{}\nthen \\boxed{1}\n"),
        ("in \\boxed{answer}\nthen \\boxed{1}\nmore", "in \\boxed{answer}\nthen \\boxed{1}\n"),
        ("in \\boxed{ ... }\nthen \\boxed{1}\nmore", "in \\boxed{ ... }\nthen \\boxed{1}\n"),
        ("open \\boxed{ and \\boxed{5}\nmore", "open \\boxed{ and \\boxed{5}\n"),
        ("\\boxed{\\boxed{5}}\nmore", "\\boxed{\\boxed{5}}\n"),
        ("<think>\\boxed{1}\n</think>\\boxed{2}\nmore", "<think>\\boxed{1}\n</think>\\boxed{2}\n"),
        ("\\boxed{1} <think>\n</think>\\boxed{2}\nmore", "\\boxed{1} <think>\n</think>\\boxed{2}\n"),
        ("<<2+2=4>>4\n#### 42\nmore", "<<2+2=4>>4\n#### 42\n"),
        ("#### $1,234.5.\nmore", "#### $1,234.5.\n"),
        ("####-3\nmore", "####-3\n"),
        ("##\\boxed{3}\nmore", "##\\boxed{3}\n"),
    ],
)
def test_stop(text, ending):
    for size in (1, 2, 3, 5, 1000):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        at = stops_at(text, pieces=pieces)
        assert at is not None
        assert len(ending) <= at < len(ending) + size, (size, text[:at])


@pytest.mark.parametrize(
    "text",
    [
        "no answer\n42\n",
        "\\boxed{42\nmore\n",
        "\\boxed{}\n",
        "\\boxed42\n",
        "\\unboxed{42}\n",
        "\\\\boxed{4}\n",
        "<think>\\boxed{42}\n#### 42\n",
        "#### Step 1\n#### 1. First\n### 42\n##### 42\n",
        "#### 42",
        "#### \n42\n",
        "\\boxed{42}",
    ],
)
def test_goes_on(text):
    assert stops_at(text) is None
    assert stops_at(text, pieces=[text]) is None


def test_thinking_opened_by_the_prompt():
    assert stops_at("\\boxed{1}\n", thinking=True) is None
    assert stops_at("\\boxed{1}\n</think>\\boxed{2}\n", thinking=True) == 28


def test_grace_counts_pieces_after_the_box():
    rule = StopRule()
    assert not any(rule.feed(piece) for piece in ["\\bo", "xed", "{4", "2}"])
    assert [rule.feed(" and") for _ in range(GRACE)] == [False] * (GRACE - 1) + [True]
    assert rule.over
    assert rule.feed("anything")  # over stays over


def test_grace_is_not_renewed_by_another_box():
    rule = StopRule()
    assert sum(not rule.feed("\\boxed{1}") for _ in range(100)) == GRACE


def test_empty_pieces_do_not_end_but_count():
    rule = StopRule()
    assert not rule.feed("\\boxed{1}")
    assert [rule.feed("") for _ in range(GRACE)][-1]


def test_where_it_ends_does_not_depend_on_the_split():
    """Random texts of markers: fed whole, by character and in random pieces, the rule agrees with itself."""
    rng = random.Random(0)
    parts = [
        "\\boxed{",
        "\\boxed {",
        "}",
        "{",
        "\\{",
        "\\}",
        "4",
        "\n",
        "####",
        " 42",
        "<think>",
        "</think>",
        "a",
        "\\",
        "<",
        "#",
    ]
    ended = 0
    for _ in range(3000):
        text = "".join(rng.choice(parts) for _ in range(12))  # fewer pieces than GRACE characters follow a box
        cuts = sorted(rng.sample(range(1, len(text)), min(5, len(text) - 1)))
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        whole, split = stops_at(text, pieces=[text]), stops_at(text, pieces=pieces)
        assert (whole is None) == (split is None), text
        if split is not None:
            # everything before the last piece was not enough, this piece was
            assert stops_at(text, pieces=[text[:split]]) is not None
            ended += 1
    assert ended > 30


def test_a_stopped_text_has_an_answer():
    """What ends a completion is what `final_answer` then finds."""
    rng = random.Random(1)
    parts = ["\\boxed{", "}", "{", "4", "\n", "#### ", "42", "<think>", "</think>", "a ", "...", "$"]
    found = 0
    for _ in range(3000):
        text = "".join(rng.choice(parts) for _ in range(14))
        at = stops_at(text)
        if at is not None:
            assert final_answer(text[:at], styles=("boxed", "hash")) is not None, text
            found += 1
    assert found > 50


def test_the_rule_is_linear_and_cheap():
    def cost(n):
        rule, start = StopRule(), time.process_time()
        for _ in range(n):
            rule.feed("\\boxed{{x")
        return time.process_time() - start

    assert cost(20_000) < 2
    rule, start = StopRule(), time.process_time()
    for _ in range(100_000):
        rule.feed(" word")
    assert time.process_time() - start < 0.5  # 5 microseconds a piece; about 0.5 in practice
