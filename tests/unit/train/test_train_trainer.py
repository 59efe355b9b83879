"""The training loop: accumulation, exact continuation, recomputation, and what it does with odd cases."""

import json
import math

import pytest
import torch
from peft import PeftModel

from rmx.errors import TrainError
from rmx.train.step import trainer as checkpoint
from rmx.train.step.lora_policy import NAME, make_policy
from rmx.train.step.scoring import BaseFigures, score
from rmx.train.step.trainer import MicroStep, Trainer, Update
from tests.conftest import qwen, wrap
from tests.helpers.training import QUICK, items_of, made_by, policy_of, rollout, rollouts, weights


def run(recipe=QUICK, made=None, model=None, **options):
    """A whole run from the same start: steps, updates, weights after it."""
    policy = policy_of(model or wrap(qwen()), recipe, **options)
    trainer = Trainer(policy, items_of(made or rollouts(), recipe), recipe)
    return *made_by(trainer), weights(policy)


def apart(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def gradients(recipe, made):
    """Gradients of the first window, whose learning rate is 0."""
    policy = policy_of(wrap(qwen()), recipe)
    trainer = Trainer(policy, items_of(made, recipe), recipe)
    next(x for x in trainer.run() if isinstance(x, Update))
    return {name: p.grad.clone() for name, p in policy.trained().items()}


# -- averaging --------------------------------------------------------------------------------------------------------


def test_one_by_one_and_all_at_once_agree_when_tokens_count():
    made = rollouts(problems=4, k=2)
    recipe = QUICK.with_(normalisation="token", max_grad_norm=1e6, order="file")
    alone = gradients(recipe.with_(micro_batch=1, grad_accum=8), made)
    together = gradients(recipe.with_(micro_batch=8, grad_accum=1), made)
    largest = max(float(g.abs().max()) for g in together.values())
    assert apart(alone, together) < 1e-5 * largest
    reference = gradients(recipe.with_(micro_batch=1, grad_accum=8, normalisation="reference"), made)
    assert apart(reference, together) > 1e-2 * largest  # means of unequal micro-batches are another thing


@pytest.mark.slow
def test_whole_runs_agree_too_when_tokens_count():
    recipe = QUICK.with_(normalisation="token", epochs=2)
    _, alone, first = run(recipe.with_(micro_batch=1, grad_accum=8))
    _, together, second = run(recipe.with_(micro_batch=8, grad_accum=1))
    assert [u.grad_norm for u in alone] == pytest.approx([u.grad_norm for u in together], rel=1e-4)
    assert apart(first, second) < 1e-4


def test_the_last_window_is_divided_by_the_full_one():
    made = rollouts(problems=1, k=1)
    recipe = QUICK.with_(micro_batch=1, max_grad_norm=1e6)
    full, third = gradients(recipe.with_(grad_accum=1), made), gradients(recipe.with_(grad_accum=3), made)
    largest = max(float(g.abs().max()) for g in third.values())
    assert apart({n: g / 3 for n, g in full.items()}, third) < 1e-5 * largest


def test_figures_of_an_update_sum_up_its_window():
    steps, updates, _ = run(QUICK.with_(micro_batch=1, grad_accum=5))
    assert [len([s for s in steps if s.optimizer_step in (n, n + 1)]) for n in (0,)]
    for n, update in enumerate(updates):
        mine = steps[5 * n : 5 * n + 5]
        assert update.optimizer_step == n + 1 == mine[-1].optimizer_step
        assert update.loss == pytest.approx(math.fsum(s.loss for s in mine) / len(mine))
        assert update.tokens == sum(s.valid_tokens for s in mine)
        counts = [s.neg_decision_tokens for s in mine]
        deltas = [s.delta_logp_neg_mean for s in mine]
        wanted = sum(c * d for c, d in zip(counts, deltas, strict=True)) / sum(counts)
        assert update.delta_logp_neg_mean == pytest.approx(wanted)
    assert [u.of for u in updates] == [3, 3, 3]


def test_means_over_no_token_are_none_in_an_update_and_0_in_a_line():
    steps, updates, _ = run(made=[rollout(advantage=-1.0)])
    assert updates[0].delta_logp_pos_mean is None
    assert updates[0].delta_logp_neg_mean is not None
    assert steps[0].json()["delta_logp_pos_mean"] == 0.0


def test_the_lines_are_json_with_the_names_of_the_log():
    steps, updates, _ = run()
    line = json.loads(json.dumps(steps[0].json()))
    assert {"step", "loss", "decision_loss", "kl_loss", "decision_tokens", "nondecision_tokens", "optimizer_step", "lr",
            "pos_decision_tokens", "neg_decision_tokens", "ce_pos_mean", "ce_neg_mean", "delta_logp_pos_mean",
            "delta_logp_neg_mean", "neg_pos_pressure_ratio"} <= set(line)  # fmt: skip
    assert json.loads(json.dumps(updates[0].json()))["optimizer_step"] == 1


# -- what moves and what does not -------------------------------------------------------------------------------------


def test_the_first_update_changes_nothing_and_the_next_one_does():
    policy = policy_of(wrap(qwen()))
    trainer = Trainer(policy, items_of(rollouts()), QUICK)
    start, seen = weights(policy), []
    for made in trainer.run():
        if isinstance(made, Update):
            seen.append(apart(start, weights(policy)))
    assert seen[0] == 0.0
    assert seen[1] > 1e-3


def test_the_base_never_moves():
    model = wrap(qwen())
    before = {n: p.clone() for n, p in model.engine.model.named_parameters()}
    run(QUICK.with_(lr=0.5), model=model)
    after = dict(model.engine.model.get_base_model().named_parameters())
    for name, p in before.items():
        kept = after.get(name, after.get(name.replace(".weight", ".base_layer.weight")))
        found = kept if kept is not None else after[name.replace(".bias", ".base_layer.bias")]
        assert torch.equal(found, p), name


def test_training_raises_right_decisions_and_lowers_wrong_ones():
    steps, updates, _ = run(QUICK.with_(epochs=6, lr=3e-3, order="file"), moved=False)
    assert updates[0].delta_logp_pos_mean == pytest.approx(0, abs=1e-5)
    assert updates[-1].delta_logp_pos_mean > 0.05
    assert updates[-1].delta_logp_neg_mean < -0.05


def test_a_new_adapter_starts_at_the_base_and_depends_on_its_seed():
    model = wrap(qwen())
    policy = policy_of(model, moved=False)
    first = weights(policy)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad(), policy.learning():
        ours = policy.logits(ids)
    with policy.base():
        assert torch.equal(policy.logits(ids), ours)
    again = weights(make_policy(model, QUICK.adapter, None, QUICK.seed))
    other = weights(make_policy(model, QUICK.adapter, None, QUICK.seed + 1))
    assert apart(first, again) == 0.0
    assert apart(first, other) > 0.01
    assert list(model.engine.adapters) == [NAME]


def test_decoding_between_updates_disturbs_nothing():
    _, _, quiet = run()
    policy = policy_of(wrap(qwen()))
    engine = policy.model.engine
    outputs = []
    for made in Trainer(policy, items_of(rollouts()), QUICK).run():
        for adapter in (None, NAME):
            with engine.using(adapter):
                stream = engine.open([1, 2, 3], adapter=adapter)
                stream.save()
                if isinstance(made, Update) and adapter:
                    outputs.append(stream.logits.clone())
    assert apart(quiet, weights(policy)) == 0.0
    assert not torch.equal(outputs[1], outputs[2])  # the prefix cache does not outlive the weights


# -- odd cases --------------------------------------------------------------------------------------------------------


def test_rollouts_without_advantage_only_anchor():
    steps, updates, _ = run(made=[rollout("a", advantage=0.0), rollout("b", 0, advantage=0.0)])
    assert (steps[0].decision_loss, steps[0].decision_tokens, steps[0].nondecision_tokens) == (0.0, 0, 14)
    assert steps[0].kl_loss > 0
    assert updates[0].grad_norm > 0


def test_nothing_to_do_is_a_loss_of_0():
    steps, updates, _ = run(QUICK.with_(kl_weight=0), made=[rollout(advantage=0.0)])
    assert (steps[0].loss, steps[0].kl_loss, updates[0].grad_norm) == (0.0, 0.0, 0.0)


def test_no_weight_on_the_anchor_reports_no_kl():
    steps, _, _ = run(QUICK.with_(kl_weight=0))
    assert all(s.kl_loss == 0 and s.loss == s.decision_loss != 0 and s.nondecision_tokens > 0 for s in steps)


def test_a_loss_that_is_not_finite_is_yielded_before_it_does_harm():
    policy = policy_of(wrap(qwen()))
    trainer = Trainer(policy, items_of(rollouts()), QUICK)
    name, p = next(iter(policy.trained().items()))
    p.data[0, 0] = math.nan
    for made in trainer.run():
        assert isinstance(made, MicroStep)
        if not math.isfinite(made.loss):
            break
    others = [w for n, w in weights(policy).items() if n != name]
    assert all(bool(w.isfinite().all()) for w in others)


def test_max_steps_ends_the_run_but_not_the_schedule():
    _, all_updates, _ = run(QUICK.with_(epochs=2))
    _, few, _ = run(QUICK.with_(epochs=2, max_steps=2))
    assert len(few) == 2
    assert [u.lr for u in few] == [u.lr for u in all_updates[:2]]
    assert few[0].of == len(all_updates) == 6


def test_no_rollouts_are_refused(tiny):
    with pytest.raises(TrainError, match="no rollouts"):
        Trainer(policy_of(tiny), [], QUICK)


def test_layers_that_a_model_lacks_are_named(tiny):
    with pytest.raises(TrainError, match="no layers called c_attn"):
        policy_of(tiny, QUICK.with_(targets=("q_proj", "c_attn")))


# -- the same figures by other means ----------------------------------------------------------------------------------


def test_recomputation_gives_the_same_figures():
    steps, updates, plain = run()
    again, norms, recomputed = run(recompute=True)
    assert [s.json() for s in steps] == [pytest.approx(s.json(), abs=1e-6) for s in again]
    assert [u.grad_norm for u in updates] == pytest.approx([u.grad_norm for u in norms], rel=1e-5)
    assert apart(plain, recomputed) < 1e-5


def test_recomputation_recomputes():
    passes = []
    for recompute in (False, True):
        policy = policy_of(wrap(qwen()), recompute=recompute)
        layer = policy.causal.model.layers[0]
        count = [0]
        layer.mlp.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        made = rollouts()
        figures = BaseFigures()
        list(score(policy, made, figures))
        before = count[0]
        made_by(Trainer(policy, items_of(made), QUICK, figures=figures))
        passes.append(count[0] - before)
    assert passes[1] == 2 * passes[0]


def test_general_and_fast_path_train_alike():
    steps, _, fast = run()
    policy = policy_of(wrap(qwen()))
    policy.head = None
    whole, _ = made_by(Trainer(policy, items_of(rollouts()), QUICK))
    assert [s.json() for s in steps] == [pytest.approx(s.json(), abs=2e-5) for s in whole]
    assert apart(fast, weights(policy)) < 1e-3


def test_dropout_is_drawn_from_the_seed_and_the_place():
    recipe = QUICK.with_(dropout=0.3)
    steps, _, first = run(recipe)
    torch.manual_seed(99)  # what else draws has no say
    _, _, again = run(recipe)
    assert apart(first, again) == 0.0
    assert [s.loss for s in steps] != [s.loss for s in run()[0]]


def test_the_greatest_seed_trains():
    steps, _, _ = run(QUICK.with_(dropout=0.3, seed=2**62 - 1))
    assert [s.loss for s in steps] != [s.loss for s in run(QUICK.with_(dropout=0.3))[0]]


# -- continuation -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"dropout": 0.3}, {"order": "shuffle", "normalisation": "token"}])
@pytest.mark.parametrize("stop", [1, 4])
def test_a_restored_run_is_the_unbroken_one_bit_by_bit(tmp_path, changes, stop):
    recipe = QUICK.with_(epochs=2, **changes)
    steps, updates, whole = run(recipe)
    broken = Trainer(policy_of(wrap(qwen()), recipe), items_of(rollouts(), recipe), recipe)
    for made in broken.run():
        if isinstance(made, Update) and made.optimizer_step == stop:
            broken.save(tmp_path / "step")
        if isinstance(made, MicroStep) and made.optimizer_step > stop:
            break  # in the midst of the next window
    resumed = Trainer(policy_of(wrap(qwen()), recipe, moved=False), items_of(rollouts(), recipe), recipe)
    resumed.restore(tmp_path / "step")
    later, rest = made_by(resumed)
    assert [s.json() for s in later] == [s.json() for s in steps if s.optimizer_step > stop or s.step > 2 * stop]
    assert [u.json() for u in rest] == [u.json() for u in updates[stop:]]
    assert apart(whole, weights(resumed.policy)) == 0.0


def test_a_checkpoint_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    trainer = Trainer(policy_of(wrap(qwen())), items_of(rollouts()), QUICK)
    monkeypatch.setattr(checkpoint, "_sync", lambda path: (_ for _ in ()).throw(OSError("the disk is gone")))
    with pytest.raises(OSError, match="disk"):
        trainer.save(tmp_path / "step")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_may_be_written_again(tmp_path):
    trainer = Trainer(policy_of(wrap(qwen())), items_of(rollouts()), QUICK)
    trainer.save(tmp_path / "step")
    made_by(trainer)
    trainer.save(tmp_path / "step")
    assert [p.name for p in tmp_path.iterdir()] == ["step"]
    assert json.loads((tmp_path / "step" / "place.json").read_text())["update"] == 3


def test_a_checkpoint_is_an_adapter_that_plain_peft_loads(tmp_path):
    trainer = Trainer(policy_of(wrap(qwen())), items_of(rollouts()), QUICK)
    made_by(trainer)
    trainer.save(tmp_path / "step")
    plain = PeftModel.from_pretrained(qwen().eval(), tmp_path / "step")
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad(), trainer.policy.learning():
        assert torch.allclose(plain(ids).logits, trainer.policy.logits(ids), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["missing", "broken", "other run", "other adapter"])
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, harm):
    folder = tmp_path / "step"
    trainer = Trainer(policy_of(wrap(qwen())), items_of(rollouts()), QUICK)
    made_by(trainer)
    trainer.save(folder)
    recipe, made = QUICK, rollouts()
    if harm == "missing":
        folder = tmp_path / "nothing"
    elif harm == "broken":
        (folder / "optimizer.safetensors").write_bytes(b"{")
    elif harm == "other run":
        made = rollouts(problems=5)
    else:
        recipe = QUICK.with_(rank=3)
    with pytest.raises(TrainError):
        Trainer(policy_of(wrap(qwen()), recipe), items_of(made, recipe), recipe).restore(folder)
