"""The app's settings from the environment; a wrong value is one clear sentence at start."""

import os
from ipaddress import ip_network
from textwrap import wrap
from typing import Annotated, Any, Literal

from huggingface_hub import HfApi
from pydantic import ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rmx.arguments import argument
from rmx.config import ASSETS
from rmx.data.problem_sets import REPOSITORIES
from rmx.errors import RmxError
from rmx.models.site_rules import SiteRules, TrainingMode

Names = Annotated[tuple[str, ...], NoDecode]  # comma separated in the environment
SHORTEST_PASSWORD = 8
# What a public site has where nothing else is said; the fields below hold the values of a private app.
PUBLIC: dict[str, Any] = {
    "training": "mini",
    "max_new_tokens": 1024,
    "max_visitors": 48,
    "per_visitor": 3,
    "per_address": 12,
    "kept_tokens": 60_000,
    "idle_minutes": 60.0,
    "log": "requests",
    "metrics": False,
}


class Settings(BaseSettings):
    """Every field is RMX_<NAME> in the environment; command line options win over it."""

    model_config = SettingsConfigDict(env_prefix="RMX_", extra="ignore", env_ignore_empty=True)

    model: str | None = argument("A model that is offered beside mini and loaded at start; the default of rmx trace.")
    adapter: str | None = argument("An adapter for that model.")
    device: str = argument("auto (CUDA where there is one), cpu, cuda or cuda:N.", default="auto")
    dtype: str = argument("auto (bfloat16 on CUDA, else float32), float32, bfloat16 or float16.", default="auto")
    quantize: str | None = argument("8bit or 4bit: models but mini through bitsandbytes (CUDA only).")
    device_map: str | None = argument("auto: spread models but mini over all GPUs.")
    host: str = argument("The address to listen on; 0.0.0.0 in the image.", default="127.0.0.1")
    port: int = argument("The port; PORT counts where RMX_PORT is not set.", default=7860, ge=0, le=65535)
    hosts: Names = argument(
        "Private: names that the app answers to beside its machine's own, such as gpu.lab.example or *.lab.example.",
        default=(),
    )
    proxies: Names = argument(
        "Public: addresses or networks of proxies whose x-forwarded-for is believed, beside private networks.",
        default=(),
    )
    root_path: str = argument("Where a proxy serves the app below a path, such as /rmx.", default="")
    runs: str | None = argument("The folder of training runs: ./runs, or /data/runs in an image with a volume.")
    auth: str | None = argument("NAME:PASSWORD that every visitor must know.")
    public: bool = argument("Visitors are strangers. On a Space it is on unless it is switched off.", default=False)
    models: Names = argument("Public: further models that visitors may load, separated by commas.", default=())
    sets: Names = argument(
        "Public: problem sets that are fetched from the Hub for visitors, separated by commas; the bundled "
        "ones and those in the Hub's cache are there anyway.",
        default=(),
    )
    adapters: Names = argument(
        "Public: further adapters that visitors may load, beside the bundled ones and those of runs.", default=()
    )
    hub_gb: float = argument(
        "Public: other models and adapters of the Hub up to this size; 0: none.", default=0.0, ge=0, le=1000
    )
    training: TrainingMode = argument("on, mini (quick runs on the bundled model only) or off.", default="on")
    kept_runs: int = argument("Public: runs that are kept of one visitor, the newest.", default=3, ge=1, le=1000)
    max_new_tokens: int = argument("Most tokens that a visitor may ask for.", default=4096, ge=1, le=65536)
    max_visitors: int = argument(
        "Requests that hold or wait for one model; the next is refused (429 on the API).", default=64, ge=1, le=1000
    )
    per_visitor: int = argument("Of those, one visitor's; 0: no limit.", default=0, ge=0, le=1000)
    per_address: int = argument("Public: of those, one network address's; 0: no limit.", default=0, ge=0, le=1000)
    kept_tokens: int = argument(
        "Memory for what visitors keep (solutions, comparisons, evaluations, files), as so many tokens of "
        "4 kB; one visitor's may be a fourth of it.",
        default=400_000,
        ge=100,
    )
    idle_minutes: float = argument(
        "Minutes after which a solution that nobody looks at is forgotten.", default=1440.0, gt=0
    )
    log: Literal["off", "requests"] = argument(
        "requests: one line of JSON per request on stderr (verb, model, tokens, seconds, how it ended); "
        "never a prompt.",
        default="off",
    )
    metrics: bool = argument("Counters for Prometheus at /metrics; the machine's owner always sees them.", default=True)

    @model_validator(mode="before")
    @classmethod
    def _on_a_public_site(cls, given: dict[str, Any]) -> dict[str, Any]:
        given.setdefault("public", bool(os.environ.get("SPACE_ID")))
        public = str(given["public"]).strip().lower() in ("1", "true", "yes", "on", "y", "t")
        return PUBLIC | given if public else given

    @field_validator("hosts", "proxies", "models", "adapters", "sets", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @field_validator("proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            try:
                ip_network(name, strict=False)
            except ValueError:
                raise ValueError("it must be addresses or networks, such as 203.0.113.7 or 2001:db8::/32") from None
        return value

    @field_validator("sets")
    @classmethod
    def _sets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in REPOSITORIES]:
            raise ValueError(f"{unknown[0]} is none of the Hub's sets that rmx knows: {', '.join(REPOSITORIES)}")
        return value

    @field_validator("auth")
    @classmethod
    def _auth(cls, value: str | None) -> str | None:
        name, _, password = (value or "").partition(":")
        if value is not None and (not name or len(password) < SHORTEST_PASSWORD):
            raise ValueError(f"it must be NAME:PASSWORD with {SHORTEST_PASSWORD} or more characters in the password")
        return value

    @field_validator("root_path")
    @classmethod
    def _root(cls, value: str) -> str:
        if value and (not value.startswith("/") or value.endswith("/")):
            raise ValueError("it must begin with a slash and not end with one, such as /rmx")
        return value

    @property
    def policy(self) -> SiteRules:
        """What visitors may ask for."""
        models = dict.fromkeys(("mini", *([self.model] if self.model else []), *self.models))
        adapters = dict.fromkeys((*([self.adapter] if self.adapter else []), *self.adapters))
        kept = self.kept_runs if self.public else 0
        listed = tuple(models), tuple(adapters)
        return SiteRules(self.public, *listed, self.hub_gb, self.training, kept, self.sets, size_of=hub_bytes)

    @classmethod
    def from_environment(cls, **given: Any) -> "Settings":
        """Settings from the environment, with those of `given` that are not None on top.

        Raises:
            RmxError: a value that cannot be used, named with its variable.
        """
        known = {k: v for k, v in given.items() if v is not None}
        if "port" not in known and not os.environ.get("RMX_PORT") and os.environ.get("PORT"):
            known["port"] = os.environ["PORT"]
        try:
            return cls(**known)
        except ValidationError as error:
            first = error.errors()[0]
            name = "RMX_" + "_".join(str(p) for p in first["loc"]).upper()
            # A password is not repeated on a screen or in a log.
            shown = "used" if name == "RMX_AUTH" else f"'{first.get('input')}'"
            why = first["msg"].removeprefix("Value error, ")
            raise RmxError(f"{name} cannot be {shown}: {why}.") from error


def hub_bytes(repo: str, revision: str | None) -> int:
    """Bytes of the safetensors of a model on the Hub, 0 without any; OSError or ValueError where it cannot be asked."""
    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=10, token=False)
    return sum(f.size or 0 for f in info.siblings or [] if f.rfilename.endswith(".safetensors"))


def describe_settings() -> str:
    """Write the environment variables with what they do, one paragraph each, for `rmx serve --help`."""
    lines = ["environment:"]
    for name, field in Settings.model_fields.items():
        usual = "" if field.default in (None, "", ()) else f" Default: {_written(field.default)}."
        if name in PUBLIC:
            usual += f" On a public site: {_written(PUBLIC[name])}."
        text = f"{field.description}{usual}"
        lines += wrap(text, 118, initial_indent=f"  {f'RMX_{name.upper()}':20s} ", subsequent_indent=23 * " ")
    # Then the variables that are read where they are used, and a word about public sites.
    return "\n".join([*lines, (ASSETS / "settings.txt").read_text(encoding="utf-8").removesuffix("\n")])


def _written(value: Any) -> str:
    """A value as it is written in the environment."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
