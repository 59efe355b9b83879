"""The claims, in the order in which a reader meets them. The paper: arXiv 2605.06241; the wording is ours."""

from rmx.claims import from_pairs, from_runs, from_sampling
from rmx.claims.claim import Claim
from rmx.errors import RmxError

GREEDY = "Greedy decoding; where two tokens are all but equally likely, rounding may choose."
OWN_TEXT = "Both models read the base's own greedy solutions; on the adapted model's text the figures differ."
CONTROL = "A control of ours; the paper prints no such figure."
ONE_RUN = "One run: other seeds of training may end elsewhere, and the interval does not cover that."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="gain",
        section="6",
        title="RL raises pass@1",
        paper="Over six benchmarks the best RL adds 1.1 to 23.2 points to seven of eight bases; none to Mistral 7B.",
        how="Both models solve the problems greedily; paired difference of the shares of right answers.",
        caveats=(GREEDY,),
        button="Measure accuracy",
        studies=("interventions",),
        read=from_pairs.gain,
    ),
    Claim(
        id="reranked",
        section="3",
        title="RL changes few choices",
        paper="1.0 to 4.1 % of positions are reranked: another first choice, inside the base's top 5.",
        how="Share of positions of the base's solutions where the adapted model prefers another of the base's top 5.",
        caveats=(OWN_TEXT,),
        button="Measure where they part",
        studies=("shifts",),
        read=from_pairs.reranked,
    ),
    Claim(
        id="shifted",
        section="3",
        title="RL promotes almost nothing that the base did not consider",
        paper="About none: 0.01 to 0.12 % of positions are shifted outside the base's top 5.",
        how="Share of positions where the adapted choice lies outside the base's top 5. Less than 0.01 % agrees as "
        "well.",
        caveats=(OWN_TEXT,),
        button="Measure where they part",
        studies=("shifts",),
        read=from_pairs.shifted,
    ),
    Claim(
        id="mean-rank",
        section="3",
        title="The promoted token was second or third already",
        paper="Mean rank 2.14 to 2.39 under the base, where the two disagree.",
        how="Mean rank under the base of the adapted model's choice, over all disagreements.",
        caveats=(OWN_TEXT, "Noise that reranks as often has a mean rank near 2 as well: see the placebo."),
        button="Measure where they part",
        studies=("shifts",),
        read=from_pairs.mean_rank,
    ),
    Claim(
        id="entropy-ratio",
        section="3",
        title="It happens where the base is uncertain",
        paper="The base's entropy is 5 to 12 times as high at reranked positions as at unchanged ones.",
        how="Mean entropy of the base where reranked over that where unchanged (nats, full vocabulary, temperature 1).",
        caveats=(OWN_TEXT, "Undecided places turn at any push, so noise gives a high ratio too: see the placebo."),
        button="Measure where they part",
        studies=("shifts",),
        read=from_pairs.entropy_ratio,
    ),
    Claim(
        id="on-forks",
        section="3",
        title="Disagreements lie on forks",
        paper="They concentrate at decision points, where the base's entropy exceeds the threshold.",
        how="Share of disagreements on forks minus the share of positions that are forks.",
        caveats=(OWN_TEXT, "Choices that are confidently wrong have low entropy: no fork, whatever they do."),
        button="Measure where they part",
        studies=("shifts",),
        read=from_pairs.on_forks,
    ),
    Claim(
        id="oracle",
        section="4",
        title="Patching only the disagreements reproduces the RL model",
        paper="The oracle reaches the teacher's pass@1 exactly, though it changes only the few tokens that differ.",
        how="At every disagreement the teacher's token; counts problems with the teacher's outcome (98 % or more "
        "agrees).",
        caveats=(
            "It follows the teacher's path token by token, so equality is expected; the finding is how few change.",
        ),
        button="Run the interventions",
        studies=("interventions",),
        read=from_pairs.oracle,
    ),
    Claim(
        id="random",
        section="4",
        title="It matters which token is promoted, not only where",
        paper="A random other token of the base's top 20 at the same places is no better than the base.",
        how="Paired difference between that and the base; up to 2 points better counts as no better.",
        caveats=("Where the base's choice is mostly wrong, any other token may help a little.",),
        button="Run the interventions",
        studies=("interventions",),
        read=from_pairs.random_control,
    ),
    Claim(
        id="gate",
        section="4",
        title="Entropy alone tells where to step in",
        paper="The teacher's token wherever the entropy exceeds 1.2 nats matches the teacher or comes near.",
        how="Paired difference between that and the teacher; up to 5 points less counts as near.",
        caveats=("The threshold here is the one given below the title, not the paper's 1.2 unless it says so.",),
        button="Run the interventions",
        studies=("interventions",),
        read=from_pairs.gate,
    ),
    Claim(
        id="gate-share",
        section="4",
        title="The gate touches few tokens",
        paper="1.2 to 8.3 % of tokens.",
        how="Share of tokens of the gated decoding whose entropy exceeds the threshold.",
        caveats=("The threshold decides this share by itself.",),
        button="Run the interventions",
        studies=("interventions",),
        read=from_pairs.gate_share,
    ),
    Claim(
        id="swaps",
        section="",
        title="A swap at a fork decides more than one elsewhere",
        paper="Implied, and shown in aggregate only: whether one promoted token matters is left open (section 7).",
        how="At forks and at as many other places each other top-5 token is forced and decoding goes on greedily; a "
        "swap counts as much as its token is likely. Controls at the same forks: the token that is there is forced, "
        "which must change nothing; and nothing is forced, but all is sampled on at temperature 1.",
        caveats=(CONTROL, GREEDY),
        button="Swap at forks and elsewhere",
        studies=("swaps",),
        read=from_sampling.swaps,
    ),
    Claim(
        id="locator",
        section="7",
        title="High entropy finds the tokens that decide",
        paper="Open: confidently wrong positions are invisible to the gate, and the paper does not count them.",
        how="At all forks and at a weighted sample of other places continuations are sampled from the chosen token and "
        "from its alternatives; what a redraw would change is the weight of a token.",
        caveats=("Of the base at temperature 1.", "Alternatives below 0.2 % are left out."),
        button="Sample what choices decide",
        studies=("locator",),
        read=from_sampling.locator,
    ),
    Claim(
        id="placebo",
        section="",
        title="The adapter does more than noise of its size",
        paper="No figure: the statistics of section 3 come without a control of this kind.",
        how="A random adapter of the same shape, turned up until it reranks as often, solves the same problems.",
        caveats=(CONTROL, "Its mean rank and entropy ratio show how much of section 3 any push would give."),
        button="Run the placebo",
        studies=("shifts", "interventions"),
        read=from_pairs.placebo,
    ),
    Claim(
        id="low-rank",
        section="4",
        title="A low-rank adapter is enough",
        paper="Rank 32 on q, k, v, o (0.27 to 0.49 % of parameters) matches the teacher; rank 8 on o alone within "
        "a point.",
        how="The newest finished rmx distill run of this model at rank 32 or less; up to 2 points less than its "
        "teacher counts as a match.",
        caveats=(ONE_RUN,),
        button="Look for runs",
        studies=("runs",),
        read=from_runs.distilled,
    ),
    Claim(
        id="reasonmaxxer",
        section="5, 6",
        title="ReasonMaxxer raises pass@1 without RL",
        paper="All eight bases gain, 3.3 to 23.4 points over six benchmarks; never more than 1.3 points below the best "
        "RL.",
        how="The newest finished run of this model, checked once on test problems: paired difference from the base.",
        caveats=(ONE_RUN, "The newest run counts, not the best of several."),
        button="Look for runs",
        studies=("runs",),
        read=from_runs.reasonmaxxer,
    ),
    Claim(
        id="positive-only",
        section="5",
        title="Right rollouts alone give about half",
        paper="Training on positive advantages only keeps about half of the gain.",
        how="Two runs that differ in --positive-only alone: share of the gain, 25 to 75 % counts as about half.",
        caveats=(ONE_RUN, "The shorter schedule of the positive-only run is part of the difference."),
        button="Look for runs",
        studies=("runs",),
        read=from_runs.positive_only,
    ),
    Claim(
        id="random-gate",
        section="",
        title="The gate must be at the forks",
        paper="Implied by its thesis; the ablations that we know compare with no gate at all.",
        how="Two runs that differ in --gate random alone: as many tokens, drawn by chance.",
        caveats=(CONTROL, ONE_RUN),
        button="Look for runs",
        studies=("runs",),
        read=from_runs.random_gate,
    ),
    Claim(
        id="tau-range",
        section="5",
        title="The threshold need not be exact",
        paper="1.0 to 2.2 nats all work on Qwen2.5 1.5B; 1.4 is best with 5.2 % of tokens.",
        how="The newest finished sweep: every threshold within that range must raise pass@1 on test problems by "
        "itself.",
        caveats=(ONE_RUN, "The range is one model's; others need other thresholds."),
        button="Look for runs",
        studies=("runs",),
        read=from_runs.tau_range,
    ),
    Claim(
        id="cost",
        section="6",
        title="It costs a few dollars",
        paper="4 to 25 USD a model at 1.89 to 2.69 USD an hour, against 42 to 103,000 for RL (many of those are "
        "estimates).",
        how="What the newest run with the paper's recipe cost at this machine's rate; 25 USD or less agrees.",
        caveats=("An amount, not an estimate; rates of April 2026.",),
        button="Look for runs",
        studies=("runs",),
        read=from_runs.cost,
    ),
    Claim(
        id="pass-at-k",
        section="7",
        title="The advantage at many attempts",
        paper="Open: pass@k at high k was not tested. Others found that RL's advantage shrinks or turns there.",
        how="Solutions at temperature 1; unbiased pass@k of both models on the same problems, paired.",
        caveats=("A few samples a problem say nothing of k in the hundreds.",),
        button="Sample solutions",
        studies=("evaluation",),
        read=from_sampling.pass_at_k,
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
