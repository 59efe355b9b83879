"""A model, and a model beside an adapted one, as Python objects: solve, read, compare, patch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypedDict, Unpack

from rmx.arguments import Sampling
from rmx.compare.shift_map import MapJob, ShiftMap, map_document
from rmx.errors import RmxError
from rmx.explore.generate import Branch
from rmx.library.results import ArmsDocument, NotebookProgress, ShiftMapDocument, ShiftSetDocument
from rmx.library.solution import ModelSolution, SolutionStream
from rmx.models.load import PLAIN, Model, Placing
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.prompt_styles import AnswerRule
from rmx.records import TokenDist
from rmx.service import Request, Site, steps
from rmx.service.checks import read as from_names
from rmx.service.requests import InterveneRequest, ShiftsRequest, TraceRequest
from rmx.service.solution import asked, prepare
from rmx.service.studies import pair_options

ARMS = ("base", "teacher", "oracle", "random", "matched", "entropy")
PAIR_OPTIONS = ("tau", "tau_share", "seed", "max_new_tokens")
OnToken = Callable[[TokenDist], object]


class SolveOptions(TypedDict, total=False):
    """What `solve`, `stream` and `read` can be asked; the names and defaults are those of `rmx trace`."""

    problem: str | int  # a problem of the set, by its id or its 0-based index, instead of a prompt
    set: str  # the problem's set: "mini", "gsm8k:test", a file; default "mini"
    answer: str | int | float  # the right answer of the prompt, which the solution is graded against
    prompt_ids: tuple[int, ...]  # the prompt as token ids, instead of a text
    raw: bool  # send the prompt as it stands, without a template
    temperature: float  # 0 decodes greedily, and is the default
    top_p: float  # share of the probability that is drawn from; default 1
    seed: int  # of the draws; default 0
    max_new_tokens: int  # upper bound of the whole completion; default 512
    tau: float  # nats of entropy above which a token is a fork; default: the model's own threshold
    tau_share: float  # the share of tokens that shall be forks, instead of tau
    cold: bool  # reuse no cached prefix


def style_fields(style: StyleOptions) -> dict[str, Any]:
    """How a prompt is asked, by the names of a request's arguments."""
    thinking = None if style.thinking is None else "on" if style.thinking else "off"
    stop = None if style.stops is None else list(style.stops)
    asked_in = {"style": style.style, "system": style.system, "template": style.template}
    return asked_in | {"thinking": thinking, "stop": stop, "answers": style.answers}


def measure(site: Site, request: Request, progress: bool, place: Callable[[Any], tuple[str, int, int]]) -> Any:
    """The document of a request that is worked on to its end; `place` is what the bar says of a state."""
    with NotebookProgress(progress) as tell:
        *_, found = steps(replace(site, watch=lambda state: tell(*place(state))), request)
    return found


@cache
def _workspace(device: str, dtype: str, placing: Placing) -> Workspace:
    """The models that this process has loaded on a device."""
    return Workspace(device, dtype, placing=placing)


