"""What can be asked, each argument declared once: type, bounds, default and description.

The command line's options and `--help`, the endpoints of the API and the schemas of MCP are made of these models. An
argument that several verbs take is a type of its own, with the description that it has wherever no other is given.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_origin

from pydantic import Field, StringConstraints, create_model

from rmx import arguments
from rmx.arguments import API_ONLY, LATER, Count, Flag, Most, Seed, Swaps, Temperature, TopP, argument, kind_of
from rmx.config import TOP_KEPT
from rmx.engine.fair_queue import Kind
from rmx.models.style_options import StyleOptions
from rmx.prompt_styles import AnswerRule
from rmx.runs.recipe import HELP, field_types
from rmx.service.checks import Request

ARMS = "base,teacher,oracle,random,matched,entropy"
SPECS = "mini, a preset, a Hub id[@revision], a folder or a .gguf file (default: RMX_MODEL, else mini)"
ADAPTERS = "a bundled name, a run, a folder or a Hub id (safetensors)"

Answer = Annotated[
    str | None,
    argument("the known answer of the prompt, which its solution is graded against", Most("answer"), Flag(metavar="A")),
]
SetName = Annotated[
    str,
    StringConstraints(strip_whitespace=True),
    argument(
        "a problem set by its name, such as mini, arith or gsm8k, with :train or :test",
        Flag(metavar="NAME", help="a problem set (rmx sets lists them) or a file"),
    ),
]
ModelName = Annotated[
    str | None, argument("a preset or a Hub id; by default the model of this app", Flag(metavar="S", help=SPECS))
]
AdapterName = Annotated[
    str | None,
    argument(
        "a LoRA adapter on the model: a bundled name (rl, reasonmaxxer), a training run's id or a Hub id",
        Flag(metavar="S", help=ADAPTERS),
    ),
]
Limit = Annotated[
    int | None, argument("how many problems of the set are taken, from its first on", Most("problems"), ge=1)
]
FirstProblems = Annotated[Limit, Flag(help="take the first N problems of the set (default: all of them)")]
Raw = Annotated[bool, argument("send the prompt to the model as it stands, without a prompt template")]
Tau = Annotated[
    float | None, argument("entropy in nats above which a token is a fork; by default the model's own threshold", ge=0)
]
SHARE = "the share of tokens that shall be forks, between 0 and 1; the threshold is worked out from it, instead of tau"
TauShare = Annotated[float | None, argument(SHARE, gt=0, lt=1)]
MaxNewTokens = Annotated[
    int | None, argument("upper bound of the whole completion, in tokens; 512 by default", Most("max_new_tokens"), ge=1)
]
Budget = Annotated[int | None, argument("tokens, at most", Most("budget"), Flag(metavar="TOKENS"), ge=1)]
Whole = Annotated[int, Field(ge=0, le=2**31 - 1)]
PromptIds = Annotated[
    list[Whole] | None,
    argument(
        "the prompt as token ids, instead of a text",
        Most("characters"),
        Flag(metavar="FILE", help="the prompt as a JSON array of token ids ('-' = stdin)"),
    ),
]
Brief = Annotated[bool, argument("leave out the token ids of the prompt", API_ONLY)]


class AskingRequest(Request):
    """What the verbs that ask a model have in common: how its problems are asked."""

    style: str | None = argument(
        "the prompt style, by its name; by default the one of the model's family",
        LATER,
        Flag(metavar="NAME", help="a prompt style by its name (rmx doctor lists them)"),
    )
    system: str | None = argument(
        "the system message of a chat prompt; an empty text leaves it out", LATER, Flag(metavar="TEXT")
    )
    template: str | None = argument(
        "a prompt template with {problem} in it, instead of the style's own",
        LATER,
        Flag(metavar="FILE", help="a text with {problem} in it instead of the style's, without its last line break"),
    )
    thinking: Literal["on", "off"] | None = argument(
        "on or off: whether a model with a thinking mode thinks before it answers", LATER
    )
    stop: list[str] | None = argument(
        "texts that end a completion, instead of those of the style",
        LATER,
        Flag(metavar="TEXT", help="ends a completion, instead of the style's own; several times; '' for none"),
    )
    answers: AnswerRule | None = argument(
        "what counts as an answer: boxed (a box alone) or flexible (a box, or what comes nearest to one)", LATER
    )

    def style_options(self, template_file: str | None = None) -> StyleOptions:
        """What is asked of the prompt."""
        thinking = None if self.thinking is None else self.thinking == "on"
        stops = None if self.stop is None else tuple(stop for stop in self.stop if stop)
        return StyleOptions(self.style, self.system, self.template, thinking, stops, self.answers, template_file)


# -- one solution -----------------------------------------------------------------------------------------------------


class SolutionRequest(AskingRequest):
    """What all verbs about one solution have in common."""

    prompt: str | None = argument(
        "a problem in your own words; else name one of a set", Most("characters"), Flag("prompt", "PROMPT")
    )
    problem: str | None = argument("a problem of the set, by its id or 0-based index", Flag(metavar="ID"))
    set: SetName = "mini"
    answer: Answer = None
    model: ModelName = None
    adapter: AdapterName = None
    raw: Raw = False
    tau: Tau = None
    max_new_tokens: MaxNewTokens = None


class DrawnRequest(SolutionRequest):
    """A solution that may be drawn at random."""

    kind: ClassVar[Kind] = Kind.WATCHED
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    seed: Seed = argument("seed of the random draws; the same seed gives the same tokens", default=0)
    cold: bool = argument("compute everything anew: no cached prefix is reused", default=False)


class SampledRequest(DrawnRequest):
    """A solution that is listed token by token."""

    top: int = argument(
        "how many of the likeliest tokens are listed for each position, 1 to 20",
        API_ONLY,
        default=TOP_KEPT,
        ge=1,
        le=TOP_KEPT,
    )
    brief: bool = argument("list only the forks and the forced tokens, beside the whole text", API_ONLY, default=False)


class TraceRequest(SampledRequest):
    """Solve a problem, or read a given solution, and see the distribution behind every token.

    The document has the tokens with their entropy, probability and likeliest alternatives, marks the forks (tokens at
    which the model was undecided), and names the answer. Positions (pos) count from 0 and are what `swap` takes.
    """

    tau_share: TauShare = None
    prompt_ids: PromptIds = None
    read: str | None = argument(
        "a solution to be scored token by token, instead of generating one",
        Most("characters"),
        Flag(metavar="FILE", help="score the solution in this file instead of generating one ('-' = stdin)"),
    )


class SwapRequest(SampledRequest):
    """Solve a problem, put other tokens in the place of some of its tokens, and see whether the answer changes.

    Each swap keeps what stands before its position, forces its token and lets the model go on; it applies to the branch
    that the one before made. The document is the list of solutions, the unswapped first. Give the
    arguments of the trace.
    """

    swaps: str = argument("POSITION=TOKEN_ID, separated by commas, such as 28=879", default="")
    tau_share: Annotated[TauShare, LATER] = None
    prompt_ids: Annotated[PromptIds, LATER] = None


class ExportRequest(DrawnRequest):
    """A solution as a file: a page that opens offline, a tree document, a figure of its entropies, or a table.

    The document has the file's name, its type (mime) and its text. With `swaps` the file has the branches too.
    """

    swaps: str = argument("POSITION=TOKEN_ID, separated by commas, as swap takes them; none by default", default="")
    format: Literal["html", "json", "svg", "csv"] = argument(
        "html: one page with all branches, clickable, without a network; json: the tree document; svg, csv: entropy "
        "and tokens of the last branch",
        default="html",
    )
    title: str | None = argument("what the page is called; by default the problem itself", Most("answer"))


class OutcomesRequest(SolutionRequest):
    """What each alternative of a place is worth: sample on from it many times and count the answers that are reached.

    Without `pos` this is done at the forks of the highest entropy, and the document says which of them decide. Shares
    come with 95 % intervals; the right answer counts or, where none is known, that of the solution itself.
    """

    pos: int | None = argument(
        "position in the greedy solution whose alternatives are measured; by default every fork is"
    )
    forks: Count = argument(
        "how many forks are measured where no pos is given: those of the highest entropy", Most("forks"), default=16
    )
    samples: int | None = argument(
        "samples of each alternative, at most; by default 64, or 24 where no pos is given", Most("samples"), ge=1
    )
    budget: Budget = argument("tokens to sample in all, at most; by default 50,000, or 200,000 where no pos is given")
    temperature: arguments.Warm = 1.0
    top_p: TopP = argument(
        "nucleus sampling of the samples: the share of the probability that is drawn from", default=1.0
    )
    seed: Seed = argument("seed of the samples", default=0)
    brief: Brief = False


class RescueRequest(SolutionRequest):
    """The fewest swaps that turn a wrong answer right, or break a right one. The right answer must be known.

    `swaps` of the document, written as POSITION=TOKEN_ID, are what `swap` takes.
    """

    goal: Literal["right", "wrong"] | None = argument(
        "what the swaps shall make of the answer; by default the opposite of what the solution is"
    )
    budget: Count = argument("tokens that the search may generate, at most", Most("budget"), default=20_000)
    most_swaps: Swaps = argument("how many swaps a rescue may need, at most: 1 to 4", Flag("--swaps"), default=3)
    seed: Seed = argument("seed of the solutions that are sampled for comparison", default=0)
    brief: Brief = False


class SofarRequest(SolutionRequest):
    """The answer that the model would give at the end of each sentence of its greedy solution.

    Shows where an answer is settled, and how often it changes on the way; the mode is the most frequent of them.
    """

    brief: Brief = False


# -- a pair of models -------------------------------------------------------------------------------------------------


class PairRequest(AskingRequest):
    """What the verbs about a pair of models have in common. `mini` is compared with its partner `rl` by default."""

    model: ModelName = argument("the base: a preset or a Hub id; by default the model of this app")
    adapter: AdapterName = argument(
        "a LoRA adapter on the base: a bundled name (rl, reasonmaxxer), a training run's id or a Hub id"
    )
    teacher: str | None = argument(
        "the adapted model as a full checkpoint, instead of an adapter: a preset or a Hub id",
        Flag(metavar="S", help="the adapted model as a full checkpoint, instead of --adapter"),
    )
    pair: str | None = argument(
        "a known pair such as mini+rl, instead of model, adapter and teacher",
        Flag(metavar="NAME", help="a known pair of base and adapted model (rmx doctor lists them)"),
    )


class ComparingRequest(PairRequest):
    """What both comparisons have in common."""

    strength: float = argument(
        "strength of the adapter, 0 to 1.5; 1 is the adapter as it was trained. Plain LoRA only",
        default=1.0,
        ge=0,
        le=1.5,
    )
    set: SetName = "mini"
    limit: FirstProblems = None
    tau: Tau = argument("entropy in nats above which a token is a fork; by default the base's own threshold")
    seed: Seed = 0
    max_new_tokens: MaxNewTokens = argument("upper bound of each completion, in tokens; 512 by default")
    placebo: bool = argument(
        "over a set, also measure a random adapter of the same size for comparison",
        Flag(help="do not measure the random adapter of equal size"),
        default=True,
    )
    tau_share: Annotated[TauShare, LATER] = None


class ShiftsRequest(ComparingRequest):
    """Where a base and an adapted model part: on one solution, token by token, or over the first `limit` problems.

    On one solution every token has its class: unshifted, reranked (the adapted model's choice is among the base's top
    five) or shifted. Over a set there are shares with 95 % intervals, and a placebo beside them.
    """

    prompt: str | None = argument(
        "one problem in your own words, instead of problems of a set", Most("characters"), Flag("prompt", "PROMPT")
    )
    problem: str | None = argument(
        "one problem of the set, by its id or 0-based index; for several give a limit", Flag(metavar="ID")
    )
    answer: Answer = argument("the known answer of the prompt")
    raw: Raw = False
    source: Literal["base", "adapted"] = argument(
        "the model whose solution both read: the base or the adapted one", default="base"
    )
    read: str | None = argument(
        "a solution for both to read, instead of generating one",
        Most("characters"),
        Flag(metavar="FILE", help="have both read the solution in this file ('-' = stdin)"),
    )
    temperature: Temperature = argument("sampling temperature of the solution; 0 decodes greedily", default=0.0)
    top_p: TopP = 1.0
    brief: bool = argument(
        "list only the tokens at which the two models part, beside the whole text", API_ONLY, default=False
    )


class InterveneRequest(ComparingRequest):
    """Patch single tokens of the base on the first `limit` problems of a set (20 by default) and count right answers.

    Arms: base and teacher are the two models; oracle takes the adapted model's token wherever they disagree, entropy
    wherever the base is at a fork; random and matched are controls. Differences are paired, with 95 % intervals.
    """

    arms: str = argument("the arms to run, separated by commas", default=ARMS, max_length=500)
    brief: bool = argument("leave out the answers to each problem", API_ONLY, default=False)


# -- a problem set ----------------------------------------------------------------------------------------------------


class StudyRequest(Request):
    """What the studies of a set have in common."""

    set: SetName = "mini"
    limit: Limit = argument("how many problems of the set are taken, from its first on; 100 by default")
    tau: Tau = None
    tau_share: TauShare = None
    seed: Seed = 0
    max_new_tokens: MaxNewTokens = None
    budget: Budget = argument("tokens that sampling what choices decide may take; 200,000 by default")


class LocatorRequest(StudyRequest, AskingRequest):
    """Does high entropy find the tokens that decide? Samples on from gated tokens and from others, and compares.

    The document has recall (the decisive weight inside the gate), precision (the gated tokens that decide) and what is
    missed, each with a 95 % interval, over the greedy solutions of the first `limit` problems.
    """

    model: ModelName = None
    adapter: AdapterName = None
    samples: arguments.Halves = argument("samples of each alternative, an even number", Most("samples"), default=16)
    brief: bool = argument("leave out the places that were looked at", API_ONLY, default=False)


class ClaimsRequest(StudyRequest, PairRequest):
    """The paper's claims, measured on a base and an adapted model: a verdict, the figures and the reason for each.

    Studies run one after the other, as far as the claims need them. Below 30 problems there is no verdict.
    """

    only: str | None = argument(
        "ids of the claims that are measured, separated by commas; all by default",
        Flag(metavar="ID,ID"),
        max_length=500,
    )
    n: arguments.Samples = argument("samples of each problem, for pass@k", Most("draws"), default=8)


class EvalRequest(AskingRequest):
    """Accuracy of models side by side on a problem set: greedy, pass@k and majority, each with a 95 % interval.

    The first model is the base; adapters on it and full checkpoints are compared with it, problem by problem.
    """

    kind: ClassVar[Kind] = Kind.BULK
    model: ModelName = None
    adapter: list[str] | None = argument(
        "adapters on the base: bundled names (rl, reasonmaxxer), ids of training runs or Hub ids",
        Most("models"),
        Flag(metavar="S", help="a bundled name, a run, a folder or a Hub id; may be given several times"),
    )
    teacher: list[str] | None = argument(
        "full checkpoints beside the base: presets or Hub ids",
        Most("models"),
        Flag(metavar="S", help="a full checkpoint beside the base; may be given several times"),
    )
    set: SetName = "mini"
    limit: FirstProblems = None
    n: arguments.Draws = argument("samples per problem; 0: greedy only", Most("draws"), default=16)
    k: list[Whole] | None = argument("tries of pass@k; by default 1, 2, 4 ... n", Flag(metavar="1,2,4"))
    temperature: Temperature = argument("temperature of the samples", default=0.6)
    top_p: TopP = 0.95
    seed: Seed = 0
    max_new_tokens: MaxNewTokens = argument("upper bound of each completion, in tokens; 2,048 by default")
    greedy: bool = argument(
        "also solve each problem greedily; else draw samples only",
        Flag(help="draw samples only; leave the greedy answers out"),
        default=True,
    )
    brief: bool = argument("leave out the rows of the single problems", API_ONLY, default=False)


class RegradeRequest(EvalRequest):
    """The kept completions of an evaluation, read and judged again; says which verdicts changed."""


# -- training ---------------------------------------------------------------------------------------------------------

SAMPLING = {"k": "draws", "problems": "problems", "max_new_tokens": "max_new_tokens"}  # of a recipe, with limits


def _recipe_fields(names: Iterable[str], limits: Mapping[str, str]) -> dict[str, Any]:
    """Fields of a training recipe as arguments, of its own types; values are checked where a recipe is made of them."""
    types, found = field_types(), {}
    for name in names:
        kind = kind_of(types[name])
        kind = list[str] if get_origin(kind) is tuple else kind
        bound = [Most(limits[name])] if name in limits else []
        found[name] = (kind | None, argument(HELP[name], *bound))
    return found


class TrainingRequest(AskingRequest):
    """Whom to train or to sample from, and on what."""

    model: ModelName = None
    set: SetName = "mini"


class _Train(TrainingRequest):
    """Start a training run (ReasonMaxxer): rollouts, gate, contrastive LoRA. It goes on by itself.

    The document says the run's id and how it stands; `train_status` tells the rest. Arguments that are left out have
    the values of the preset. The run belongs to who started it, known by the cookie of the page.
    """

    preset: Literal["quick", "small", "floor", "paper"] = argument(
        "the recipe that the other arguments change; quick is too short for figures to be trusted", default="quick"
    )
    dry_run: bool = argument("stop after the gate and say what training would take", default=False)


class _Rollouts(TrainingRequest):
    """Sample solutions of training problems from a model and grade them, with the entropy of every token.

    Problems are drawn by the seed, and each is solved k times. The rows are those that `rmx rollouts` writes.
    """

    kind: ClassVar[Kind] = Kind.BULK
    brief: bool = argument("leave out the rows, and tell what came of them together", API_ONLY, default=False)


TrainRequest = create_model(
    "TrainRequest", __base__=_Train, __doc__=_Train.__doc__, **_recipe_fields(field_types(), {})
)
RolloutsRequest = create_model(
    "RolloutsRequest",
    __base__=_Rollouts,
    __doc__=_Rollouts.__doc__,
    **_recipe_fields((*SAMPLING, "temperature", "top_p", "seed"), SAMPLING),
)


class TrainStatusRequest(Request):
    """How the training runs stand: all of them, or one with what was asked and its files."""

    run: str | None = argument("a run's id, or as much of its beginning as only one has; by default all runs")
    brief: bool = argument("of one run only how it stands", default=False)


class RunRequest(Request):
    """One training run, by its id."""

    run: str = argument("the run's id, or as much of its beginning as only one run has", default="")


class TrainStopRequest(RunRequest):
    """Stop a training run of yours at its next step. It keeps a checkpoint and can be resumed."""


class TrainResumeRequest(RunRequest):
    """Go on with a training run of yours that was stopped or interrupted."""

    tau: float | None = argument(
        "another threshold in nats; only where nothing was trained yet, as after a dry run", ge=0
    )
