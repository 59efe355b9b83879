"""The library: the same documents as the command line's, from Python, and results that show themselves."""

import json
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import rmx
from rmx.cli.main import main
from rmx.engine.engine import PrefixCache
from rmx.errors import RmxError, SwapError
from rmx.library import model as library_model
from rmx.library.results import FORK, ArmsDocument, NotebookProgress, cell, chart, to_frame
from rmx.library.solution import fan_drawing
from rmx.models.load import load
from rmx.models.workspace import Workspace
from rmx.storage.rendering import render

TIMES = ("seconds", "reuse", "usd")


@pytest.fixture(scope="module")
def mini():
    """Mini on weights of its own, since adapters are put on them."""
    return load("mini", device="cpu")


@pytest.fixture(autouse=True)
def bundled(monkeypatch, mini):
    """Library and command line share the model that the tests have loaded."""
    space = Workspace("cpu", loader=lambda spec: mini)
    monkeypatch.setattr(library_model, "_workspace", lambda *_: space)
    monkeypatch.setattr("rmx.models.workspace.Workspace", lambda *_, **__: space)


@pytest.fixture
def fresh(mini, monkeypatch):
    """Forget what was computed: figures of a cached prefix may differ in the last digit."""

    def forget():
        monkeypatch.setattr(mini.engine, "prefixes", PrefixCache(64 << 20))

    forget()
    return forget


@pytest.fixture
def model(fresh):
    return rmx.load("mini")


@pytest.fixture
def printed(fresh, capsys):
    """The document that a command prints, with nothing computed before; library calls after it begin anew too."""

    def document(*argv):
        fresh()
        assert main([*argv, "--json"]) == 0
        fresh()
        return json.loads(capsys.readouterr().out)

    return document


def plain(document):
    """A document as JSON has it, without what depends on the clock and on what the cache held."""
    if isinstance(document, dict):
        return {name: plain(value) for name, value in document.items() if name not in TIMES}
    return [plain(one) for one in document] if isinstance(document, list | tuple) else document


# -- import rmx -------------------------------------------------------------------------------------------------------


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, rmx; print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'pydantic', 'numpy'}))"
    code += "; print([m for m in sys.modules if m.startswith('rmx.')])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split("\n")[:2] == ["[]", "[]"]


def test_every_name_of_the_face_is_there():
    from rmx.library.training import evaluate, runs, train

    for name in rmx.FACE:
        assert callable(getattr(rmx, name)), name
        assert name in dir(rmx)
    assert {rmx.FACE[name] for name in rmx.CALLED} == {train.__module__, evaluate.__module__, runs.__module__}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rmx.nothing  # noqa: B018


def test_a_function_that_is_called_like_a_package_leaves_the_package_as_it_is(monkeypatch):
    import rmx.train.drive

    called = []
    monkeypatch.setattr("rmx.library.training.train", lambda *args, **given: called.append((args, given)))
    rmx.train("mini", preset="small")
    assert called == [(("mini",), {"preset": "small"})]
    assert rmx.train.drive.drive.__module__ == "rmx.train.drive"


# -- the documents of the command line --------------------------------------------------------------------------------


def test_a_solution_is_the_document_of_trace(model, printed):
    options = {"temperature": 0.8, "top_p": 0.9, "seed": 3, "tau": 1.2, "max_new_tokens": 60}
    solution = model.solve(problem=241, **options)
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert plain(solution.json()) == plain(printed("trace", "--problem", "241", *words))
    assert solution.json()["seed"] == 3


def test_a_prompt_of_ones_own_is_graded_against_the_answer(model, printed):
    solution = model.solve("Ann has 3 apples. Ben has 4 more. How many apples do they have together?", answer=10)
    assert plain(solution.json()) == plain(printed("trace", solution.json()["title"], "--answer", "10"))
    assert solution.answer.correct is not None


def test_swaps_are_the_documents_of_swaps(model, printed):
    first = model.solve(problem="241")
    second = first.swap(at=28, token=" Then")
    third = second.swap(at=second.forks[1], rank=2)
    token = third.tokens[second.forks[1].pos]
    words = ["--swap", "28=879", "--swap", f"{token.pos}={token.id}"]
    documents = printed("trace", "--problem", "241", *words)
    assert plain(documents[1]) == plain(second.json())
    assert plain(documents[2]) == plain(third.json())
    assert (first.answer.text, second.answer.text, second.answer.correct) == ("33", "52", True)


