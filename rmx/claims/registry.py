"""The claims, in the order in which a reader meets them. The paper: arXiv 2605.06241; the wording is ours."""

from rmx.claims import from_pairs, from_runs, from_sampling
from rmx.claims.records import Claim
from rmx.errors import RmxError

GREEDY = "Greedy decoding; where two tokens are all but equally likely, rounding may choose."
OWN_TEXT = "Both models read the base's own greedy solutions; on the adapted model's text the figures differ."
CONTROL = "A control of ours; the paper prints no such figure."
ONE_RUN = "One run: other seeds of training may end elsewhere, and the interval does not cover that."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "gain",
        "6",
        "RL raises pass@1",
        "Over six benchmarks the best RL adds 1.1 to 23.2 points to seven of eight bases; none to Mistral 7B.",
        "Both models solve the problems greedily; paired difference of the shares of right answers.",
        (GREEDY,),
        "Measure accuracy",
        ("interventions",),
        from_pairs.gain,
    ),
    Claim(
        "reranked",
        "3",
        "RL changes few choices",
        "1.0 to 4.1 % of positions are reranked: another first choice, inside the base's top 5.",
        "Share of positions of the base's solutions where the adapted model prefers another of the base's top 5.",
        (OWN_TEXT,),
        "Measure where they part",
        ("shifts",),
        from_pairs.reranked,
    ),
    Claim(
        "shifted",
        "3",
        "RL promotes almost nothing that the base did not consider",
        "About none: 0.01 to 0.12 % of positions are shifted outside the base's top 5.",
        "Share of positions where the adapted choice lies outside the base's top 5. Less than 0.01 % agrees as well.",
        (OWN_TEXT,),
        "Measure where they part",
        ("shifts",),
        from_pairs.shifted,
    ),
    Claim(
        "mean-rank",
        "3",
        "The promoted token was second or third already",
        "Mean rank 2.14 to 2.39 under the base, where the two disagree.",
        "Mean rank under the base of the adapted model's choice, over all disagreements.",
        (OWN_TEXT, "Noise that reranks as often has a mean rank near 2 as well: see the placebo."),
        "Measure where they part",
        ("shifts",),
        from_pairs.mean_rank,
    ),
    Claim(
        "entropy-ratio",
        "3",
        "It happens where the base is uncertain",
        "The base's entropy is 5 to 12 times as high at reranked positions as at unchanged ones.",
        "Mean entropy of the base where reranked over that where unchanged (nats, full vocabulary, temperature 1).",
        (OWN_TEXT, "Undecided places turn at any push, so noise gives a high ratio too: see the placebo."),
        "Measure where they part",
        ("shifts",),
        from_pairs.entropy_ratio,
    ),
    Claim(
        "on-forks",
        "3",
        "Disagreements lie on forks",
        "They concentrate at decision points, where the base's entropy exceeds the threshold.",
        "Share of disagreements on forks minus the share of positions that are forks.",
        (OWN_TEXT, "Choices that are confidently wrong have low entropy: no fork, whatever they do."),
        "Measure where they part",
        ("shifts",),
        from_pairs.on_forks,
    ),
    Claim(
        "oracle",
        "4",
        "Patching only the disagreements reproduces the RL model",
        "The oracle reaches the teacher's pass@1 exactly, though it changes only the few tokens that differ.",
        "At every disagreement the teacher's token; counts problems with the teacher's outcome (98 % or more agrees).",
        ("It follows the teacher's path token by token, so equality is expected; the finding is how few change.",),
        "Run the interventions",
        ("interventions",),
        from_pairs.oracle,
    ),
    Claim(
        "random",
        "4",
        "It matters which token is promoted, not only where",
        "A random other token of the base's top 20 at the same places is no better than the base.",
        "Paired difference between that and the base; up to 2 points better counts as no better.",
        ("Where the base's choice is mostly wrong, any other token may help a little.",),
        "Run the interventions",
        ("interventions",),
        from_pairs.random_control,
    ),
    Claim(
        "gate",
        "4",
        "Entropy alone tells where to step in",
        "The teacher's token wherever the entropy exceeds 1.2 nats matches the teacher or comes near.",
        "Paired difference between that and the teacher; up to 5 points less counts as near.",
        ("The threshold here is the one given below the title, not the paper's 1.2 unless it says so.",),
        "Run the interventions",
        ("interventions",),
        from_pairs.gate,
    ),
    Claim(
        "gate-share",
        "4",
        "The gate touches few tokens",
        "1.2 to 8.3 % of tokens.",
        "Share of tokens of the gated decoding whose entropy exceeds the threshold.",
        ("The threshold decides this share by itself.",),
        "Run the interventions",
        ("interventions",),
        from_pairs.gate_share,
    ),
    Claim(
        "swaps",
        "",
        "A swap at a fork decides more than one elsewhere",
        "Implied, and shown in aggregate only: whether one promoted token matters is left open (section 7).",
        "At forks and at as many other places each other top-5 token is forced and decoding goes on greedily; a swap "
        "counts as much as its token is likely. Controls at the same forks: the token that is there is "
        "forced, which must change nothing; and nothing is forced, but all is sampled on at temperature 1.",
        (CONTROL, GREEDY),
        "Swap at forks and elsewhere",
        ("swaps",),
        from_sampling.swaps,
    ),
    Claim(
        "locator",
        "7",
        "High entropy finds the tokens that decide",
        "Open: confidently wrong positions are invisible to the gate, and the paper does not count them.",
        "At all forks and at a weighted sample of other places continuations are sampled from the chosen token and "
        "from its alternatives; what a redraw would change is the weight of a token.",
        ("Of the base at temperature 1.", "Alternatives below 0.2 % are left out."),
        "Sample what choices decide",
        ("locator",),
        from_sampling.locator,
    ),
    Claim(
        "placebo",
        "",
        "The adapter does more than noise of its size",
        "No figure: the statistics of section 3 come without a control of this kind.",
        "A random adapter of the same shape, turned up until it reranks as often, solves the same problems.",
        (CONTROL, "Its mean rank and entropy ratio show how much of section 3 any push would give."),
        "Run the placebo",
        ("shifts", "interventions"),
        from_pairs.placebo,
    ),
    Claim(
        "low-rank",
        "4",
        "A low-rank adapter is enough",
        "Rank 32 on q, k, v, o (0.27 to 0.49 % of parameters) matches the teacher; rank 8 on o alone within a point.",
        "The newest finished rmx distill run of this model at rank 32 or less; up to 2 points less than its teacher "
        "counts as a match.",
        (ONE_RUN,),
        "Look for runs",
        ("runs",),
        from_runs.distilled,
    ),
    Claim(
        "reasonmaxxer",
        "5, 6",
        "ReasonMaxxer raises pass@1 without RL",
        "All eight bases gain, 3.3 to 23.4 points over six benchmarks; never more than 1.3 points below the best RL.",
        "The newest finished run of this model, checked once on test problems: paired difference from the base.",
        (ONE_RUN, "The newest run counts, not the best of several."),
        "Look for runs",
        ("runs",),
        from_runs.reasonmaxxer,
    ),
    Claim(
        "positive-only",
        "5",
        "Right rollouts alone give about half",
        "Training on positive advantages only keeps about half of the gain.",
        "Two runs that differ in --positive-only alone: share of the gain, 25 to 75 % counts as about half.",
        (ONE_RUN, "The shorter schedule of the positive-only run is part of the difference."),
        "Look for runs",
        ("runs",),
        from_runs.positive_only,
    ),
    Claim(
        "random-gate",
        "",
        "The gate must be at the forks",
        "Implied by its thesis; the ablations that we know compare with no gate at all.",
        "Two runs that differ in --gate random alone: as many tokens, drawn by chance.",
        (CONTROL, ONE_RUN),
        "Look for runs",
        ("runs",),
        from_runs.random_gate,
    ),
    Claim(
        "tau-range",
        "5",
        "The threshold need not be exact",
        "1.0 to 2.2 nats all work on Qwen2.5 1.5B; 1.4 is best with 5.2 % of tokens.",
        "The newest finished sweep: every threshold within that range must raise pass@1 on test problems by itself.",
        (ONE_RUN, "The range is one model's; others need other thresholds."),
        "Look for runs",
        ("runs",),
        from_runs.tau_range,
    ),
    Claim(
        "cost",
        "6",
        "It costs a few dollars",
        "4 to 25 USD a model at 1.89 to 2.69 USD an hour, against 42 to 103,000 for RL (many of those are estimates).",
        "What the newest run with the paper's recipe cost at this machine's rate; 25 USD or less agrees.",
        ("An amount, not an estimate; rates of April 2026.",),
        "Look for runs",
        ("runs",),
        from_runs.cost,
    ),
    Claim(
        "pass-at-k",
        "7",
        "The advantage at many attempts",
        "Open: pass@k at high k was not tested. Others found that RL's advantage shrinks or turns there.",
        "Solutions at temperature 1; unbiased pass@k of both models on the same problems, paired.",
        ("A few samples a problem say nothing of k in the hundreds.",),
        "Sample solutions",
        ("evaluation",),
        from_sampling.pass_at_k,
    ),
)
BY_ID = {claim.id: claim for claim in CLAIMS}


def chosen(ids: tuple[str, ...] | None) -> tuple[Claim, ...]:
    """The claims of these ids in their usual order; all of them where none is named.

    Raises:
        RmxError: an unknown id.
    """
    if not ids:
        return CLAIMS
    unknown = [i for i in ids if i not in BY_ID]
    if unknown:
        raise RmxError(f"There is no claim '{unknown[0][:40]}'. Known: {', '.join(BY_ID)}.")
    return tuple(claim for claim in CLAIMS if claim.id in ids)