@dataclass(frozen=True)
class LanguageModel:
    """A model that solves problems, perhaps with an adapter on it. `rmx.load` makes one."""

    name: str  # a preset, a Hub id, a folder or a .gguf file
    adapter: str | None = None  # a bundled name, a run's id, a folder or a Hub id
    device: str = "auto"
    dtype: str = "auto"
    placing: Placing = PLAIN
    style: StyleOptions = field(default_factory=StyleOptions)

    @property
    def workspace(self) -> Workspace:
        """Where its weights are; models of one device share a workspace."""
        return _workspace(self.device, self.dtype, self.placing)

    @property
    def site(self) -> Site:
        """Where requests to it are worked on, without the limits of an app."""
        return Site(self.workspace, limits=None, model=self.name)

    @property
    def loaded(self) -> Model:
        """The loaded weights with their tokenizer, for whoever works with rmx's inner functions."""
        return self.workspace.model(self.name)

    def solve(
        self, prompt: str | None = None, *, on_token: OnToken | None = None, **options: Unpack[SolveOptions]
    ) -> ModelSolution:
        """Write a solution to its end.

        Args:
            prompt: a problem in your own words; else name one of a set by `problem`.
            on_token: called with each token as it is written.
            options: see SolveOptions.
        """
        stream = self.stream(prompt, **options)
        for token in stream:
            if on_token is not None:
                on_token(token)
        return stream.solution

    def stream(self, prompt: str | None = None, **options: Unpack[SolveOptions]) -> SolutionStream:
        """Begin a solution and return its tokens as an iterator; arguments as for `solve`."""
        return self._begin(prompt, None, options)

    def read(self, text: str, prompt: str | None = None, **options: Unpack[SolveOptions]) -> ModelSolution:
        """Score a solution that is given, without writing anything: how surprising was each token to this model?

        Args:
            text: the solution. prompt and options: what it answers, as for `solve`.
        """
        return self._begin(prompt, text, options).solution

    def with_adapter(self, adapter: str, *, strength: float = 1.0) -> "ModelPair":
        """Put a LoRA on this model; returns both, the model as it is and the adapted one.

        Args:
            adapter: a bundled name ("rl", "reasonmaxxer"), a run's id, a folder or a Hub id.
            strength: multiplies a plain LoRA, 0 to 1.5; 1 is the adapter as it was trained.

        Raises:
            ModelError: it cannot be had, or is not for this model.
        """
        self.workspace.adapter(self.loaded, adapter)
        return ModelPair(self, adapter=adapter, strength=strength)

    def beside(self, checkpoint: str) -> "ModelPair":
        """Put a full checkpoint of the same family beside this model; returns both.

        Args:
            checkpoint: a preset, a Hub id or a folder.

        Raises:
            ModelError: it cannot be had.
        """
        self.workspace.model(checkpoint)
        return ModelPair(self, teacher=checkpoint)

    def _begin(self, prompt: str | None, text: str | None, given: SolveOptions) -> SolutionStream:
        """A solution of which nothing is written yet."""
        texts = {name: str(given[name]) for name in ("answer", "problem") if given.get(name) is not None}  # type: ignore[literal-required]
        ids = {"prompt_ids": list(given["prompt_ids"])} if "prompt_ids" in given else {}
        who = {"model": self.name, "adapter": self.adapter, **style_fields(self.style)}
        request = from_names(TraceRequest, {"prompt": prompt, "read": text, **given, **texts, **ids, **who})
        model, job = prepare(request, self.site)
        about = asked(request, model, job, [])
        branch = Branch(model, job, about["prompt"], tree="", title=about["title"])
        return SolutionStream(ModelSolution(request, branch))

    def __repr__(self) -> str:
        adapter = f" + {self.adapter}" if self.adapter else ""
        return f"<{self.name}{adapter}: a model on {self.loaded.engine.device}, {self.loaded.dtype}>"


