"""What visitors of a public site may ask for, and the settings that say so."""

import pytest

from rmx.errors import Refused, RmxError
from rmx.models.load import load
from rmx.models.site_rules import PRIVATE, SiteRules
from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import MOST_ADAPTERS, Workspace
from rmx.runs.job import CAPS, TrainJob, admit_job
from rmx.runs.recipe import PRESETS
from rmx.ui.settings import Settings

PUBLIC = SiteRules(public=True, models=("mini", "qwen2.5-0.5b"), training="mini", kept_runs=2)


def sized(gigabytes):
    return lambda repo, revision: int(gigabytes * 1e9)


def test_a_private_app_allows_everything():
    PRIVATE.admit_model("/any/folder")
    PRIVATE.admit_set("own.jsonl")
    admit_job(PRIVATE, TrainJob("qwen2.5-7b", "gsm8k", PRESETS["paper"], "paper", server="http://10.0.0.1/v1"))


@pytest.mark.parametrize("spec", ["mini", "qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B"])
def test_listed_models_pass_by_their_name_and_by_the_id_that_it_stands_for(spec):
    PUBLIC.admit_model(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "qwen2.5-7b", "Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-0.5B@main", "/etc", "../mini", "./x", "~/x", "assets/mini",
        "a/b/c", "x.gguf", "", "mini/../..", "http://127.0.0.1/x", "random:qwen2.5-1.5b", "mini@x", "a\nb/c",
    ],
)  # fmt: skip
def test_no_other_model_is_loaded_on_a_public_site(spec):
    with pytest.raises(Refused, match="Duplicate this Space"):
        PUBLIC.admit_model(spec)


def test_other_models_of_the_hub_pass_below_the_size_where_one_is_set():
    SiteRules(public=True, hub_gb=2, size_of=sized(1.9)).admit_model("some/model@v1")
    with pytest.raises(Refused, match=r"3\.1 GB of weights.*up to 2 GB"):
        SiteRules(public=True, hub_gb=2, size_of=sized(3.1)).admit_model("some/model")
    with pytest.raises(Refused, match="no safetensors"):
        SiteRules(public=True, hub_gb=2, size_of=sized(0)).admit_model("some/pickle")

    def away(repo, revision):
        raise OSError("resolve huggingface.co")

    with pytest.raises(Refused, match="the Hub cannot be reached"):
        SiteRules(public=True, hub_gb=2, size_of=away).admit_model("some/model")
    for spec in ("assets/mini", "/etc/passwd", "..", "a/../b"):  # a folder of the machine is none of the Hub
        with pytest.raises(Refused):
            SiteRules(public=True, hub_gb=2, size_of=sized(0.1)).admit_model(spec)


def test_the_workspace_asks_before_it_loads():
    loaded = []

    def loader(spec):
        loaded.append(spec)
        return scripted_model()

    space = Workspace(loader=loader, policy=PUBLIC)
    with pytest.raises(Refused):
        space.model("/some/folder")
    assert loaded == []
    model = space.model("mini")
    with pytest.raises(Refused, match="adapters"):
        space.adapter(model, "/some/folder")
    with pytest.raises(Refused, match="adapters"):
        space.adapter(model, "owner/name")


def test_bundled_and_listed_adapters_and_those_of_runs_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("RMX_RUNS", str(tmp_path))
    (tmp_path / "r1" / "adapter").mkdir(parents=True)
    (tmp_path / "r1" / "config.json").write_text("{}")
    mini = load("mini", device="cpu")
    for spec in ("rl", "reasonmaxxer", "r1"):
        PUBLIC.admit_adapter(mini, spec)
    SiteRules(public=True, adapters=("own/lora",)).admit_adapter(mini, "own/lora")
    for spec in ("r2", "r1/../r1", "../r1", str(tmp_path / "r1" / "adapter")):
        with pytest.raises(Refused):
            PUBLIC.admit_adapter(mini, spec)


def test_only_named_problem_sets_are_read():
    PUBLIC.admit_set("mini:train")
    for name in ("own.jsonl", "/etc/passwd", "../x.csv", ""):
        with pytest.raises(Refused):
            PUBLIC.admit_set(name)


# -- training ---------------------------------------------------------------------------------------------------------


def quick(**changes):
    return TrainJob("mini", "mini", PRESETS["quick"].with_(**changes), "quick")


