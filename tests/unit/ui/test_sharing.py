"""What leaves the page and comes back: files, the page that opens offline, recorded trees, the Hub, the commands."""

import base64
import csv
import hashlib
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError

from rmx.arguments import Sampling
from rmx.cli.main import main
from rmx.engine.fair_queue import as_owner
from rmx.errors import Refused, RmxError, SwapError
from rmx.models.load import Model
from rmx.models.site_rules import SiteRules
from rmx.models.workspace import Workspace
from rmx.records import TokenDist
from rmx.storage.safe_files import DocumentError
from rmx.trees.document import Tree, adapter_hash, adapter_spec, read_tree, tree_document, tree_of
from rmx.trees.gallery import Absent, recorded_runs, save_tree
from rmx.trees.link import link_of
from rmx.trees.tree_page import entropy_svg, inert, read_any, tokens_csv, tree_html
from rmx.ui.jobs.explorer import Explorer, Measurements, Sharing
from tests.conftest import qwen, wrap
from tests.unit.trees.test_tree_file import grown


@pytest.fixture(scope="module")
def model() -> Model:
    return wrap(qwen())


@pytest.fixture(scope="module")
def tree(model: Model) -> Tree:
    runs = grown(model, [(0, 5, 1), (1, 9, 2)])
    return tree_of(runs, runs[2].id, 10)


def sharing(*models: Model, policy: SiteRules | None = None) -> Sharing:
    """The page's side, with `mini` standing for the first model; nothing else can be loaded."""
    known = {m.spec: m for m in models}

    def loader(spec: str) -> Model:
        if spec not in known:
            raise SwapError(f"no {spec} here")
        return known[spec]

    space = Workspace(loader=loader, **({"policy": policy} if policy else {}))
    for spec in known:
        space.model(spec)
    return Sharing(Explorer(space))


