"""The claims of `assets/claims.toml`, in the order in which a reader meets them, each with how it is read."""

from rmx.claims import from_pairs, from_runs, from_sampling
from rmx.claims.claim import TABLE, Claim, Read
from rmx.errors import RmxError

READ: dict[str, Read] = {
    "gain": from_pairs.gain,
    "reranked": from_pairs.reranked,
    "shifted": from_pairs.shifted,
    "mean-rank": from_pairs.mean_rank,
    "entropy-ratio": from_pairs.entropy_ratio,
    "on-forks": from_pairs.on_forks,
    "oracle": from_pairs.oracle,
    "random": from_pairs.random_control,
    "gate": from_pairs.gate,
    "gate-share": from_pairs.gate_share,
    "swaps": from_sampling.swaps,
    "locator": from_sampling.locator,
    "placebo": from_pairs.placebo,
    "low-rank": from_runs.distilled,
    "reasonmaxxer": from_runs.reasonmaxxer,
    "positive-only": from_runs.positive_only,
    "random-gate": from_runs.random_gate,
    "tau-range": from_runs.tau_range,
    "cost": from_runs.cost,
    "pass-at-k": from_sampling.pass_at_k,
}
BY_ID = {name: Claim(name, read=READ[name], **row) for name, row in TABLE["claims"].items()}
CLAIMS = tuple(BY_ID.values())


def chosen(ids: tuple[str, ...] | None) -> tuple[Claim, ...]:
    """The claims of these ids in their usual order, all where none is named; RmxError for an unknown id."""
    if unknown := [i for i in ids or () if i not in BY_ID]:
        raise RmxError(f"There is no claim '{unknown[0][:40]}'. Known: {', '.join(BY_ID)}.")
    return tuple(claim for claim in CLAIMS if not ids or claim.id in ids)
