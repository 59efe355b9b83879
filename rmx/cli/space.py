"""What `rmx deploy` does: a checkout becomes a Space of the Hugging Face Hub.

A Space's files and settings are decided before anything is sent, then carried out with the Hub's client; what the Hub
says against it becomes a sentence.
"""

import difflib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, SpaceHardware, Volume
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from rmx.config import PACKAGE
from rmx.errors import RmxError
from rmx.storage.hub import FAILURES, Upload, upload_sentence

# What the two kinds of Space are built from: pattern in the checkout -> the folder that its names lose in the Space.
_BOTH = {"rmx/**/*": "", "assets/**/*": "", "LICENSE": ""}
_DOCKER = {**_BOTH, "Dockerfile": "", ".dockerignore": "", "README.md": ""}
_DOCKER |= {"pyproject.toml": "", "requirements.lock": ""}
_ZEROGPU = {**_BOTH, "assets/space/zerogpu/*": "assets/space/zerogpu/"}
_LEFT_OUT = ("__pycache__", ".pyc", ".pyi")

THUMBNAIL = "assets/pictures/explore.png"
ZEROGPU = "zero-a10g"  # the Hub's name for ZeroGPU, whatever the cards behind it are
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
CUDA_TORCH = "https://pypi.org/simple"
_BUILD_VARIABLE = "TORCH_INDEX"
KEPT = {"HF_HOME": "/data/huggingface", "RMX_CACHE": "/data/cache", "RMX_RUNS": "/data/runs"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r"hf_\w{8,}")


@dataclass(frozen=True, slots=True)
class SpaceFile:
    """One file of a Space."""

    path: str  # in the Space
    source: Path
    bytes: int


@dataclass(frozen=True, slots=True)
class SpacePlan:
    """All that `carry_out` will do. Values of secrets are not in its repr."""

    space: str  # OWNER/NAME
    sdk: Literal["docker", "gradio"]
    files: tuple[SpaceFile, ...]
    private: bool = False
    hardware: str | None = None  # None: what the Space has, or the free CPU
    bucket: str | None = None  # OWNER/NAME of the storage bucket mounted on /data
    variables: Mapping[str, str] = field(default_factory=dict)  # public
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def bytes(self) -> int:
        return sum(f.bytes for f in self.files)

    @property
    def steps(self) -> tuple[str, ...]:
        """What will be done, in its order; no secret's value."""
        kind = "Docker" if self.sdk == "docker" else "Gradio (ZeroGPU)"
        seen = "private" if self.private else "as visible as it is, or public if it is new"
        return (
            f"create or update the {kind} Space {self.space}, {seen}",
            *([f"run it on {self.hardware}"] if self.hardware else []),
            *(f"set the variable {name}={value}" for name, value in self.variables.items()),
            *(f"set the secret {name} (its value is not shown)" for name in self.secrets),
            *([f"mount the storage bucket {self.bucket} on /data, made if it is not there"] if self.bucket else []),
            f"upload {len(self.files)} files, {self.bytes / 1e6:.1f} MB; of rmx/ and assets/ nothing else stays there",
        )


def plan(
    space: str,
    hardware: str | None = None,
    storage: str | None = None,
    private: bool = False,
    zerogpu: bool = False,
    variables: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
    root: Path | None = None,
) -> SpacePlan:
    """What it takes to bring this checkout to a Space, or RmxError; asks nobody.

    Args:
        hardware: a name of the Hub, such as cpu-upgrade or l4x1.
        storage: the bucket to be mounted on /data, OWNER/NAME, or NAME of the Space's owner.
        root: the checkout; None: the one that this package lies in.
    """
    space, hardware = _space_name(space), _hardware(hardware, zerogpu)
    given, hidden = dict(variables or {}), dict(secrets or {})
    _check_settings(given, hidden)
    bucket = storage and _bucket(storage, space)
    files = tuple(_files(root or PACKAGE.parent, _ZEROGPU if zerogpu else _DOCKER))
    # What the Space needs beside: where things lie on /data, or the torch of a Docker image.
    own = KEPT if zerogpu and bucket else {}
    if hardware and not zerogpu:
        own = {_BUILD_VARIABLE: CPU_TORCH if hardware.startswith("cpu-") else CUDA_TORCH}
    sdk: Literal["docker", "gradio"] = "gradio" if zerogpu else "docker"
    return SpacePlan(space, sdk, files, private, hardware, bucket, own | given, hidden)


