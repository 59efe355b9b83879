"""REINFORCE with a problem set's own verifier: a LoRA on any base, rewarded for right answers and for nothing else.

On-policy, with advantages normalised within each problem's group of rollouts, which is GRPO with one optimizer step a
batch and no KL term. The policy is the model at the temperature that it is sampled at. Problems and draws depend on the
seed, the iteration and the weights alone, so a run that was cut off goes on as if nothing had happened.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from rmx.data.problem_sets import load_set
from rmx.errors import TrainError
from rmx.models.load import Model, load
from rmx.models.style_options import StyleOptions
from rmx.records import Problem, Rollout
from rmx.runs.recipe import AdapterConfig, RolloutConfig
from rmx.stats.intervals import Estimate
from rmx.stats.text import percent, points
from rmx.storage.rendering import render
from rmx.storage.safe_files import read_json
from rmx.train.heldout import solve
from rmx.train.rollouts import sample_rollouts
from rmx.train.step.lora_policy import NAME, make_policy
from rmx.train.step.trainer import PLACE, WEIGHTS, restore_checkpoint, save_checkpoint

Ids = tuple[int, ...]
ADVANTAGE_EPS = 1e-4  # keeps a group of equal rewards at 0
ROWS_SAMPLED = 64  # rollouts decoded together
CHECKPOINT, ADAPTER, LOG, CONFIG = "checkpoint", "adapter", "log.jsonl", "adapter_config.json"


@dataclass(frozen=True, slots=True)
class ReinforceConfig:
    """Everything that the adapter depends on, beside the base and the problems."""

    iterations: int = 100
    seed: int = 1
    problems: int = 12  # per iteration
    rollouts: int = 6  # per problem
    temperature: float = 0.6  # of the policy: its samples and its log-probabilities alike
    max_new_tokens: int = 40
    lr: float = 3e-4
    warmup: int = 5  # iterations
    rank: int = 16
    alpha: int = 32
    clip: float = 1.0  # norm of the gradient
    validate_every: int = 10  # iterations
    validation: int = 120  # problems of the validation split, solved greedily


@dataclass(frozen=True, slots=True)
class ReinforceStep:
    """What one iteration did."""

    iteration: int  # counted from 1
    reward: float  # mean over all rollouts, before the update
    mixed: int  # problems with right and wrong rollouts: the ones that teach
    entropy: float  # nats, mean over the sampled tokens, at temperature 1; NaN where the sampler tells none
    tokens: float  # of a completion, on average
    loss: float
    grad_norm: float  # before clipping
    lr: float
    seconds: float  # of this iteration


def group_advantage(rewards: Tensor, eps: float = ADVANTAGE_EPS) -> Tensor:
    """A[p, k] = (r[p, k] - mean_k r[p]) / (std_k r[p] + eps); all zero in a group of equal rewards.

    Args:
        rewards: (P, K), one row per problem.
        eps: added to the standard deviation, which is that of the K values themselves (divided by K).

    Source: GRPO, arXiv 2402.03300, section 4.1.2 (outcome supervision); the eps is ours.
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, correction=0, keepdim=True) + eps)


def policy_gradient_loss(logp: Tensor, advantage: Tensor, mask: Tensor, tokens: int) -> Tensor:
    """L = -(1/tokens) sum over (b, t) in mask of A[b] * logp[b, t]; its gradient is REINFORCE's, with a minus.

    Args:
        logp: (B, T) natural-log probability of the token taken, under the policy.
        advantage: (B,) constants; no gradient flows through them.
        mask: (B, T) bool, True where the policy sampled the token.
        tokens: sampled tokens of the whole optimizer step, so that the losses of its parts add up.

    Source: REINFORCE with a baseline, Williams, Machine Learning 8 (1992), 229-256; equal to the objective of GRPO
    (arXiv 2402.03300, Eq. 3) at ratio 1 without its KL term, except that every token of the step weighs the same,
    where GRPO first takes the mean within a rollout.
    """
    weighted = advantage.detach()[:, None] * logp
    return -weighted[mask].sum() / tokens


