"""The table of rates, the reader's own over it, the override, and what runs cost at them."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from rmx.cli.main import main
from rmx.errors import RmxError
from rmx.models.workspace import Workspace
from rmx.runs import rates as costs_module
from rmx.runs.folder import RunFolder
from rmx.runs.job import TrainJob
from rmx.runs.rates import BY_HAND, FILE, VARIABLE, cost, load_rates, named_rate, own_rates, paper_costs, set_rate
from rmx.runs.recipe import SMALL
from rmx.runs.store import RunStore, costs, row
from rmx.storage.safe_files import write_json
from rmx.ui.jobs.training import Training
from rmx.ui.visitor_cookie import Visitor

SXM, PCIE, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA A100-SXM4-80GB"
DAY = date(2026, 11, 26)


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs without rates, and no override."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("RMX_RUNS", str(tmp_path))
    return tmp_path


def measured_run(root: Path, name: str, device: str | None, usd: float | None = None, **seconds: float) -> RunFolder:
    """A run that has measured some seconds."""
    folder = RunStore(root).create(TrainJob(recipe=SMALL, preset="small"), path=root / name)
    write_json(folder.path / "stages.json", {"seconds": seconds} | ({"device": device} if device else {}))
    if usd is not None:
        with folder.lock():
            folder.event("done", {"usd": usd, "seconds": sum(seconds.values())})
    return folder


# -- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "usd"), [("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 1.89), (SXM, 2.69), (PCIE, 2.49)]
)
def test_rates_of_the_paper_by_cuda_name(device: str, usd: float) -> None:
    found = cost(1800, device)
    assert found.usd == pytest.approx(usd / 2)
    assert f"{usd:.2f} USD per hour" in found.sentence
    assert "2605.06241" in found.sentence
    assert "2026-04" in found.sentence


@pytest.mark.parametrize("device", ["cpu", "mps", "NVIDIA RTX 6000 Ada Generation", "NVIDIA H100 NVL", A100])
def test_no_rate_is_made_up(device: str) -> None:
    found = cost(3600, device)
    assert found.usd is None
    assert VARIABLE in found.sentence
    assert "rmx cost --rate" in found.sentence


def test_the_bundled_table_is_the_papers_three_rates() -> None:
    assert {rate.name: rate.usd_per_hour for rate in load_rates().rates} == {
        "RTX Pro 6000": 1.89, "H100-SXM": 2.69, "H100-80G": 2.49,
    }  # fmt: skip


def test_an_own_rate_is_dated_and_counts_at_once(runs: Path) -> None:
    set_rate("cpu", "0.05", today=DAY)
    assert cost(7200, "cpu").usd == pytest.approx(0.1)
    assert "entered by hand, 2026-11-26" in cost(1, "cpu").sentence
    assert json.loads((runs / FILE).read_text())["rates"] == [
        {"name": "cpu", "usd_per_hour": 0.05, "date": "2026-11-26", "source": BY_HAND}
    ]
    set_rate("CPU", "0.07", today=DAY)  # the same machine
    assert [rate.usd_per_hour for rate in own_rates()] == [0.07]
    assert not list(runs.glob("*.part"))


def test_a_changed_rate_of_the_paper_keeps_its_machine(runs: Path) -> None:
    set_rate("H100-80G", 2.0)
    assert cost(3600, PCIE).usd == 2.0
    assert cost(3600, SXM).usd == 2.69  # "80GB" is in its name as well
    set_rate("H100-80G", None)
    assert cost(3600, PCIE).usd == 2.49


def test_words_name_a_machine_and_more_of_them_win() -> None:
    set_rate("A100", 1.1)
    set_rate("A100 80GB", 1.6)
    assert cost(3600, A100).usd == 1.6
    assert cost(3600, "NVIDIA A100-PCIE-40GB").usd == 1.1
    set_rate(A100, 1.5)
    assert cost(3600, A100).usd == 1.5
    set_rate("p", 9)  # is a letter of "cpu", and no word for it
    assert cost(3600, "cpu").usd is None


def test_the_variable_wins_over_everything_and_zero_is_an_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    set_rate("cpu", 3)
    monkeypatch.setenv(VARIABLE, " 0.5 ")
    assert cost(7200, PCIE).usd == cost(7200, "cpu").usd == pytest.approx(1.0)
    assert VARIABLE in cost(1, "cpu").sentence
    monkeypatch.setenv(VARIABLE, "0")
    assert cost(7200, "cpu").usd == 0


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["two", "-1", "nan", "inf"])
def test_an_amount_that_is_none_is_explained(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RmxError, match="amount in US dollars"):
        set_rate("cpu", text)
    assert own_rates() == []
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(RmxError, match=VARIABLE):
        load_rates()


@pytest.mark.parametrize("name", ["", "  ", "--", "x" * 81, None, 7, ["cpu"]])
def test_a_name_that_is_none_is_explained(name: Any) -> None:
    with pytest.raises(RmxError, match="machine's name"):
        set_rate(name, 1)


@pytest.mark.parametrize("text", ["cpu", "=0.05", " =1", "cpu 0.05"])
def test_a_flag_is_name_and_amount(text: str) -> None:
    with pytest.raises(RmxError, match="NAME=USD"):
        named_rate(text)
    assert named_rate("my=box=0.1") == ("my=box", 0.1)
    assert named_rate("cpu=none") == ("cpu", None)


@pytest.mark.parametrize("content", ["{", "[]", '{"rates": [{"name": "cpu"}]}', '{"rates": [{"name": 3}]}'])
def test_a_file_that_cannot_be_used_is_named(content: str, runs: Path) -> None:
    (runs / FILE).write_text(content)
    with pytest.raises(RmxError, match=r"rates\.json|machine's name"):
        load_rates()


def test_what_is_not_there_cannot_be_taken_back() -> None:
    with pytest.raises(RmxError, match="No rate of your own"):
        set_rate("cpu", None)


def test_there_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs_module, "MOST", 1)
    set_rate("a1", 1)
    set_rate("a1", 2)
    with pytest.raises(RmxError, match="At most 1"):
        set_rate("b1", 1)


# -- runs -------------------------------------------------------------------------------------------------------------


def test_dollars_follow_the_table(runs: Path) -> None:
    folder = measured_run(runs, "one", "cpu", rollouts=1800, training=1800)
    assert row(folder)["usd"] is None
    set_rate("cpu", 0.2)
    assert row(folder)["usd"] == pytest.approx(0.2)
    set_rate("cpu", 0.4)
    assert row(folder)["usd"] == pytest.approx(0.4)


def test_a_run_without_a_machine_keeps_what_it_told(runs: Path) -> None:
    folder = measured_run(runs, "old", None, usd=1.25, rollouts=1800)
    set_rate("cpu", 0.2)
    assert row(folder)["usd"] == 1.25
    assert costs([folder], "cpu", runs)["runs"][0]["usd"] == 1.25


def test_the_sum_counts_what_is_known_and_says_what_is_not(runs: Path) -> None:
    measured_run(runs, "a", SXM, rollouts=1800, training=1800)
    measured_run(runs, "b", PCIE, training=3600)
    measured_run(runs, "c", "cpu", training=60)
    RunStore(runs).create(TrainJob(recipe=SMALL, preset="small"), path=runs / "d")  # has measured nothing
    found = costs(RunStore(runs).all(), "cpu", runs)
    assert found["sum"] == {"usd": pytest.approx(2.69 + 2.49), "seconds": 7260, "runs": 3, "without": 1}
    assert {run["id"]: run["stages"] for run in found["runs"]}["a"] == {"rollouts": 1800, "training": 1800}
    assert found["machine"]["rate"] is None
    assert costs([], "cpu", runs)["sum"]["usd"] is None


def test_the_papers_table_says_that_many_of_its_figures_are_estimates() -> None:
    paper = paper_costs()
    assert "estimates" in paper["note"]
    assert len(paper["rows"]) == 8
    small = paper["rows"][0]
    assert (small["base"], small["rl_usd"], small["usd"], small["score"]) == ("Qwen2.5-1.5B", [200, 1200], 4, 0.282)


def test_the_command_prints_and_enters(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured_run(runs, "a", "cpu", training=7200)
    assert main(["cost", "--rate", "cpu=0.05", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sum"]["usd"] == pytest.approx(0.1)
    assert found["rates"][0]["name"] == "cpu"
    assert main(["cost"]) == 0
    out = capsys.readouterr().out
    for said in ("entered by hand", "0.10 USD for 2.00 h of 1 run", "5,737 – 103,000", "estimates"):
        assert said in out
    assert main(["cost", "--rate", "b1=1", "--rate", "cpu=much"]) == 2
    assert [rate.name for rate in own_rates()] == ["cpu"]  # all of it or nothing


def test_only_the_owner_of_the_machine_changes_its_rates(runs: Path) -> None:
    training = Training(Workspace(), RunStore(runs))
    for visitor in (Visitor("ann"), Visitor("")):
        with pytest.raises(RmxError, match="owner of this machine"):
            training.rate({"name": "cpu", "usd": "1"}, visitor)
    training.rate({"name": "cpu", "usd": "1"}, Visitor("eve", admin=True))
    assert training.costs({})["machine"]["rate"]["usd_per_hour"] == 1
    training.rate({"name": "cpu", "usd": ""}, Visitor("eve", admin=True))
    assert own_rates() == []
    with pytest.raises(RmxError, match="amount"):
        training.rate({"name": "cpu", "usd": True}, Visitor("eve", admin=True))
