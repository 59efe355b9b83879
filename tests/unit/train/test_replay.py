"""Forks watched over a run: candidates stay the base's, the policy's favourites join them."""

import pytest
import torch

from rmx.models.adapters import add_adapter
from rmx.models.load import load
from rmx.records import Problem
from rmx.train.heldout import Solution
from rmx.train.training_stage import Fork, ForkReplay, default_forks
from tests.helpers.chain import chain

QUESTION = "Finn has 42 cards. That is 11 more than Jon has. How many cards do they have in all?"


@pytest.fixture(scope="module")
def pair():
    """Mini with its RL adapter, on weights of this module's own."""
    model = load("mini", device="cpu")
    return model, add_adapter(model, "rl")


@pytest.fixture(scope="module")
def forks(pair):
    model, _ = pair
    prompt = model.prompt_ids(QUESTION)
    first = tuple(model.encode(" First, the facts are 42, 11. We"))
    add, okay = model.encode(" add")[0], model.encode(" Okay")[0]
    return [Fork("verb", prompt, first, add, "73"), Fork("opener", prompt, (), okay)]


def _alone(model, adapter, fork):
    """Probabilities (V,) and entropy of one fork, without batch or padding."""
    with torch.no_grad(), model.engine.using(adapter):
        logits = model.engine.model(torch.tensor([[*fork.prompt_ids, *fork.before]])).logits[0, -1]
    p = logits.softmax(-1)
    return p, float(-(p * p.log()).sum())


def test_batch_of_unequal_prefixes_equals_each_prefix_alone(pair, forks):
    model, adapter = pair
    for key in (None, adapter):
        for fork, told in zip(forks, ForkReplay(model, forks).event(3, key)["forks"], strict=True):
            p, entropy = _alone(model, key, fork)
            assert told["entropy"] == pytest.approx(entropy, abs=1e-4)
            assert [c["p"] for c in told["top"]] == pytest.approx([float(p[c["id"]]) for c in told["top"]], abs=1e-5)


def test_base_event_is_its_five_best_first(pair, forks):
    model, _ = pair
    event = ForkReplay(model, forks).event(0, None)
    verb = event["forks"][0]
    assert event["optimizer_step"] == 0
    assert (verb["key"], verb["said"], verb["known"]) == ("verb", " add", "73")
    assert verb["before"] == " First, the facts are 42, 11. We"
    assert len(verb["top"]) == 5
    assert [c["p"] for c in verb["top"]] == sorted((c["p"] for c in verb["top"]), reverse=True)
    assert event["forks"][1]["known"] is None
    assert event["forks"][1]["before"] == ""


def test_candidates_of_the_base_stay_in_their_order(pair, forks):
    model, adapter = pair
    replay = ForkReplay(model, forks)
    now = replay.event(25, adapter)["forks"]  # also where the first call is under an adapter, as after a resume
    base = replay.event(0, None)["forks"]
    for before, after in zip(base, now, strict=True):
        assert [c["id"] for c in after["top"][:5]] == [c["id"] for c in before["top"]]
        best = max(range(len(after["top"])), key=lambda i: after["top"][i]["p"])
        p, _ = _alone(model, adapter, next(f for f in forks if f.key == after["key"]))
        assert after["top"][best]["id"] == int(p.argmax())  # the policy's favourite is always there


def test_newcomers_stand_behind_the_candidates():
    """Nothing but the head decides in a chain; a changed table stands for a trained policy."""
    model = chain({"Q": dict(zip("abcdefg", (0.4, 0.2, 0.15, 0.1, 0.08, 0.04, 0.03), strict=True))})
    prompt = model.prompt_ids("Q")
    replay = ForkReplay(model, [Fork("f", prompt, (), prompt[0])])
    replay.event(0, None)
    row = model.engine.model.logits[prompt[0]]
    ids = {w: model.tokenizer.convert_tokens_to_ids(w) for w in "abcdefg"}
    row[ids["g"]], row[ids["a"]] = row[ids["a"]].clone(), row[ids["g"]].clone()
    told = replay.event(9, None)["forks"][0]["top"]
    assert [c["text"] for c in told] == ["a", "b", "c", "d", "e", "g"]
    assert [round(c["p"], 2) for c in told] == [0.03, 0.2, 0.15, 0.1, 0.08, 0.4]


def test_no_forks_no_work(pair):
    assert ForkReplay(pair[0], []).event(1, None) == {"optimizer_step": 1, "forks": []}


def test_default_forks_are_the_places_of_highest_entropy(pair):
    model, _ = pair
    prompt = model.prompt_ids(QUESTION)
    ids = tuple(model.encode(" First, the facts are 42, 11. We add 42 and 11: 42 + 11 = 53."))
    problem, one = Problem("p1", QUESTION, "73"), Solution("p1", ids, "", "73", True, False)
    empty = Solution("empty", (), "", None, None, True)
    forks = default_forks(model, [problem] * 5, [one, empty, one, one, one])
    entropies = [_alone(model, None, Fork("", prompt, ids[:i], 0))[1] for i in range(len(ids))]
    best = sorted(sorted(range(len(ids)), key=lambda i: -entropies[i])[:2])
    assert [f.key for f in forks[:2]] == [f"p1@{i}" for i in best]
    assert [(f.before, f.said) for f in forks[:2]] == [(ids[:i], ids[i]) for i in best]
    assert len(forks) == 6  # the limit holds over all solutions
    assert all(f.known == "73" for f in forks)