def test_a_token_is_named_by_text_id_or_rank(model):
    first = model.solve(problem="241")
    fork = first.forks[-1]
    assert [c.text for c in fork.alternatives][:1] == [" Then"]
    assert fork.id not in [c.id for c in fork.alternatives]
    branches = [first.swap(fork, " Then"), first.swap(28, 879), first.swap(28, rank=2)]
    assert {branch.text for branch in branches} == {branches[0].text}
    several = first.swap(28, " Then we add")
    assert [t.forced for t in several.tokens[28:32]] == [True, True, True, False]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"at": 99, "token": 5}, "no token at position 99"),
        ({"at": 28, "token": 10**6}, "does not exist"),
        ({"at": 28, "rank": 0}, "between 1 and 20"),
        ({"at": 99, "rank": 1}, "no token at position 99"),
        ({"at": 28}, "Say what to put there"),
        ({"at": 28, "token": " Then", "rank": 2}, "Say what to put there"),
    ],
)
def test_a_swap_that_cannot_be_is_a_sentence(model, given, said):
    with pytest.raises(SwapError, match=said):
        model.solve(problem="241").swap(**given)


def test_a_stream_yields_the_tokens_of_the_solution(model):
    stream = model.stream(problem="241")
    first = [next(iter(stream)) for _ in range(3)]
    solution = stream.solution
    assert [t.pos for t in first] == [0, 1, 2]
    assert solution.text == model.solve(problem="241").text
    seen = []
    assert model.solve(problem="241", on_token=seen.append).tokens == tuple(seen)


def test_a_stream_that_is_stopped_keeps_what_is_there(model):
    stream = model.stream(problem="241")
    for token in stream:
        if token.pos == 4:
            stream.stop()
    assert 5 <= len(stream.solution.tokens) < 10
    assert stream.solution.trace.stop == "cancelled"


def test_a_given_text_is_read(model, printed, tmp_path):
    text = model.solve(problem="241").text.removesuffix("<|end|>")
    (tmp_path / "text").write_text(text)
    assert plain(model.read(text, problem="241").json()) == plain(
        printed("trace", "--problem", "241", "--read", str(tmp_path / "text"))
    )


@pytest.mark.slow
def test_what_an_answer_hangs_on_is_the_document_of_its_command(model, printed):
    solution, words = model.solve(problem="241"), ["--problem", "241"]
    one = solution.outcomes(at=28, samples=8, progress=False)
    assert plain(one.json()) == plain(printed("outcomes", *words, "--pos", "28", "--samples", "8"))
    curve = solution.outcomes(forks=2, samples=8, progress=False)
    document = printed("outcomes", *words, "--forks", "2", "--samples", "8")
    assert plain(curve.json()) == plain(document)
    assert plain(solution.rescue(progress=False).json()) == plain(printed("rescue", *words))
    assert plain(solution.answers_so_far().json()) == plain(printed("sofar", *words))
    with pytest.raises(RmxError, match="There is no argument 'sample'. Known: samples, "):
        solution.outcomes(at=28, sample=8)


@pytest.mark.slow
def test_shifts_of_a_solution_have_the_figures_of_the_command(model, printed):
    found = model.with_adapter("rl").shifts(model.solve(problem="241")).json()
    document = printed("shifts", "--problem", "241")
    read = {"source": "text", "stop": "read"}
    assert plain(found).keys() == plain(document).keys()
    for name, value in plain(document | read).items():
        if name not in ("tokens", "intervals", "noise", "placebo", "base_check", "entropy_histogram"):
            assert plain(found)[name] == pytest.approx(value, abs=1e-4) if isinstance(value, float) else True, name
    assert [t["class"] for t in found["tokens"]] == [t["class"] for t in document["tokens"]]
    assert [t["kl"] for t in found["tokens"]] == pytest.approx([t["kl"] for t in document["tokens"]], abs=1e-4)
    assert (found["positions"], found["disagreements"]) == (document["positions"], document["disagreements"])


@pytest.mark.slow
def test_a_set_is_the_document_of_its_command(model, printed):
    pair = model.with_adapter("rl")
    shifts = pair.shifts("mini:test", limit=2, placebo=False, keep=False, progress=False)
    words = ["--set", "mini:test", "--limit", "2", "--no-placebo", "--no-cache"]
    assert plain(shifts.json()) == plain(printed("shifts", *words))
    arms = pair.intervene("mini:test", arms=["oracle"], limit=2, placebo=False, keep=False, progress=False)
    assert plain(arms.json()) == plain(printed("intervene", *words, "--arms", "base,oracle"))


