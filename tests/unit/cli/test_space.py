"""The front matter of the two kinds of Space, against the Hub's documented keys, and what has to agree with it."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from huggingface_hub import SpaceHardware
from packaging.requirements import Requirement

from rmx.cli.space import THUMBNAIL

ROOT = Path(__file__).parents[3]
DOCKER, ZEROGPU = ROOT / "README.md", ROOT / "assets/space/zerogpu" / "README.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")

# huggingface.co/docs/hub/spaces-config-reference, with the keys of Space cards that the Hub reads of any repository.
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
KEYS = {
    "title": str, "emoji": str, "colorFrom": str, "colorTo": str, "sdk": str, "python_version": str, "sdk_version": str,
    "suggested_hardware": str, "suggested_storage": str, "app_file": str, "app_build_command": str, "app_port": int,
    "base_path": str, "fullWidth": bool, "header": str, "short_description": str, "models": list, "datasets": list,
    "tags": list, "thumbnail": str, "pinned": bool, "hf_oauth": bool, "hf_oauth_scopes": list,
    "hf_oauth_expiration_minutes": int, "hf_oauth_authorized_org": str, "disable_embedding": bool,
    "startup_duration_timeout": str, "custom_headers": dict, "preload_from_hub": list, "license": str,
}  # fmt: skip


def front_matter(path: Path) -> dict:
    start, head, _ = path.read_text(encoding="utf-8").split("---\n", 2)
    assert start == ""
    return yaml.safe_load(head)


@pytest.mark.parametrize("path", [DOCKER, ZEROGPU], ids=["docker", "zerogpu"])
def test_the_front_matter_has_documented_keys_and_values(path):
    matter = front_matter(path)
    assert {name: type(value) for name, value in matter.items()} == {name: KEYS[name] for name in matter}
    assert {matter["colorFrom"], matter["colorTo"]} <= COLOURS
    assert matter["header"] in ("mini", "default")
    assert matter["license"] == PROJECT["license"].lower()
    assert 10 < len(matter["short_description"]) <= 60  # the Hub refuses longer ones
    assert matter["suggested_hardware"] in [h.value for h in SpaceHardware]
    # Fetching gigabytes at each build is the operator's choice; the Hub ignores suggested_storage by now.
    assert not {"preload_from_hub", "suggested_storage"} & matter.keys()


def test_the_docker_space_asks_the_port_that_the_image_serves():
    matter = front_matter(DOCKER)
    assert matter["sdk"] == "docker"
    assert re.findall(r"^EXPOSE (\d+)", DOCKERFILE, re.M) == [str(matter["app_port"])]
    assert f"or {matter['app_port']}}}/health" in DOCKERFILE


def test_the_image_runs_as_1000_and_its_base_and_torch_can_be_named():
    assert re.findall(r"^USER (.+)", DOCKERFILE, re.M)[-1] == "1000"
    assert "useradd --uid 1000" in DOCKERFILE
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", DOCKERFILE, re.M))
    assert arguments["BASE"].startswith("docker.io/library/python:3.11-slim")
    assert arguments["TORCH_INDEX"] == "https://download.pytorch.org/whl/cpu"
    assert DOCKERFILE.split("\nFROM ")[1].startswith("${BASE}\n")
    assert "--mount=type=secret" not in DOCKERFILE
    assert not re.search(r"token|password|secret", DOCKERFILE, re.I)


def test_the_zerogpu_space_runs_the_gradio_that_is_pinned_and_a_python_that_rmx_has():
    matter = front_matter(ZEROGPU)
    assert (matter["sdk"], matter["suggested_hardware"]) == ("gradio", "zero-a10g")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert f"gradio=={matter['sdk_version']}" in pins
    assert tuple(map(int, matter["python_version"].split("."))) >= (3, 11)
    assert (ZEROGPU.parent / matter["app_file"]).is_file()


def test_the_zerogpu_space_installs_what_the_package_asks_for():
    lines = (ZEROGPU.parent / "requirements.txt").read_text(encoding="utf-8").splitlines()
    here = {Requirement(line).name: str(Requirement(line).specifier) for line in lines if line[:1] != "#"}
    extras = PROJECT["optional-dependencies"]
    asked = map(Requirement, [*PROJECT["dependencies"], *extras["gguf"], *extras["mcp"], *extras.get("zerogpu", [])])
    wanted = {r.name: str(r.specifier) for r in asked if r.name not in ("gradio", "spaces")}
    assert here.pop("spaces")
    assert here == wanted


def test_the_picture_is_there():
    assert (ROOT / THUMBNAIL).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


# -- the image's entry point -------------------------------------------------------------------------------------------

SHOWN = 'echo "$HF_HOME $RMX_CACHE $RMX_RUNS" "$@"'


def start(data: Path, user: int | None = None, **environment: str) -> str:
    script = (ROOT / "assets/space/start").read_text(encoding="utf-8")
    command = ["/bin/sh", "-c", script, "start", "/bin/sh", "-c", SHOWN, "sh", "a b"]
    env = {"PATH": "/usr/bin:/bin", "RMX_DATA": str(data), **environment}
    return subprocess.run(command, env=env, user=user, capture_output=True, text=True, check=True).stdout.strip()


def test_what_has_to_last_goes_to_the_volume(tmp_path):
    assert start(tmp_path) == f"{tmp_path}/huggingface {tmp_path}/cache {tmp_path}/runs a b"


def test_a_place_that_is_named_wins(tmp_path):
    assert start(tmp_path, RMX_RUNS="/r") == f"{tmp_path}/huggingface {tmp_path}/cache /r a b"


def test_without_a_volume_the_home_folder_serves(tmp_path):
    assert start(tmp_path / "none") == "a b"


def test_a_volume_that_cannot_be_written_is_left_alone():
    anybody = 65534 if os.geteuid() == 0 else None
    assert start(Path("/usr"), user=anybody) == "a b"
