"""How requests are checked, for the command line, the API and MCP alike, and what all verbs share.

A request is a pydantic model of arguments (rmx/arguments.py). Models, adapters and problem sets that come from outside
are named by presets, Hub ids, bundled names and run ids; a path of this machine is never one of them. No torch here.
"""

import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rmx.arguments import LATER, STRICT, Flag, Most, arguments_of, hints_of, kind_of, refusal, too_long
from rmx.config import MOST_NAME
from rmx.data.problem_files import MAX_ANSWER_CHARS, MAX_PROBLEM_CHARS
from rmx.data.problem_sets import SETS, split_name
from rmx.engine.fair_queue import Kind
from rmx.errors import ModelError, ProblemError, RmxError, SwapError
from rmx.errors import shown as shown
from rmx.models.names import PRESETS, run_adapter, shipped_adapters
from rmx.runs.folder import RunFolder
from rmx.runs.job import TrainJob
from rmx.runs.store import RunStore

if TYPE_CHECKING:
    from rmx.models.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for at most, of the API and of a page alike."""

    max_new_tokens: int = 4096
    problems: int = 200
    samples: int = 256  # of each alternative
    draws: int = 256  # of each problem
    budget: int = 200_000  # tokens
    characters: int = MAX_PROBLEM_CHARS  # of a prompt or a text to read
    answer: int = MAX_ANSWER_CHARS  # characters of a known answer
    name: int = MOST_NAME  # characters of a model's, an adapter's or a set's name, and of one field of a recipe
    swaps: int = 32
    forks: int = 64
    models: int = 5  # adapters, and checkpoints, beside a base


class Request(BaseModel):
    """What is asked of a verb. Its docstring says what the verb does."""

    model_config = ConfigDict(frozen=True, **STRICT)
    kind: ClassVar[Kind] = Kind.MEASURED  # of its turns at a model

    @model_validator(mode="before")
    @classmethod
    def _as_json_has_it(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Null stands for the default, and 3.0 is a whole number."""
        hints = hints_of(cls)
        return {name: _whole(value, hints.get(name)) for name, value in given.items() if value is not None}


Asked = TypeVar("Asked", bound=Request)


def read(verb: type[Asked], given: Mapping[str, Any], called: Callable[[str], str] = str) -> Asked:
    """A request from what somebody has written; `called` says how an argument is called in what is said."""
    try:
        return verb.model_validate(dict(given))
    except ValidationError as error:
        raise RmxError(refusal(verb, error, called)) from None


def check_limits(request: Request, limits: Limits) -> None:
    """Refuse what is more than one request may ask of this site."""
    for name, info in arguments_of(type(request)).items():
        value = getattr(request, name)
        for most in (getattr(limits, mark.limit) for mark in info.metadata if isinstance(mark, Most)):
            if isinstance(value, str):
                short_enough(name, value, most)
            elif isinstance(value, list) and len(value) > most:
                raise RmxError(f"{name} holds {len(value):,} values; {most:,} are the most here.")
            elif isinstance(value, int) and value > most:
                raise RmxError(f"{name} must lie between 1 and {most:,} here; got {value}.")


def count_later(verb: type[Request]) -> int:
    """How many arguments of a verb stand last because they came later."""
    return sum(LATER in field.metadata for field in verb.model_fields.values())


def flag_of(verb: type[Request], name: str) -> Flag:
    """How the command line takes an argument; what was said of it last counts."""
    marks = [mark for mark in verb.model_fields[name].metadata if isinstance(mark, Flag)]
    return marks[-1] if marks else Flag()