@pytest.mark.slow
def test_an_evaluation_is_the_document_of_eval(model, printed):
    pair = model.with_adapter("rl")
    found = rmx.evaluate([model, pair], "mini:test", n=2, limit=2, keep=False, progress=False)
    words = ["--adapter", "rl", "--set", "mini:test", "--n", "2", "--limit", "2", "--no-cache"]
    assert plain(found.json()) == plain(printed("eval", *words))


def test_models_that_cannot_be_compared_are_refused(model):
    other = replace(model, name="other", adapter="x")
    with pytest.raises(RmxError, match="x is on other, not on mini"):
        rmx.evaluate([model, other], limit=1)
    with pytest.raises(RmxError, match="loaded in different ways"):
        rmx.evaluate([model, replace(model, dtype="bfloat16")], limit=1)
    with pytest.raises(RmxError, match="full strength"):
        rmx.evaluate([model.with_adapter("rl", strength=0.5)], limit=1)
    with pytest.raises(RmxError, match="There is no option temperatur"):
        model.with_adapter("rl").shifts("mini", temperatur=1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"preset": "smal"}, "no preset 'smal'"),
        ({"learning_rate": 1}, "A recipe has no learning_rate"),
        ({"model": rmx.LanguageModel("mini", adapter="rl")}, "init_adapter"),
        ({"lr": 2.0}, "lr must be a number above 0 and at most 1; got 2.0"),
    ],
)
def test_a_training_that_cannot_be_is_a_sentence_and_leaves_no_run(given, said, monkeypatch, tmp_path):
    monkeypatch.setenv("RMX_RUNS", str(tmp_path / "runs"))
    with pytest.raises(RmxError, match=said):
        rmx.train(**given)
    assert rmx.runs() == []


