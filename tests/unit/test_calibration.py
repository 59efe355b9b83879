"""A share of tokens becomes one threshold in nats."""

import json

import pytest

from rmx.config import Sampling
from rmx.errors import RmxError
from rmx.explore import calibration
from rmx.explore.calibration import STORED, calibrate, tau_of_share
from rmx.explore.generate import Generation, Job
from rmx.problems import load_set


def test_the_share_of_tokens_above_the_threshold_is_the_share_asked_for(mini):
    for share in (0.02, 0.05, 0.09):
        tau = tau_of_share(mini, share)
        above = total = 0
        for i, problem in enumerate(load_set("mini:train")[:40]):
            job = Job(mini.prompt_ids(problem.problem), Sampling(1.0, seed=i), tau)
            trace = Generation(mini, job).run()
            above += len(list(trace.forks()))
            total += len(trace.tokens)
        assert above / total == pytest.approx(share, abs=0.02)


def test_it_is_interpolated_between_quantiles(mini, tmp_path, monkeypatch):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"quantiles": [0.0, 1.0, 3.0]}))
    monkeypatch.setitem(calibration.STORED, "mini", path)
    assert tau_of_share(mini, 0.5) == 1.0
    assert tau_of_share(mini, 0.25) == 2.0
    assert tau_of_share(mini, 0.75) == 0.5


def test_a_model_without_a_stored_set_says_so(tiny):
    with pytest.raises(RmxError, match="Give --tau"):
        tau_of_share(tiny, 0.05)


def test_the_stored_set_belongs_to_these_weights(mini):
    assert json.loads(STORED["mini"].read_text())["revision"] == mini.revision


def test_calibrating_repeats(mini):
    problems = load_set("mini:train")[:3]
    first = calibrate(mini, problems)
    assert first == calibrate(mini, problems)
    assert first["quantiles"] == sorted(first["quantiles"])
