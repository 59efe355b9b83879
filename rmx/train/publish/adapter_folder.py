"""Make a trained adapter ready to leave: plain PEFT files with a card, a zip of them, a push to the Hub.

Only the four files named in `FILES` ever leave, whatever else lies in the folder. A visitor's token is used for the two
calls to the Hub and is nowhere else: not in a log, not in a file, not in an error or what an error refers to.
"""

import io
import json
import math
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open

from rmx.errors import TrainError, first_line
from rmx.models.load import fingerprint
from rmx.storage.hub_errors import FAILURES, TOKENS, Upload, upload_sentence
from rmx.train.publish.adapter_card import adapter_card
from rmx.train.publish.provenance import Provenance

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
CARD, TRAINING = "README.md", "training.json"
FILES = (CARD, CONFIG, WEIGHTS, TRAINING)

_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can hold
_TOKEN = re.compile(r"[\x21-\x7e]+")


def finish_adapter(folder: Path, story: Provenance, checkpoint: Path | None = None) -> None:
    """Put into `folder` what plain `PeftModel.from_pretrained` loads, with the card and `training.json` beside it."""
    source = checkpoint or folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parameters = _count(source / WEIGHTS)
        config = _config(source / CONFIG, story)
        if source != folder:
            part = folder / f"{WEIGHTS}.part"
            shutil.copyfile(source / WEIGHTS, part)
            part.replace(folder / WEIGHTS)
        _write(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        about = story.json() | {"adapter": fingerprint(folder), "parameters": parameters}
        _write(folder / TRAINING, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        _write(folder / CARD, adapter_card(story, parameters))
    except (OSError, ValueError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise TrainError(f"The adapter in {source.name} cannot be finished ({reason}). Resume the run.") from error


def _count(weights: Path) -> int:
    with safe_open(weights, framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - not a dict


def _config(path: Path, story: Provenance) -> dict[str, Any]:
    """PEFT's config with a base that means something elsewhere, and with its sets in a fixed order."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    base = story.base
    config["base_model_name_or_path"] = base.name
    config["revision"] = base.revision if base.origin == "hub" and base.revision != "unknown" else None
    config["inference_mode"] = True
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    return config


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def zipped(folder: Path, name: str = "adapter") -> bytes:
    """A zip with a finished adapter in a folder `name`; the same files always make the same bytes."""
    whole_adapter(folder)
    out, place = io.BytesIO(), re.sub(r"[^\w.-]+", "-", name).strip(".-") or "adapter"
    with zipfile.ZipFile(out, "w") as archive:
        for file in FILES:
            entry = zipfile.ZipInfo(f"{place}/{file}", _LONG_AGO)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # as made on Unix, wherever it is made
            # Weights do not shrink; storing them also keeps the bytes apart from the version of zlib.
            entry.compress_type = zipfile.ZIP_STORED
            with (folder / file).open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return out.getvalue()


def whole_adapter(folder: Path) -> None:
    """Make sure that all four files are there, are files, and are whole."""
    for file in FILES:
        path = folder / file
        if path.is_symlink() or not path.is_file():
            raise TrainError(f"There is no finished adapter here yet: {file} is missing. Let the run end first.")
    try:
        _count(folder / WEIGHTS)
        if not isinstance(json.loads((folder / CONFIG).read_text(encoding="utf-8")), dict):
            raise ValueError(f"{CONFIG} is no JSON object")
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise TrainError(f"The adapter's files are damaged ({first_line(error)}). Train it again.") from error


def push_adapter(
    folder: Path, repo: str, token: str, private: bool = True, update: bool = False, api: HfApi | None = None
) -> str:
    """Upload a finished adapter as a model of its own; returns its address."""
    whole_adapter(folder)
    token, repo = token.strip(), repo.strip()
    if not token:  # the client would then use the machine's own
        raise TrainError(f"Pushing needs a token of your own with the right to write: {TOKENS}.")
    if not _TOKEN.fullmatch(token):
        raise TrainError("That is not a token: it has spaces or other characters in it. Copy it again.")
    api = api or HfApi(token=token)
    failure: Exception
    made = None
    try:
        made = api.create_repo(repo, private=private, repo_type="model", exist_ok=update, token=token)
        about: dict[str, Any] = {"commit_message": "Adapter trained with rmx", "allow_patterns": list(FILES)}
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, repo_type="model", token=token, **about)
        return str(made)
    except FAILURES as error:
        failure = error
    # Raised out here, so that nothing refers to the request that failed: its headers hold the token.
    offline = "Check the network, or download the zip and push it from elsewhere."
    said = upload_sentence(failure, Upload("the adapter", repo, offline=offline)) + (
        "" if made is None else f" {repo} is there now and lacks files: push to it again."
    )
    raise TrainError(said.replace(token, "(token)"))