def test_the_quick_recipe_is_what_visitors_may_start():
    admit_job(PUBLIC, quick())
    admit_job(PUBLIC, quick(seed=7, tau=0.8, lr=1e-3, objective="delta_hinge"))


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (TrainJob("mini", "mini", PRESETS["small"], "small"), "problems may be 48"),
        (TrainJob("mini", "mini", PRESETS["paper"], "paper"), "Duplicate"),
        (TrainJob("qwen2.5-0.5b", "mini", PRESETS["quick"], "quick"), "mini on its own problems"),
        (TrainJob("mini", "gsm8k", PRESETS["quick"], "quick"), "mini on its own problems"),
        (TrainJob("mini", "mini", PRESETS["quick"], "quick", server="http://169.254.169.254/v1"), "samples its own"),
        (TrainJob("mini", None, PRESETS["quick"], "quick", from_rollouts="/etc/passwd"), "problem sets"),
        (TrainJob("mini", "mini", PRESETS["quick"], "quick", init_adapter="/x"), "samples its own"),
        (TrainJob("mini", "mini", PRESETS["quick"], "quick", taus=(0.6, 0.8)), "sweep"),
        (quick(max_steps=None), "not no limit"),
        (quick(checkpoint_every=0.01), "check every"),
    ],
)
def test_larger_runs_are_refused_with_what_to_do(job, said):
    with pytest.raises(Refused, match=said):
        admit_job(PUBLIC, job)


@pytest.mark.parametrize("name", CAPS)
def test_each_cap_holds(name):
    with pytest.raises(Refused, match=name.replace("_", " ")):
        admit_job(PUBLIC, quick(**{name: CAPS[name] + 1}))


def test_training_can_be_switched_off():
    with pytest.raises(Refused, match="off"):
        admit_job(SiteRules(training="off"), quick())


# -- settings ---------------------------------------------------------------------------------------------------------


def test_a_space_is_public_unless_that_is_switched_off(monkeypatch):
    assert not Settings().public
    monkeypatch.setenv("SPACE_ID", "me/rmx")
    found = Settings()
    assert (found.public, found.training, found.max_new_tokens, found.metrics) == (True, "mini", 1024, False)
    monkeypatch.setenv("RMX_PUBLIC", "0")
    assert (Settings().public, Settings().training, Settings().max_new_tokens) == (False, "on", 4096)


def test_what_is_said_wins_over_what_a_public_site_has(monkeypatch):
    monkeypatch.setenv("RMX_PUBLIC", "1")
    monkeypatch.setenv("RMX_TRAINING", "off")
    monkeypatch.setenv("RMX_MAX_NEW_TOKENS", "200")
    monkeypatch.setenv("RMX_MODELS", "qwen2.5-0.5b, own/model ,")
    monkeypatch.setenv("RMX_MODEL", "")  # an empty value says nothing
    found = Settings.from_environment()
    assert (found.training, found.max_new_tokens, found.per_visitor) == ("off", 200, 3)
    assert found.policy.models == ("mini", "qwen2.5-0.5b", "own/model")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PUBLIC", "perhaps"), ("TRAINING", "sometimes"), ("MAX_VISITORS", "0"), ("PER_VISITOR", "-1"),
        ("HUB_GB", "much"), ("ROOT_PATH", "rmx"), ("ROOT_PATH", "/rmx/"), ("IDLE_MINUTES", "0"), ("LOG", "all"),
        ("KEPT_RUNS", "0"),        ("AUTH", "anna"), ("AUTH", "anna:short"), ("METRICS", "some"),
    ],
)  # fmt: skip
def test_each_wrong_value_is_one_sentence_that_names_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(f"RMX_{name}", value)
    with pytest.raises(RmxError, match=f"RMX_{name} cannot be") as caught:
        Settings.from_environment()
    assert "\n" not in str(caught.value)


def test_a_password_is_not_repeated(monkeypatch):
    monkeypatch.setenv("RMX_AUTH", "anna:geheim")
    with pytest.raises(RmxError) as caught:
        Settings.from_environment()
    assert "geheim" not in str(caught.value)


# -- adapters come and go ---------------------------------------------------------------------------------------------


def test_of_many_adapters_the_least_recently_asked_for_leaves_and_the_base_stays_the_base(tmp_path, monkeypatch):
    import shutil

    from rmx.config import ASSETS
    from rmx.models.base_state import probe

    monkeypatch.setattr("rmx.models.workspace.MOST_ADAPTERS", 2)
    assert MOST_ADAPTERS > 2
    space = Workspace("cpu")
    mini = space.model("mini")
    before = probe(mini)
    for name in "abc":
        shutil.copytree(ASSETS / "mini" / "rl", tmp_path / name)
        space.adapter(mini, str(tmp_path / name))
        if name == "b":
            space.adapter(mini, str(tmp_path / "a"))  # asked for again: b is the oldest now
    assert [name.rpartition("/")[2] for name in mini.adapters] == ["a", "c"]
    with mini.engine.using(None):
        assert (probe(mini) - before).abs().max() == 0
    space.adapter(mini, str(tmp_path / "b"))  # and it can come back
    assert mini.adapters[-1].endswith("b")