def schema_of(verb: type[Request], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """JSON schema of a verb's arguments. None of them is required: which go together is said in a sentence."""
    told = verb.model_json_schema()["properties"]
    properties: dict[str, Any] = {}
    for name, info in arguments_of(verb).items():
        kinds = {k: v for k, v in told[name].items() if k not in ("title", "default")}
        if plain := next((kind for kind in kinds.pop("anyOf", ()) if kind.get("type") != "null"), None):
            kinds = plain | kinds
        default = defaults.get(name, info.default)
        properties[name] = kinds | ({} if default is None else {"default": default})
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _whole(value: Any, hint: Any) -> Any:
    if isinstance(value, list):
        return [_whole(one, hint) for one in value]
    is_whole = isinstance(value, float) and value.is_integer() and kind_of(hint) in (int, list[int])
    return int(value) if is_whole else value


# -- checks of single values ------------------------------------------------------------------------------------------


def short_enough(name: str, text: str | None, most: int) -> str | None:
    """`text`; one that is too long is refused."""
    if text is not None and len(text) > most:
        raise RmxError(too_long(name, text, most))
    return text


def swaps_of(text: str) -> tuple[tuple[int, int], ...]:
    """`"28=879,40=12"` as pairs of position and token id; there is at least one."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found = [re.fullmatch(r"(-?\d{1,9})\s*=\s*(-?\d{1,9})", part, re.ASCII) for part in parts]
    if not parts or not all(found):
        raise SwapError(f"swaps are POSITION=TOKEN_ID, separated by commas, such as 28=879; got {shown(text)}.")
    return tuple((int(m[1]), int(m[2])) for m in found if m)


# -- what all verbs share ---------------------------------------------------------------------------------------------


Document = dict[str, Any] | list[dict[str, Any]]
Cancelled = Callable[[], bool]
INTERVAL = 0.1  # seconds between deltas
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[A-Za-z0-9][\w.-]{0,99})?")


class RunControl(Protocol):
    """What one visitor may do with training runs, within the rules of the site."""

    def start(self, job: TrainJob, dry: bool) -> RunFolder: ...
    def stop(self, run: str) -> None: ...
    def resume(self, run: str, tau: float | None) -> None: ...


def ignore(state: Any) -> None:
    """Hear a state of a long job, and do nothing."""


@dataclass(frozen=True)
class Site:
    """What the verbs work on, and how much one call may ask of it."""

    workspace: "Workspace"
    store: RunStore = field(default_factory=RunStore)
    limits: Limits | None = field(default_factory=Limits)  # None: the command line, which may name any path and amount
    model: str = "mini"  # where a call names none
    keep: bool = False  # what is measured on disk, to go on with
    recalibrate: bool = False  # make the solutions behind a share anew
    runs: RunControl | None = None  # of who asks; None: nobody may start any
    watch: Callable[[Any], None] = ignore  # hears every state of a long job

    def model_name(self, spec: str | None) -> str:
        """The model that is named, by default the site's own."""
        spec = spec or self.model
        if self.limits is None or spec == self.model or spec.partition("@")[0] in PRESETS or _on_the_hub(spec):
            return spec
        raise ModelError(f"There is no model {shown(spec)} here. Name a preset ({', '.join(PRESETS)}) or a Hub id.")

    def adapter_name(self, spec: str | None, model: str | None) -> str | None:
        """The adapter that is named on a model, if any."""
        if not spec or self.limits is None:
            return spec or None
        bundled = shipped_adapters(self.workspace.model(self.model_name(model)).spec)
        if spec in bundled or _on_the_hub(spec) or (len(spec) < 200 and run_adapter(spec) is not None):
            return spec
        known = ", ".join(bundled) or "none is bundled with this model"
        raise ModelError(f"There is no adapter {shown(spec)} here. Bundled: {known}. Or name a run or a Hub id.")

    def set_name(self, name: str) -> str:
        """The problem set that is named."""
        if self.limits is not None and split_name(name)[0] not in SETS:
            raise ProblemError(f"There is no problem set {shown(name)} here. Sets are {', '.join(SETS)}.")
        found = name if self.limits is None else name.strip()
        self.workspace.policy.admit_set(found)
        return found

    def at_most(self, asked: int | None, usual: int, limit: str) -> int:
        """What is asked, else what is usual, or as much of it as this limit allows."""
        if asked is not None:
            return asked
        return usual if self.limits is None else min(usual, getattr(self.limits, limit))

    def last(
        self, states: Iterator[Any], progress: Callable[[Any], dict[str, Any]], interval: float = 5 * INTERVAL
    ) -> Generator[Document, None, Any]:
        """Go through the states of a long job with deltas of its progress; returns the last one."""
        state, due = None, 0.0
        for state in states:
            self.watch(state)
            if time.monotonic() >= due:
                yield {"progress": progress(state)}
                due = time.monotonic() + interval
        return state


def _on_the_hub(spec: str) -> bool:
    """Whether it can only mean a repository of the Hub: no folder of this machine is called so."""
    return bool(HUB_ID.fullmatch(spec)) and not Path(spec).exists() and not Path(spec.partition("@")[0]).exists()


def without(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The document without some of its keys."""
    return {key: value for key, value in document.items() if key not in names}