def _space_name(space: str) -> str:
    space = space.strip().removeprefix("https://huggingface.co/spaces/").strip("/")
    try:
        validate_repo_id(space)
        good = space.count("/") == 1
    except HFValidationError:
        good = False
    if not good:
        raise RmxError(f"'{space}' is no name for a Space. Write OWNER/NAME in letters, digits, '-', '_' and '.'.")
    return space


def _hardware(asked: str | None, zerogpu: bool) -> str | None:
    names = [str(h.value) for h in SpaceHardware]
    if asked is not None and asked not in names:
        near = difflib.get_close_matches(asked, names, n=3, cutoff=0.4)
        meant = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(names)}."
        raise RmxError(f"The Hub has no hardware '{asked}'. {meant}")
    if zerogpu and asked not in (None, ZEROGPU):
        raise RmxError(f"--zerogpu is a kind of hardware itself: leave out --hardware {asked}, or leave out --zerogpu.")
    if asked == ZEROGPU and not zerogpu:
        raise RmxError("ZeroGPU serves Gradio Spaces only, not Docker ones. Say --zerogpu instead.")
    return ZEROGPU if zerogpu else asked


def _bucket(storage: str, space: str) -> str:
    if storage in ("small", "medium", "large"):
        raise RmxError(
            f"The Hub has no storage '{storage}' any more: it mounts storage buckets. Name one: --storage rmx-data."
        )
    try:
        return _space_name(storage if "/" in storage else f"{space.partition('/')[0]}/{storage}")
    except RmxError:
        raise RmxError(f"'{storage}' is no name for a storage bucket. Write NAME or OWNER/NAME.") from None


def _check_settings(variables: Mapping[str, str], secrets: Mapping[str, str]) -> None:
    for name in (*variables, *secrets):
        if not _NAME.fullmatch(name):
            raise RmxError(f"'{name}' is no name for a variable. Use letters, digits and '_'.")
    for name in secrets:
        if name in variables:
            raise RmxError(f"{name} is given as a variable and as a secret. Choose one.")
        if not secrets[name]:
            raise RmxError(f"The secret {name} is empty. Give it as {name}=VALUE, or set {name} in the environment.")
    for name, value in variables.items():
        if _TOKEN.search(value):
            raise RmxError(
                f"The value of {name} looks like a token, and everybody can read variables. Use --secret {name}."
            )


def _files(root: Path, patterns: Mapping[str, str]) -> Iterator[SpaceFile]:
    """What the patterns find; raises RmxError where one finds nothing, as in an installed wheel."""
    for pattern, within in patterns.items():
        found = sorted(p for p in root.glob(pattern) if p.is_file() and not _made(p, root))
        if not found:
            raise RmxError(
                f"A Space is built from the repository, and {root} has no {pattern.partition('*')[0].rstrip('/')}: an "
                "installed rmx lacks these files. Run this in a checkout: python -m rmx deploy …"
            )
        for path in found:
            yield SpaceFile(path.relative_to(root).as_posix().removeprefix(within), path, path.stat().st_size)


def _made(path: Path, root: Path) -> bool:
    inside = path.relative_to(root)
    # A wheel that is built in place leaves a copy of the assets in the package.
    return path.name.endswith(_LEFT_OUT) or "__pycache__" in inside.parts or inside.parts[:2] == ("rmx", "assets")


def stage(plan: SpacePlan, folder: Path, endpoint: str = "https://huggingface.co") -> None:
    """Lay the files out as the Space will have them; its README names the picture by the address it will have."""
    for file in plan.files:
        place = folder / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        content = file.source.read_bytes()
        if file.path == "README.md":
            address = f"{endpoint}/spaces/{plan.space}/resolve/main/{THUMBNAIL}"
            content = with_thumbnail(content.decode("utf-8"), address).encode("utf-8")
        place.write_bytes(content)


def with_thumbnail(readme: str, address: str) -> str:
    """A README whose front matter names this picture, in place of another or as its last line."""
    start, head, rest = readme.split("---\n", 2)
    lines = [line for line in head.splitlines() if not line.startswith("thumbnail:")]
    return "---\n".join([start, "\n".join([*lines, f"thumbnail: {address}", ""]), rest])