@dataclass(frozen=True)
class ModelPair:
    """A model, and the same model with an adapter or another checkpoint of its family."""

    base: LanguageModel
    adapter: str | None = None
    teacher: str | None = None  # a full checkpoint, in place of an adapter
    strength: float = 1.0  # of a plain LoRA

    @property
    def adapted(self) -> LanguageModel:
        """The adapted model alone, at full strength."""
        if self.teacher is not None:
            return replace(self.base, name=self.teacher, adapter=None)
        return replace(self.base, adapter=self.adapter)

    @property
    def name(self) -> str:
        """What tells it apart from other adapted models: its adapter or its checkpoint."""
        return str(self.adapter or self.teacher)

    def shifts(
        self,
        what: ModelSolution | str,
        *,
        limit: int | None = None,
        placebo: bool = True,
        keep: bool = True,
        progress: bool = True,
        **options: Any,
    ) -> ShiftMapDocument | ShiftSetDocument:
        """Read a solution under both models and say where they part, or do so for a problem set: `rmx shifts`.

        Args:
            what: a solution, or the name of a problem set such as "mini:test".
            limit: of a set, its first so many problems.
            placebo: of a set, measure a random adapter of the same size too.
            keep: of a set, use what is kept of earlier runs, and keep what is new.
            progress: show a bar.
            options: tau, tau_share, seed, max_new_tokens; by default those of the command.
        """
        if isinstance(what, ModelSolution):
            return ShiftMapDocument(self._map(what, options))
        request = from_names(ShiftsRequest, self._fields(what, options) | {"limit": limit, "placebo": placebo})
        site = replace(self.base.site, keep=keep)
        return ShiftSetDocument(measure(site, request, progress, lambda r: ("problems", r.at, r.of)))

    def intervene(
        self,
        set: str,
        *,
        arms: Sequence[str] = ARMS,
        limit: int | None = None,
        placebo: bool = True,
        keep: bool = True,
        progress: bool = True,
        **options: Any,
    ) -> ArmsDocument:
        """Patch single tokens of the base on a problem set and count right answers: `rmx intervene`.

        Args:
            set: the name of a problem set, such as "mini:test".
            arms: of base, teacher, oracle, random, matched and entropy; the base is always among them.
            limit, placebo, keep, progress, options: as for `shifts`.
        """
        chosen = {"arms": ",".join(dict.fromkeys(("base", *arms))), "limit": limit, "placebo": placebo}
        request = from_names(InterveneRequest, self._fields(set, options) | chosen)
        site = replace(self.base.site, keep=keep)
        return ArmsDocument(measure(site, request, progress, lambda r: ("problems", len(r.problems), r.of)))

    def _map(self, solution: ModelSolution, given: dict[str, Any]) -> dict[str, Any]:
        """The document of one solution, by its very tokens: its text may be cut into tokens in another way."""
        of, trace = solution.request, solution.trace
        fields = self._fields(of.set, {"tau": trace.tau, **given})
        options = pair_options(from_names(ShiftsRequest, fields), self.base.site)
        pair = options.pair(self.base.workspace, own=of.problem is None, raw=of.raw or of.prompt_ids is not None)
        sampling = Sampling(seed=options.seed, max_new_tokens=options.max_new_tokens)
        tau, known = options.threshold(pair.base), solution.known
        job = MapJob(trace.prompt_ids, sampling, tau, "text", known, read=tuple(trace.ids))
        return map_document(ShiftMap(pair, job).run())

    def _fields(self, set_name: str, options: dict[str, Any]) -> dict[str, Any]:
        """What every request about this pair names."""
        if unknown := [name for name in options if name not in PAIR_OPTIONS]:
            raise RmxError(f"There is no option {unknown[0]} here. Known: {', '.join(PAIR_OPTIONS)}.")
        named = {"model": self.base.name, "adapter": self.adapter, "teacher": self.teacher, "strength": self.strength}
        return named | {"set": set_name} | style_fields(self.base.style) | options

    def __repr__(self) -> str:
        return f"<{self.base.name} and {self.adapted.name}{f' + {self.adapter}' if self.adapter else ''}: a pair>"


def load(
    name: str = "mini",
    *,
    adapter: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    device_map: str | None = None,
    style: str | None = None,
    system: str | None = None,
    template: str | None = None,
    thinking: bool | None = None,
    stop: tuple[str, ...] | None = None,
    answers: AnswerRule | None = None,
) -> LanguageModel:
    """Load a model; one that is loaded already is not loaded twice.

    Args:
        name: "mini" (bundled), a preset of `rmx doctor`, a Hub id, a folder or a .gguf file.
        adapter: a LoRA to put on it: a bundled name, a run's id, a folder or a Hub id.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1".
        dtype: "auto" (bfloat16 on CUDA, else float32), "float32", "bfloat16", "float16".
        quantize: "8bit" or "4bit", CUDA only. device_map: "auto" spreads the model over all GPUs.
        style: the prompt style, by its name; None: that of the model's family.
        system: the system line of a chat; "" for none. template: a text with {problem} in it.
        thinking: whether a model that can be told to thinks first. stop: texts that end a completion.
        answers: what counts as an answer, "boxed" or "flexible".
    """
    asked_in = StyleOptions(style, system, template, thinking, stop, answers)
    found = LanguageModel(name, adapter, device, dtype, Placing(quantize, device_map), asked_in)
    found.workspace.adapter(found.loaded, adapter)
    return found
