"""Calls into the process that has the GPU, and rmx on a ZeroGPU Space.

Nearly everywhere that is this process, and a call is simply made. On ZeroGPU a GPU is lent for single calls, which run
in a process of their own: what they change in memory is lost, and their arguments and results are pickled. There a
model's engine knows what makes the call (`engine.remote`), and a function marked `on_gpu_worker` makes it by itself:

    @on_gpu_worker(seconds=lambda model, job: decoding(job.sampling.max_new_tokens))
    def complete(model, job, cancelled=never): ...

Models and pairs are sent by name and looked up among the loaded ones there; all else should be small. What the function
yields comes back one by one. `cancelled` stays here: it is asked after each step, and closing the stream ends the
other process at its next one. Gradio is not imported here: ZeroGPU's errors are recognised by their words.

rmx on a ZeroGPU Space: mini computes here on the CPU, larger models wait on a GPU that is lent for single calls.

What the package `spaces` asks for: it is imported before anything touches CUDA; models are put on "cuda" in the main
thread before the app is launched, where that is only pretended and the weights go to disk; functions that use them are
decorated, and run in a process that is a copy of this one with the weights on a real GPU (see calls.py).
"""

import functools
import importlib
import inspect
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar, cast

import torch

from rmx.config import TOP_SHOWN
from rmx.engine.fair_queue import RequestOwner, current_owner, never
from rmx.errors import ModelError, RmxError, shown
from rmx.models.load import Model, load
from rmx.models.model_pair import Pair
from rmx.models.names import adapter_name, adapter_place
from rmx.models.workspace import MOST_ADAPTERS, Workspace
from rmx.prompt_styles import PromptStyle
from rmx.records import RemoteCaller, TokenDist, Trace, is_fork

START = 8.0  # a new process, CUDA, and the weights on their way to the GPU; only a process that is warm has none of it
STEP = 0.05  # one decoding step, of one row or of a batch; transformers without a compiled graph needs 20 to 40 ms
PAIR_STEP = 0.09  # one step of two models side by side
READ = 1 / 2000  # one token that is only read
FLOOR = 15  # least that is asked for
# Most: a visitor without an account has 120 s a day, and on cards with a factor of 1.5 a second counts as much.
CAP = 80


def bounded(seconds: float) -> int:
    """What is asked for: the estimate and the start, not below the floor nor above the cap."""
    return round(min(max(seconds + START, FLOOR), CAP))


def work(seconds: int) -> float:
    """Of the seconds that were asked for, those that a call may work before it ends itself."""
    return seconds - START


def decoding(steps: int, read: int = 0) -> float:
    """Decode `steps` tokens, one row or a batch, after reading `read` tokens."""
    return steps * STEP + read * READ


def side_by_side(steps: int, read: int = 0) -> float:
    """The same under two models."""
    return steps * PAIR_STEP + 2 * read * READ


P = ParamSpec("P")
R = TypeVar("R")
Gpu = Callable[..., Callable[[Callable[..., Any]], Callable[..., Iterator[tuple[str, Any]]]]]  # as spaces.GPU


class NoGpu(RmxError):
    """The GPU could not be had, or was taken back before the call was done."""


# -- names ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelName:
    """A loaded model by its spec, the adapters that belong on it, each with its folder, and how it is asked."""

    spec: str
    adapters: tuple[tuple[str, str], ...]
    style: PromptStyle

    def found(self, workspace: Workspace) -> Model:
        """The model of this process, with its adapters on it."""
        model = workspace.model(self.spec)
        here = model.engine.attached
        if missing := [(name, place) for name, place in self.adapters if name not in here]:
            from rmx.models.adapters import attach  # with PEFT, which takes long to import

            for name, place in missing:
                attach(model, name, place)
        return model.with_style(self.style)


@dataclass(frozen=True, slots=True)
class PairName:
    """A pair by its models' names."""

    base: ModelName
    adapted: ModelName
    adapter: str | None

    def found(self, workspace: Workspace) -> Pair:
        """Return the pair of this process, with its adapters on it."""
        base = self.base.found(workspace)
        same = self.adapted.spec == self.base.spec
        return Pair(base, base if same else self.adapted.found(workspace), self.adapter)


Where = Model | Pair | None


def _name(where: Where) -> ModelName | PairName | None:
    if isinstance(where, Pair):
        return PairName(_model_name(where.base), _model_name(where.adapted), where.adapter)
    return None if where is None else _model_name(where)


def _model_name(model: Model) -> ModelName:
    return ModelName(model.spec, tuple(model.engine.adapters.items()), model.style)