def settings(words: Iterable[str], option: str, environment: Mapping[str, Any] | None = None) -> dict[str, str]:
    """NAME=VALUE words as a mapping, or RmxError; with an environment, NAME alone is looked up there.

    A secret's value is never repeated.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals:
            found[name] = value
        elif environment is None:
            raise RmxError(f"{option} takes NAME=VALUE; '{word}' has no '='.")
        elif name in environment:
            found[name] = str(environment[name])
        else:
            raise RmxError(f"{option} {name}: {name} is not set in the environment. Set it, or write {name}=VALUE.")
    return found


# -- carried out with the Hub's client ------------------------------------------------------------


def carry_out(plan: SpacePlan, api: HfApi | None = None) -> Iterator[str]:
    """Bring the plan to the Hub; yields a line for each thing done. Done again, it changes nothing that is so already.

    Settings come before the files: the upload starts the build, which reads them. Raises RmxError without any secret.
    """
    api = api or HfApi()
    try:
        yield from _carried_out(plan, api)
        return
    except FAILURES as error:
        said = _sentence(error, plan)
    # Raised out here, so that nothing refers to the request that failed: its headers hold the token.
    for value in sorted(plan.secrets.values(), key=len, reverse=True):
        said = said.replace(value, "(secret)")
    raise RmxError(said)


def _carried_out(plan: SpacePlan, api: HfApi) -> Iterator[str]:
    who = api.whoami()["name"]
    known = api.repo_exists(plan.space, repo_type="space")
    if known:
        yield f"{plan.space} is there; {who} updates it"
        if plan.private:
            api.update_repo_settings(plan.space, private=True, repo_type="space")
            yield "made it private"
    else:
        made: dict[str, Any] = {"space_sdk": plan.sdk, "space_hardware": plan.hardware}
        api.create_repo(plan.space, repo_type="space", private=plan.private or None, exist_ok=True, **made)
        yield f"created the {plan.sdk} Space {plan.space} for {who}"
    stale = known and _builds_otherwise(plan, api)
    for name, value in plan.variables.items():
        api.add_space_variable(plan.space, name, value)
        yield f"set the variable {name}"
    for name, value in plan.secrets.items():
        api.add_space_secret(plan.space, name, value)
        yield f"set the secret {name}"
    if plan.bucket:
        _mount(plan.space, plan.bucket, api)
        yield f"mounted {plan.bucket} on /data"
    if known and plan.hardware:
        api.request_space_hardware(plan.space, plan.hardware)  # type: ignore[arg-type]
        yield f"asked for {plan.hardware}"
    yield f"uploaded {len(plan.files)} files: {_upload(plan, api)}"
    if stale:
        # A commit without a change starts no build, and the image's torch has to be another one.
        api.restart_space(plan.space, factory_reboot=True)
        yield "asked for a new build"


def _builds_otherwise(plan: SpacePlan, api: HfApi) -> bool:
    """Whether a Space that is there was built with another torch than the plan asks for."""
    wanted = plan.variables.get(_BUILD_VARIABLE)
    have = api.get_space_variables(plan.space).get(_BUILD_VARIABLE)
    return wanted is not None and (have is None or have.value != wanted)


def _mount(space: str, bucket: str, api: HfApi) -> None:
    """The bucket on /data, beside what else the Space has mounted."""
    api.create_bucket(bucket, private=True, exist_ok=True)
    others = [v for v in api.get_space_runtime(space).volumes or [] if v.mount_path != "/data"]
    api.set_space_volumes(space, [*others, Volume(type="bucket", source=bucket, mount_path="/data")])


def _upload(plan: SpacePlan, api: HfApi) -> str:
    with tempfile.TemporaryDirectory(prefix="rmx-space-") as folder:
        stage(plan, Path(folder), api.endpoint)
        # What an earlier version had and this one has not would be imported all the same.
        what: dict[str, Any] = {
            "allow_patterns": [file.path for file in plan.files],
            "delete_patterns": ["rmx/*", "assets/*"],
        }
        api.upload_folder(repo_id=plan.space, repo_type="space", folder_path=folder, commit_message="rmx", **what)
    return f"{api.endpoint}/spaces/{plan.space}"


def _sentence(error: Exception, plan: SpacePlan) -> str:
    """What stood against it, and what to do."""
    owner, such_as = plan.space.partition("/")[0], f" such as {plan.hardware}" if plan.hardware else ""
    upload = Upload(
        what="the Space",
        place=plan.space,
        sign_in=f"Log in (hf auth login), or set HF_TOKEN to one that may write to {owner}.",
        again="Run this again",
        offline="Check the network, HF_ENDPOINT and HF_HUB_OFFLINE, and run this again: what is done stays done.",
        price=f"A {plan.sdk} Space needs a PRO or Team plan on the free CPU, and billing on other hardware{such_as}.",
    )
    return upload_sentence(error, upload)