def schedule(iteration: int, iterations: int, warmup: int) -> float:
    """Share of the full learning rate at iteration 0, 1, ...: linear warm-up, then a linear fall to 0."""
    return min(1.0, (iteration + 1) / warmup, (iterations - iteration) / max(1, iterations - warmup))


# -- Gradients behind a beginning that all prompts share ---------------------------------------------------------------


def common_beginning(prompts: Sequence[Ids]) -> Ids:
    """Find the tokens that all prompts begin with; at least one token of each prompt stays out of it."""
    shortest = min(map(len, prompts)) - 1
    places = list(zip(*prompts, strict=False))[:shortest]
    return tuple(tokens[0] for tokens in takewhile(lambda tokens: len({*tokens}) == 1, places))


def sampled_mask(rollouts: Sequence[Rollout]) -> Tensor:
    """(B, T - 1) bool over the tokens of padded texts but the first, True where the policy sampled the token."""
    ends = torch.tensor([[r.prompt_length, len(r.input_ids)] for r in rollouts])
    place = torch.arange(1, int(ends.max()))
    return (place >= ends[:, :1]) & (place < ends[:, 1:])


def sampled_logp(network: Any, shared: Ids, rollouts: Sequence[Rollout], temperature: float) -> tuple[Tensor, Tensor]:
    """Read the log-probabilities of what was sampled, with a gradient; the shared beginning is computed once.

    Returns:
        logp (B, T - 1) of each token behind the shared beginning but the first, at `temperature`, 0 where it was not
        sampled; and the mask (B, T - 1) of those that were.
    """
    device, start = network.device, len(shared)
    cache = DynamicCache(config=network.config)
    if shared:
        network.base_model(input_ids=torch.tensor([shared], device=device), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(rollouts))
    ids = pad_sequence([torch.tensor(r.input_ids[start:], device=device) for r in rollouts], batch_first=True)
    hidden = network.base_model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state[:, :-1]
    mask = sampled_mask(rollouts)[:, start:].to(device)
    logits = network.get_output_embeddings()(hidden[mask]).float() / temperature
    logp = torch.zeros(mask.shape, device=device)
    return logp.masked_scatter(mask, -F.cross_entropy(logits, ids[:, 1:][mask], reduction="none")), mask


# -- The run ----------------------------------------------------------------------------------------------------------