def messages(steps: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The last message of a stream."""
    *_, last = steps
    return last


# -- the page that opens offline --------------------------------------------------------------------------------------


def test_a_page_holds_its_tree_and_lets_only_itself_run(tree: Tree) -> None:
    page = tree_html(replace(tree, title="</title><script>alert(1)</script>{data}{script}", known="<!--"))
    assert read_any(page).title == "</title><script>alert(1)</script>{data}{script}"
    assert read_any("\ufeff" + page).ids(2) == tree.ids(2)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert len(scripts) == 1
    allowed = re.search(r"script-src '(sha256-[^']+)'", page)
    assert allowed is not None
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert allowed[1] == f"sha256-{digest}"
    assert "default-src 'none'" in page
    assert "innerHTML" not in scripts[0]
    assert "://" not in page


@pytest.mark.slow
def test_a_page_of_a_thousand_tokens_stays_under_500_kb(tree: Tree) -> None:
    root = tree.branches[0]
    longer = [replace(root.tokens[i % 24], pos=i) for i in range(1000)]
    wide = [c for t in root.tokens for c in t.top]
    for i, token in enumerate(longer):  # every token another five alternatives, with long and foreign texts
        top = tuple(replace(wide[(i * 7 + k) % len(wide)], id=i * 5 + k, text="推理步骤" * 3) for k in range(5))
        longer[i] = replace(token, text="<推理>", entropy=1.2345678, logp=-0.0123456, top=top)
    size = len(tree_html(replace(tree, branches=(replace(root, tokens=tuple(longer)),), shown=0, pos=None)).encode())
    assert 100_000 < size < 500_000


@pytest.mark.parametrize("text", ["<html></html>", "<!doctype html><script type='x'>{}</script>", "", "hello"])
def test_other_pages_are_refused(text: str) -> None:
    with pytest.raises(DocumentError):
        read_any(text)


# -- figures and tables -----------------------------------------------------------------------------------------------


def test_the_figure_is_xml_with_a_bar_per_token_and_escapes_what_it_shows(tree: Tree) -> None:
    tokens = [replace(t, text='<&">\x00') for t in tree.tokens(0)]
    root = ET.fromstring(entropy_svg(tokens, 1.0, "<b>\x07 & a title"))
    bars = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("fill") in ("#d55e00", "#e69f00")]
    assert len(bars) == sum(t.entropy > 0.002 * max(t.entropy for t in tokens) * 1.05 for t in tokens)
    assert sum(r.get("fill") == "#d55e00" for r in bars) == sum(t.entropy > 1.0 for t in tokens)
    assert root.findtext("{http://www.w3.org/2000/svg}title") == "<b>␣ & a title"
    ET.fromstring(entropy_svg([], 1.0, ""))


def test_the_table_has_a_line_per_token_and_no_formula(tree: Tree) -> None:
    tokens: list[TokenDist] = [*tree.tokens(0)]
    tokens[3] = replace(tokens[3], text='=HYPERLINK("x")')
    rows = list(csv.DictReader(io.StringIO(tokens_csv(tokens, 1.0))))
    assert [int(r["id"]) for r in rows] == [t.id for t in tokens]
    assert rows[3]["text"] == '\'=HYPERLINK("x")'
    assert rows[0]["fork"] == str(tokens[0].entropy > 1.0)
    assert (inert(" +1"), inert("+"), inert("a")) == ("' +1", "+", "a")


# -- recorded trees ---------------------------------------------------------------------------------------------------


def test_a_recorded_tree_can_be_looked_at_without_its_model(model: Model, tree: Tree) -> None:
    page = sharing(model)
    away = replace(tree, model="some/model", licence="MIT")
    run = page.explorer.runs.get(page.open_file({"text": json.dumps(tree_document(away))})["run"])
    message = page.explorer.tail({"run": run.id, "start": 0})
    assert message["open"]["origin"] == {"kind": "recorded", "licence": "MIT", "same": None, "said": None}
    assert [t[0] for t in message["toks"]] == [t.text for t in tree.tokens(2)[10:]] or len(message["toks"]) == 24
    assert len(message["tree"]) == 3
    assert page.explorer.inspect({"run": run.id, "pos": 9})["forced"] is True
    assert page.explorer.look({"run": run.id, "pos": 9}) == {"pos": 9, "alternatives": []}
    worth = Measurements(page.explorer)
    for question in (
        page.explorer.search,
        page.explorer.pick,
        lambda data: messages(worth.stream(worth.start("outcomes", data))),
    ):
        with pytest.raises(SwapError, match="recorded with some/model, which is not loaded"):
            question({"run": run.id, "pos": 3, "token_ids": [5], "q": "a"})
    again = read_tree(page.file({"run": run.id, "format": "json"})["text"])
    assert (again.model, again.revision, again.ids(2), again.shown) == ("some/model", "test", tree.ids(2), 2)
    with pytest.raises(SwapError, match="no some/model here"):
        messages(page.verify({"run": run.id}, lambda r: r))


def test_a_recorded_tree_of_a_loaded_model_goes_on_and_is_verified(model: Model, tree: Tree) -> None:
    page = sharing(model)
    run = page.explorer.runs.get(page.open_file({"text": tree_html(tree)})["run"])
    assert isinstance(run.model, Absent)
    assert page.explorer.search({"run": run.id, "pos": 3, "q": "a"})["tokens"]
    assert run.model is model
    token = tree.tokens(2)[3].top[3].id
    made = page.explorer.pick({"run": run.id, "pos": 3, "token_ids": [token]})
    messages(page.explorer.stream(made))
    assert [t.id for t in made.tokens[:4]] == [*tree.ids(2)[:3], token]
    assert (made.origin, made.tree, len(made.tokens)) == (None, run.tree, 24)
    last = messages(page.verify({"run": run.id}, lambda r: r))
    assert last["open"]["origin"]["same"] is True
    assert last["open"]["origin"]["said"] == "verified: same tokens in all 3 branches"
    assert last["open"]["show"] == 10
    with pytest.raises(SwapError, match="nothing to verify"):
        messages(page.verify({"run": last["run"]}, lambda r: r))


def test_a_record_of_other_weights_is_not_gone_on_from(model: Model, tree: Tree) -> None:
    page = sharing(model)
    run = page.explorer.runs.get(
        page.open_file({"text": json.dumps(tree_document(replace(tree, revision="old")))})["run"]
    )
    with pytest.raises(SwapError, match="revision old of tiny; test is loaded"):
        page.explorer.pick({"run": run.id, "pos": 3, "token_ids": [5]})
    last = messages(page.verify({"run": run.id}, lambda r: r))
    assert last["open"]["origin"]["said"].endswith("; the model here is revision test, not old")


def test_a_record_with_foreign_tokens_never_reaches_the_model(model: Model, tree: Tree) -> None:
    page, document = sharing(model), tree_document(tree)
    document["prompt_ids"][0] = 2**31 - 1
    run = page.explorer.runs.get(page.open_file({"text": json.dumps(document)})["run"])
    with pytest.raises(SwapError, match="does not fit tiny"):
        page.explorer.pick({"run": run.id, "pos": 3, "token_ids": [5]})
    with pytest.raises(RmxError, match="token id 2147483647"):
        messages(page.verify({"run": run.id}, lambda r: r))


def test_recorded_runs_belong_to_their_visitor(tree: Tree) -> None:
    runs = recorded_runs(tree, "ann")
    assert {(r.owner, r.tree, r.done) for r in runs} == {("ann", runs[0].id, True)}
    assert [r.at for r in runs] == [None, 5, 9]


# -- links ------------------------------------------------------------------------------------------------------------


def test_a_link_of_the_page_is_opened_and_verified(model: Model, tree: Tree) -> None:
    page = sharing(model)
    run = page.explorer.runs.get(page.open_file({"text": json.dumps(tree_document(tree))})["run"])
    value = page.link({"run": run.id, "pos": 4, "tau": 0.5})["s"]
    begun = []
    with as_owner("bob"):
        last = messages(page.open_link(value, lambda r: begun.append(r) or r))
    assert (last["open"]["origin"]["said"], last["open"]["show"]) == ("verified: same tokens in all 3 branches", 4)
    assert (len(begun), last["open"]["tau"], {r.owner for r in begun}) == (3, 0.5, {"bob"})


def test_a_link_asks_the_policy_and_the_site_s_limit(model: Model, tree: Tree) -> None:
    page = sharing(model, policy=SiteRules(public=True, models=("tiny",)))
    with pytest.raises(Refused, match="public site has the models tiny"):
        messages(page.open_link(link_of(replace(tree, model="../../etc")), lambda r: r))
    page.max_new_tokens = 10
    with pytest.raises(RmxError, match="At most 10 tokens here"):
        messages(page.open_link(link_of(tree), lambda r: r))


def test_a_stopped_link_is_not_called_verified(model: Model, tree: Tree) -> None:
    page = sharing(model)

    def begin(run: Any) -> Any:
        run.halt()
        return run

    last = messages(page.open_link(link_of(tree), begin))
    assert (last["open"]["origin"]["same"], last["open"]["origin"]["said"]) == (None, "stopped before it was compared")


# -- adapters ---------------------------------------------------------------------------------------------------------


def test_an_adapter_is_named_as_others_can_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMX_RUNS", str(tmp_path))
    for part in ("run-1/adapter", "run-1/tau_1.2/adapter", "run-1/checkpoints/step_5"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "run-1/adapter/adapter_model.safetensors").write_bytes(b"weights")
    places = {"a": "run-1/adapter", "b": "run-1/tau_1.2/adapter", "c": "run-1/checkpoints/step_5"}
    adapters = {k: str(tmp_path / v) for k, v in places.items()} | {"ann/x_5": "ann/x.5"}
    some: Any = SimpleNamespace(spec="tiny", engine=SimpleNamespace(adapters=adapters))
    assert [adapter_spec(some, name) for name in "abc"] == ["run-1", "run-1/tau_1.2", "run-1/step_5"]
    assert (adapter_spec(some, "ann/x_5"), adapter_spec(some, None)) == ("ann/x.5", None)
    assert (adapter_hash(some, "a") or "").startswith("sha256:")
    assert (adapter_hash(some, "c"), adapter_hash(some, "ann/x_5"), adapter_hash(some, None)) == (None, None, None)


# -- the Hub ----------------------------------------------------------------------------------------------------------


class Fake:
    """Stands in for HfApi."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error = error

    def create_repo(self, repo: str, **options: Any) -> None:
        self.calls.append(("create", {"repo": repo, **options}))

    def upload_file(self, **options: Any) -> None:
        if self.error:
            raise self.error
        self.calls.append(("upload", options))


TOKEN = "hf_" + "a" * 34


def test_a_tree_is_saved_to_a_private_dataset() -> None:
    fake = Fake()
    url = save_tree("{}", "a-tree.json", "ann/forks", TOKEN, fake)
    assert url == "https://huggingface.co/datasets/ann/forks/blob/main/trees/a-tree.json"
    assert fake.calls[0] == ("create", {"repo": "ann/forks", "repo_type": "dataset", "private": True, "exist_ok": True})
    assert fake.calls[1][1]["path_in_repo"] == "trees/a-tree.json"
    assert TOKEN not in str(fake.calls)


@pytest.mark.parametrize(
    ("repo", "token", "error", "says"),
    [
        ("forks", TOKEN, None, "OWNER/NAME"),
        ("ann/../x", TOKEN, None, "OWNER/NAME"),
        ("ann/forks", "secret", None, "hf_"),
        ("ann/forks", TOKEN, ConnectionError(f"Bearer {TOKEN}"), "cannot be reached"),
        ("ann/forks", TOKEN, RuntimeError(TOKEN), "broke off"),
    ],
)
def test_no_message_holds_the_token(repo: str, token: str, error: Exception | None, says: str) -> None:
    with pytest.raises(RmxError, match=says) as caught:
        save_tree("{}", "a.json", repo, token, Fake(error))
    assert token not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_hub_s_refusal_is_told() -> None:
    request = httpx.Request("POST", "https://huggingface.co/api/repos/create")
    refused = HfHubHTTPError(f"Bearer {TOKEN}", response=httpx.Response(403, request=request), server_message=TOKEN)
    with pytest.raises(RmxError, match=r"may not write to ann/forks \(\(token\)\)"):
        save_tree("{}", "a.json", "ann/forks", TOKEN, Fake(refused))


# -- command line -----------------------------------------------------------------------------------------------------


def test_a_trace_of_the_command_line_becomes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "--problem", "241", "--swap", "28=879", "--json"]) == 0
    source = tmp_path / "trace.json"
    source.write_text(capsys.readouterr().out, encoding="utf-8")
    names = {kind: tmp_path / f"out.{kind}" for kind in ("html", "json", "svg", "csv")}
    assert main(["export", str(source), *(x for kind, path in names.items() for x in (f"--{kind}", str(path)))]) == 0
    page = read_any(names["html"].read_text(encoding="utf-8"))
    assert (page.known, len(page.branches), page.branches[1].answer.text) == ("52", 2, "52")
    assert "How many pens" in (page.title or "")
    assert page.special and page.branches[0].sampling == Sampling(max_new_tokens=512)  # noqa: PT018
    assert read_tree(names["json"].read_text(encoding="utf-8")).ids(1) == page.ids(1)
    assert names["csv"].read_text(encoding="utf-8").count("\n") == len(page.tokens(1)) + 1
    assert main(["export", str(names["html"]), "--json", "-", "--title", "Another"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Another"


def test_mistakes_of_the_command_line_are_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "x.json"
    source.write_text("{}", encoding="utf-8")
    assert main(["export", str(source)]) == 2
    assert "--html OUT.html" in capsys.readouterr().err
    assert main(["export", str(source), "--html", "out.html"]) == 2
    assert "tau" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none.json"), "--html", "out.html"]) == 2
    assert "Cannot read" in capsys.readouterr().err