def remote_of(where: Model | Pair) -> RemoteCaller | None:
    """What makes calls about this model or pair in another process; None where they are made in this one."""
    return (where.base if isinstance(where, Pair) else where).engine.remote


# -- in this process ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """What goes over: a function of a module, by name, and its arguments."""

    function: Callable[..., Any]
    where: ModelName | PairName | None
    args: tuple[Any, ...]
    named: dict[str, Any]
    seconds: int
    owner: RequestOwner


class ZeroGpuCaller:
    """Makes calls in the process with the GPU.

    Args:
        gpu: `spaces.GPU`, or anything that takes a duration and wraps a generator function as it does.
        workspace: the models; the other process, which is a copy of this one, has the same.
    """

    def __init__(self, gpu: Gpu, workspace: Workspace) -> None:
        global _home
        _home = workspace
        self._there = gpu(duration=lambda call: call.seconds)(
            run_on_worker
        )  # it is asked with the arguments of the call
        # Outside a ZeroGPU Space the decorator of `spaces` changes nothing.
        self.crosses = self._there is not run_on_worker

    def stream(
        self, function: Callable[..., Any], where: Where, args: tuple[Any, ...], named: dict[str, Any], seconds: float
    ) -> Iterator[Any]:
        """What the function yields there, or the one value that it returns. Closing the stream ends it at its
        next step.

        Raises:
            RmxError: what it raised there. NoGpu: the GPU could not be had or was taken back, in a sentence.
        """
        call = Call(function, _name(where), args, named, bounded(seconds), current_owner.get())
        try:
            with closing(cast(Any, self._there(call))) as messages:
                for kind, value in messages:
                    if kind == "error":
                        raise value
                    yield value
        except (RmxError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # spaces raises gr.Error, RuntimeError and others; its log has the traceback
            raise NoGpu(_sentence(error, call.seconds)) from error


def on_gpu_worker(
    seconds: Callable[..., float],
    slim: Callable[..., tuple[Any, ...]] | None = None,
    ended: Callable[[Any], Any] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function of a module, whose first argument is a model or a pair, as one that may have to run elsewhere.

    Args:
        seconds: what it may take, called with the same arguments but `cancelled`.
        slim: makes the arguments behind the first smaller before they cross; what the function does not read may go.
        ended: makes the last state of a cancelled stream out of the newest one.
    """

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        streams = inspect.isgeneratorfunction(function)

        @functools.wraps(function)
        def call(*args: P.args, **named: P.kwargs) -> R:
            where = cast(Model | Pair, args[0])
            far = remote_of(where)
            if far is None:
                return function(*args, **named)
            cancelled = cast(Callable[[], bool], named.pop("cancelled", never))
            rest = slim(*args[1:]) if slim else args[1:]
            found = far.stream(call, where, rest, dict(named), seconds(*args, **named))
            return cast(R, _until(found, cancelled, ended) if streams else list(found)[-1])

        return call

    return mark


def _until(found: Iterator[Any], cancelled: Callable[[], bool], ended: Callable[[Any], Any] | None) -> Iterator[Any]:
    """Yield what the other process yields, until `cancelled` is true here."""
    if cancelled():
        return
    with closing(cast(Any, found)):
        for state in found:
            if cancelled():
                yield ended(state) if ended else state
                return
            yield state


def _sentence(error: Exception, seconds: int) -> str:
    """An error of ZeroGPU, made readable. Its classes are gradio's, so it is recognised by title and message."""
    title, said = str(getattr(error, "title", "")).lower(), str(getattr(error, "message", "") or error).strip()
    if "worker" in title and "aborted" in said.lower():
        return (
            f"The GPU was taken back before this was done; {seconds} seconds had been asked for. Ask for less at once."
        )
    if "worker" in title:
        return f"Something failed on the GPU ({said}). The log of the Space has more."
    said = said if said.endswith((".", "!", "?")) else f"{said}."
    return f"No GPU at the moment: {said} The bundled model mini needs none."


# -- in the other process ----------------------------------------------------------------------------------------------

_home: Workspace | None = None  # the models of this process
_arrived = os.getpid()  # the process in which locks and lines are its own


def run_on_worker(call: Call) -> Iterator[tuple[str, Any]]:
    """Make a call in the process that has the GPU. Errors that a visitor may read cross as values: one that is raised
    costs the process, with the weights and prefixes that it holds."""
    global _arrived
    assert _home is not None
    if _arrived != os.getpid():  # once in a new process, where no thread of the other one will free its locks
        _arrived = os.getpid()
        _home.forked()
    current_owner.set(call.owner)
    ends = time.monotonic() + work(call.seconds)
    late = False

    def over() -> bool:
        nonlocal late
        late = time.monotonic() > ends
        return late

    named = call.named | ({"cancelled": over} if "cancelled" in inspect.signature(call.function).parameters else {})
    try:
        first = () if call.where is None else (call.where.found(_home),)
        found = call.function(*first, *call.args, **named)
        if not isinstance(found, Iterator):
            yield "value", found
            return
        with closing(cast(Any, found)):
            for state in found:
                yield "value", state
        if late:
            yield "error", NoGpu(f"The {call.seconds} seconds of GPU for one request are over. What is there is kept.")
    except RmxError as error:
        yield "error", error.with_traceback(None)
    except torch.OutOfMemoryError as error:
        for model in _home.all():
            model.engine.prefixes.clear()
        yield "error", torch.OutOfMemoryError(str(error))


def without_alternatives(token: TokenDist) -> TokenDist:
    """The token and its figures, without what else could have stood there."""
    return replace(token, top=())


def with_alternatives_at(trace: Trace, wanted: Callable[[TokenDist], bool]) -> Trace:
    """A trace whose alternatives are the shown ones of the wanted tokens, and none of the others."""
    tokens = (replace(t, top=t.top[:TOP_SHOWN]) if wanted(t) else without_alternatives(t) for t in trace.tokens)
    return replace(trace, tokens=tuple(tokens))


def forks_only(trace: Trace) -> Trace:
    """Alternatives of the forks alone."""
    return with_alternatives_at(trace, lambda t: is_fork(t.entropy, trace.tau))


# -- rmx on a ZeroGPU Space -------------------------------------------------------------------------------------------


VARIABLE = "SPACES_ZERO_GPU"  # set by the Space; `spaces` reads the same
NEAR = ("mini",)  # models that need no GPU


def is_zerogpu() -> bool:
    """Whether this process runs on a ZeroGPU Space."""
    return os.environ.get(VARIABLE, "").lower() in ("1", "t", "true")


def spaces_gpu() -> Gpu:
    """The decorator of the package `spaces`, or RmxError; outside such a Space it changes nothing."""
    try:
        gpu: Gpu = importlib.import_module("spaces").GPU
    except ModuleNotFoundError as error:
        raise RmxError("A ZeroGPU Space needs the package spaces: add it to its requirements.txt.") from error
    return gpu


class ZeroWorkspace(Workspace):
    """The models of a ZeroGPU Space: those that are loaded before `ready`, and no others.

    Args:
        gpu: as `spaces.GPU`. device: where the larger models go. options: as for Workspace.
    """

    process_is_copied = True

    def __init__(self, gpu: Gpu | None = None, device: str = "cuda", **options: Any) -> None:
        self.carrier = ZeroGpuCaller(gpu or spaces_gpu(), self)  # first: spaces must be there before the models
        self._device, self._placing = device, True
        super().__init__(loader=self._place, keep=1 << 16, **options)

    def _place(self, spec: str) -> Model:
        if spec in NEAR:
            return load(spec, "cpu")
        if not self._placing:
            known = ", ".join(self.loaded)
            raise ModelError(
                f"On ZeroGPU models are loaded when the Space starts: {known}. Set RMX_MODEL of a duplicate for {spec}."
            )
        return load(spec, self._device)

    def ready(self) -> None:
        """From now on the larger models compute in another process only. Call it before the app is launched."""
        self._placing = False
        for model in self.all():
            if model.spec not in NEAR and self.carrier.crosses:
                model.engine.remote = self.carrier

    def unload(self, spec: str) -> int:
        """Refuse, by a ModelError: what leaves memory here could not come back."""
        raise ModelError(f"On ZeroGPU models are loaded when the Space starts, so {shown(spec)} stays in memory.")

    def adapter(self, model: Model, spec: str | None) -> str | None:
        """As Workspace.adapter. Of a model that is far away only the adapter's place is noted; the other process puts
        it on when it is first used there.

        Raises:
            ModelError: there is none here. Refused: not on this site.
        """
        engine = model.engine
        if not spec or engine.remote is None:
            return super().adapter(model, spec)
        self.policy.admit_adapter(model, spec)
        name = adapter_name(spec)
        place = engine.adapters.pop(name, None) or _at_hand(model, spec)
        engine.adapters[name] = place  # the newest is the last
        for old in [known for known in engine.adapters if known not in model.engine.attached][:-MOST_ADAPTERS]:
            del engine.adapters[old]
        return name


def _at_hand(model: Model, spec: str) -> str:
    place = adapter_place(model.spec, spec)
    if not os.path.isdir(place):
        raise ModelError(
            f"On ZeroGPU adapters of the Hub are loaded when the Space starts. Name {spec} in RMX_ADAPTERS."
        )
    return place