class Reinforcer:
    """The policy (the base with a LoRA on it), its optimizer and the position in the run."""

    rows: ClassVar[int] = 32  # rollouts in one backward pass

    def __init__(self, model: Model, problems: Sequence[Problem], config: ReinforceConfig) -> None:
        self.model, self.problems, self.config, self.done = model, problems, config, 0
        self.policy = make_policy(model, AdapterConfig(config.rank, config.alpha), None, config.seed)
        self.weights = list(self.policy.trained().values())
        self.optimizer = torch.optim.AdamW(self.weights, lr=config.lr, weight_decay=0.0)

    def run(self) -> Iterator[ReinforceStep]:
        """Train to the end, one iteration at a time."""
        config = self.config
        while self.done < config.iterations:
            began = time.monotonic()
            rollouts = self._sample()
            rewards = torch.tensor([float(r.correct) for r in rollouts]).view(config.problems, config.rollouts)
            lr = config.lr * schedule(self.done, config.iterations, config.warmup)
            loss, norm = self._update(rollouts, group_advantage(rewards).flatten(), lr)
            self.done += 1
            mixed = int((rewards.std(1, correction=0) > 0).sum())
            entropies = torch.tensor([e for r in rollouts for e in r.entropies or ()])
            yield ReinforceStep(
                self.done, rewards.mean().item(), mixed, entropies.mean().item(),
                sum(r.completion_length for r in rollouts) / len(rollouts), loss, norm, lr, time.monotonic() - began,
            )  # fmt: skip

    def _sample(self) -> list[Rollout]:
        """Sample the rollouts of an iteration, those of one problem together."""
        config = self.config
        problems = random.Random(f"reinforce/{config.seed}/{self.done}").sample(self.problems, config.problems)
        asked = RolloutConfig(config.rollouts, len(problems), config.temperature, 1.0, config.max_new_tokens)
        found = sample_rollouts(
            self.model, problems, asked, 1_000_000 * config.seed + self.done, {}, adapter=NAME, rows=ROWS_SAMPLED
        )
        place = {problem.id: i for i, problem in enumerate(problems)}
        return sorted(found, key=lambda r: (place[r.problem_id], r.gen_index))

    def _update(self, rollouts: Sequence[Rollout], advantage: Tensor, lr: float) -> tuple[float, float]:
        """One optimizer step over all rollouts that teach something; returns loss and gradient norm."""
        rows = sorted(advantage.nonzero()[:, 0].tolist(), key=lambda i: len(rollouts[i].input_ids))
        if not rows:
            return 0.0, 0.0
        shared = common_beginning([r.prompt_ids for r in rollouts])
        tokens, total = sum(rollouts[i].completion_length for i in rows), 0.0
        with self.policy.learning():
            for start in range(0, len(rows), self.rows):
                part = rows[start : start + self.rows]
                logp, mask = self._logp([rollouts[i] for i in part], shared)
                loss = policy_gradient_loss(logp, advantage[part].to(logp.device), mask, tokens)
                loss.backward()
                total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.config.clip).item()
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.policy.changed()
        return total, norm

    def _logp(self, rollouts: Sequence[Rollout], shared: Ids) -> tuple[Tensor, Tensor]:
        """Read the log-probabilities of some rollouts with a gradient, and which of their tokens were sampled."""
        return sampled_logp(self.policy.causal, shared, rollouts, self.config.temperature)

    def validate(self, problems: Sequence[Problem]) -> Estimate:
        """Solve problems greedily with the policy as it is: the share that is right, with its interval."""
        with self.model.engine.queue.turn():
            return solve(self.model, problems, NAME, self.config.max_new_tokens).pass_at_1

    def save(self, folder: Path, **place: Any) -> None:
        """Write a checkpoint, replacing the one before in one move."""
        kept = {"config": asdict(self.config), "done": self.done} | place
        save_checkpoint(folder, self.policy, self.optimizer, kept)

    def restore(self, folder: Path) -> dict[str, Any]:
        """Go on from a checkpoint; TrainError where it belongs to a run with another config."""
        place: dict[str, Any] = read_json(folder / PLACE)
        if place["config"] != asdict(self.config):
            raise TrainError(f"{folder} belongs to another run: {place['config']}. Remove it to begin anew.")
        self.done = restore_checkpoint(folder, self.policy, self.optimizer)["done"]
        return place

    def export(self, folder: Path) -> None:
        """Write the adapter for shipping, under the base's name."""
        with tempfile.TemporaryDirectory() as work:
            self.policy.save_adapter(Path(work))
            write_adapter(Path(work), folder)


def reinforce(model: Model, set_name: str, config: ReinforceConfig, out: Path, tell: Callable[[str], None]) -> None:
    """Train on the set's train split until the iterations are done; keep the adapter that validates best.

    Args:
        out: folder of the log, the checkpoint and the adapter; a run that was cut off there is gone on with.
        tell: called with each line of the log.
    """
    out.mkdir(parents=True, exist_ok=True)
    trainer = Reinforcer(model, load_set(f"{set_name}:train"), config)
    held_out = load_set(f"{set_name}:validation")[: config.validation]

    def log(kind: str, figures: dict[str, Any]) -> None:
        line = json.dumps({"kind": kind} | figures)
        with (out / LOG).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        tell(line)

    def check(best: float) -> float:
        found = trainer.validate(held_out)
        log("validation", {"iteration": trainer.done, **found})
        if found["value"] > best:
            trainer.export(out / ADAPTER)
        best = max(best, found["value"])
        trainer.save(out / CHECKPOINT, best=best)
        return best

    if (out / CHECKPOINT).is_dir():
        best = trainer.restore(out / CHECKPOINT)["best"]
        log("resumed", {"iteration": trainer.done})
    else:
        log("config", {"model": model.spec, "revision": model.revision, "set": set_name, **asdict(config)})
        best = check(-1.0)
    for step in trainer.run():
        log("step", asdict(step))
        if step.iteration % config.validate_every == 0 or step.iteration == config.iterations:
            best = check(best)


# -- Shipping ---------------------------------------------------------------------------------------------------------