# -- notebooks --------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Which elements an output has, and whether they are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.names, self._open, self.texts = [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onclick"}
        if tag not in ("circle", "line", "polyline", "polygon"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("circle", "line", "polyline", "polygon"):
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_a_solution_shows_its_forks_with_their_alternatives(model):
    solution = model.solve(problem="241").swap(28, " Then")
    shown = solution._repr_html_()
    tags = Tags(shown)
    assert shown.count('class="mark fork"') == len([f for f in solution.forks if not f.forced])
    assert shown.count('class="mark forced"') == 1
    assert {" Then", " So"} <= set(tags.texts)
    assert not {"script", "iframe", "img", "link"} & set(tags.names)
    assert "✓ right" in shown
    assert repr(solution) == "<mini: answer 52 (right), 56 tokens, 3 forks>"


def test_a_notebook_draws_the_forks_with_what_they_are_known_to_end_in(model):
    solution = model.solve(problem="241")
    assert solution._repr_html_().count('class="end unknown"') > 4 * (len(solution.forks) - 1)
    assert 'class="end right"' not in solution._repr_html_()
    taken = solution.swap(28, " Then")
    shown = solution._repr_html_()
    assert shown.count('class="end right"') == 1
    assert "Then ✓ 52" in " ".join(Tags(shown).texts)
    assert taken._repr_html_().count('class="end wrong"') == 1  # what stood there before
    assert fan_drawing(replace(solution.trace, tau=9.0), {})["forks"] == []


def test_what_a_model_says_is_escaped():
    shown = render("notebook/tokens.html",
        title="<b>",
        tokens=[
            {
                "text": "<script>", "kind": "fork", "weight": 0.5, "facts": '"><i>',
                "lists": [{"name": "<u>", "top": [{"id": 1, "text": "<s>", "p": 0.5}], "chosen": 1}],
            },
            {"text": "<q>", "kind": "", "weight": 0.0, "facts": "", "lists": []},
        ],
        answer={"text": "<em>", "correct": None},
        notes=["<code>"],
    )  # fmt: skip
    assert not {"script", "b", "i", "u", "s", "q", "em", "code"} & set(Tags(shown).names)
    assert {"<script>", "<b>", "<u>", "<s>", "<q>", "<code>"} <= set(Tags(shown).texts)


@pytest.mark.slow
def test_every_result_shows_itself(model):
    solution, pair = model.solve(problem="241"), model.with_adapter("rl")
    results = [
        solution.outcomes(at=28, samples=8, progress=False),
        solution.outcomes(forks=1, samples=8, progress=False),
        solution.rescue(progress=False),
        solution.answers_so_far(),
        pair.shifts(solution),
        pair.shifts("mini:test", limit=2, progress=False),
        pair.intervene("mini:test", arms=["oracle"], limit=2, progress=False),
        rmx.evaluate([model, pair], "mini:test", n=2, limit=2, progress=False),
    ]
    for result in results:
        assert "\n" not in repr(result)
        assert repr(result)[1:-1] in Tags(result._repr_html_()).texts
        assert len(result.to_frame()) == len(result.rows()) > 0
    assert len(solution.to_frame()) == len(solution.tokens)
    assert results[-1]._repr_html_().count("<polyline") == 2
    with pytest.raises(RmxError, match="no curves"):
        results[0].figure()
    band, line, *other = results[-1].figure().data
    shares = [results[-1]["models"][0]["pass@k"][k] for k in ("1", "2")]
    assert (line.name, list(line.x)) == (results[-1]["models"][0]["name"], [1.0, 2.0])
    assert list(line.y) == pytest.approx([100 * share["value"] for share in shares])
    assert list(band.y) == pytest.approx([100 * s["high"] for s in shares] + [100 * s["low"] for s in shares[::-1]])
    assert len(other) == 2


def test_a_solution_is_drawn_with_its_forks_apart(model):
    solution = model.solve(problem="241")
    drawn = solution.figure()
    assert list(drawn.data[0].y) == [t.entropy for t in solution.tokens]
    coloured = {pos for pos, colour in zip(drawn.data[0].x, drawn.data[0].marker.color, strict=True) if colour == FORK}
    assert coloured == {fork.pos for fork in solution.forks}
    assert drawn.layout.shapes[0].y0 == solution.trace.tau


def test_a_table_shows_intervals_as_bars_in_place():
    arm = {"touched": 0.0, "pass@1": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 4}}
    document = {"base": "a", "adapted": "b", "n": 4, "set": "s", "arms": {"base": arm}, "placebo": None, "reading": []}
    shown = ArmsDocument(document)._repr_html_()
    assert "left:25.0%;width:50.0%" in shown
    assert "50 % [25, 75]" in shown
    assert cell({"value": 0.0, "low": -0.25, "high": 0.25, "n": 4}, "points", (-0.5, 0.5))["bar"]["low"] == 25.0
    assert cell(None) == {"text": "–", "bar": None}


def test_a_chart_puts_shares_where_they_belong():
    none, all_right = ({"value": v, "low": v, "high": v, "n": 1} for v in (0.0, 1.0))
    drawn = chart({"a": [(1, none), (4, all_right)], "empty": []}, "k", "y")
    assert [curve["name"] for curve in drawn["curves"]] == ["a"]
    (x0, y0), (x1, y1) = (tuple(map(float, point.split(","))) for point in drawn["curves"][0]["line"].split())
    assert x0 < x1
    assert y0 > y1  # a larger share stands higher
    assert [tick["text"] for tick in drawn["ticks"]] == ["1", "4"]


def test_without_pandas_a_frame_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RmxError, match="pip install pandas"):
        to_frame([{"a": 1}])


def test_progress_is_a_bar_with_what_is_done(capsys):
    with NotebookProgress() as tell:
        tell("problems", 1, 4)
        tell("problems", 4, 4)
    said = capsys.readouterr().err
    assert "problems" in said
    assert "4/4" in said
    with NotebookProgress(False) as tell:
        tell("problems", 1, 4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ending", [".html", ".json", ".csv", ".svg"])
def test_a_solution_is_written_with_all_its_branches(model, tmp_path, ending):
    from rmx.trees.tree_page import read_any

    branch = model.solve(problem="241").swap(28, " Then")
    branch.save(tmp_path / f"solution{ending}")
    text = (tmp_path / f"solution{ending}").read_text(encoding="utf-8")
    if ending in (".html", ".json"):
        tree = read_any(text)
        assert [b.at for b in tree.branches] == [0, 28]
        assert tree.shown == 1
        assert tree.title is not None
    assert " Then" in text
    with pytest.raises(RmxError, match="written as .html"):
        branch.save(tmp_path / "solution.pdf")