def write_adapter(trained: Path, out: Path, **changed: str) -> None:
    """Write an adapter as PEFT wrote it for shipping: in fp16, readable by everyone, equal files for equal runs.

    Args:
        changed: fields of its config, and what they shall say instead.
    """
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half() for name, tensor in load_file(trained / WEIGHTS).items()}
    save_file(weights, out / WEIGHTS, metadata={"format": "pt"})
    config = read_json(trained / CONFIG)
    config |= changed | {"target_modules": sorted(config["target_modules"])}
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for path in out.iterdir():
        path.chmod(0o644)


def ship(run: Path, out: Path, test: Path | None = None) -> None:
    """Copy a run's best adapter into a folder that ships, with its log, its settings and a card of its figures.

    Args:
        test: what `rmx eval --json` printed of this very adapter's folder, beside others.
    """
    events = [json.loads(line) for line in (run / LOG).read_text(encoding="utf-8").splitlines()]
    config = next(event for event in events if event["kind"] == "config")
    checks = list({e["iteration"]: e for e in events if e["kind"] == "validation"}.values())  # some were repeated
    steps = {e["iteration"]: e["seconds"] for e in events if e["kind"] == "step"}
    out.mkdir(parents=True, exist_ok=True)
    for path in (run / ADAPTER / WEIGHTS, run / ADAPTER / CONFIG, run / LOG):
        shutil.copyfile(path, out / path.name)
        (out / path.name).chmod(0o644)
    kept = {f.name: config[f.name] for f in fields(ReinforceConfig)}
    about = {"base": config["revision"], "set": config["set"], "config": kept}
    (out / "training.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    default = asdict(ReinforceConfig())
    changed = {name: value for name, value in kept.items() if value != default[name] or name == "seed"}
    card = render(
        "reinforce_card.md.jinja", config=config, checks=checks, done=max(steps, default=0),
        options=" ".join(f"--{name.replace('_', '-')} {value}" for name, value in changed.items()),
        best=max(checks, key=lambda check: check["value"]),  # the first of equals, as the run keeps it
        minutes=round(sum(steps.values()) / 60), percent=percent, points=points,
        test=None if test is None else _tested(read_json(test), str(run / ADAPTER)),
    )  # fmt: skip
    (out / "README.md").write_text(card, encoding="utf-8")


def _tested(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The figures of one adapter in an evaluation's document; TrainError where it has no part in it."""
    if name not in [model["name"] for model in report["models"]]:
        raise TrainError(f"The evaluation has no figures of {name}. Name this folder with --adapter.")
    base, adapted = report["models"][0], next(m for m in report["models"] if m["name"] == name)
    change = next(p["greedy"] for p in report["paired"] if p["name"] == name and p["against"] == base["name"])
    figures = {"base": base["greedy"], "adapted": adapted["greedy"], "change": change}
    return {"set": report["set"], "n": report["problems"]} | figures


def main() -> None:
    """Run or resume one training in one thread, or ship what one has left."""
    parser = argparse.ArgumentParser(prog="python -m rmx.train.reinforce", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the run; one that was cut off there is gone on with")
    parser.add_argument("--model", default="smollm2-135m-instruct-q4_1", help="the base: any model spec")
    parser.add_argument("--set", default="words", help="problem set with train and validation splits")
    parser.add_argument("--style", help="prompt style (default: the set's or the model's own)")
    parser.add_argument("--ship", type=Path, help="train nothing: copy the run's adapter here, with its card")
    parser.add_argument("--test", type=Path, help="for the card: what rmx eval --json printed of RUN/adapter")
    for field in fields(ReinforceConfig):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    args = vars(parser.parse_args())
    out, spec, set_name, style = (args.pop(name) for name in ("out", "model", "set", "style"))
    place, test = args.pop("ship"), args.pop("test")
    if place is not None:
        ship(out, place, test)
        return
    torch.set_num_threads(1)
    model = load(spec).ask_in(StyleOptions(style=style), set_name)
    reinforce(model, set_name, ReinforceConfig(**args), out, lambda line: print(line, file=sys.stdout, flush=True))  # noqa: T201


if __name__ == "__main__":
    main()
