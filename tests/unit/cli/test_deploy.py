"""A Space: what is sent to the Hub, in which order, what a refusal reads like. The Hub is a recorder."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
from huggingface_hub import HfApi, Volume
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, Response
from huggingface_hub.utils import hf_raise_for_status

from rmx.cli.main import main
from rmx.cli.space import CUDA_TORCH, carry_out, plan, settings, stage, with_thumbnail
from rmx.errors import RmxError

ROOT = Path(__file__).parents[3]
SECRET = "s3cret-value"
TOKEN = "hf_abcdefSECRETghijkl"
# Made once: reading the client's signatures takes a second. Each Hub says anew what its methods do.
API = create_autospec(HfApi, instance=True)


class Hub:
    """The Hub's client with its own signatures: it records calls, holds a Space or none, refuses where told."""

    def __init__(
        self,
        known: bool = False,
        variables: dict[str, str] | None = None,
        volumes: list[Volume] | None = None,
        refuse: dict[str, Exception] | None = None,
    ) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.sent: dict[str, bytes] = {}
        self.api = API
        self.api.endpoint = "https://huggingface.co"
        answers: dict[str, Any] = {
            "whoami": {"name": "me"},
            "repo_exists": known,
            "get_space_variables": {k: SimpleNamespace(value=v) for k, v in (variables or {}).items()},
            "get_space_runtime": SimpleNamespace(volumes=volumes),
        }
        names = "create_repo update_repo_settings add_space_variable add_space_secret create_bucket set_space_volumes"
        for name in (*answers, *names.split(), "request_space_hardware", "upload_folder", "restart_space"):
            effect = self._recorded(name, answers.get(name), (refuse or {}).get(name))
            getattr(self.api, name).side_effect = effect

    def _recorded(self, name: str, answer: Any, error: Exception | None) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.calls.append((name, args, named))
            if error:
                raise error
            if name == "upload_folder":
                folder = Path(named["folder_path"])
                self.sent = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
            return answer

        return call

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]

    def asked(self, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (found,) = [(args, named) for called, args, named in self.calls if called == name]
        return found


def refused(status: int, said: str) -> HfHubHTTPError:
    """What the client raises for such an answer, its request holding a token as the real one does."""
    client = __import__(Response.__module__.partition(".")[0])  # whichever HTTP library the client is built on
    request = client.Request("POST", "https://huggingface.co/api/x", headers={"Authorization": f"Bearer {TOKEN}"})
    answer = Response(status, json={"error": said}, request=request)
    try:
        hf_raise_for_status(answer)
    except HfHubHTTPError as error:
        return error
    raise AssertionError(status)


def done(hub: Hub, **asked: Any) -> list[str]:
    return list(carry_out(plan("me/rmx", **asked), hub.api))


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_a_docker_space_has_what_the_dockerfile_copies():
    paths = {f.path for f in plan("me/rmx").files}
    copied = {
        word.rstrip("/")
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY")
        for word in [w for w in line.split()[1:] if not w.startswith("--")][:-1]
    }
    whole = {"pyproject.toml", "requirements.lock", "README.md", "LICENSE", "rmx", "assets"}
    assert copied == whole | {"assets/space/start"}
    assert {w for w in copied if (ROOT / w).is_file()} | {"Dockerfile", ".dockerignore"} <= paths
    assert {"rmx/cli/main.py", "assets/mini/model.safetensors", "assets/pictures/explore.png"} <= paths
    assert {p.split("/")[0] for p in paths} == {w.split("/")[0] for w in copied} | {"Dockerfile", ".dockerignore"}
    assert not [p for p in paths if "__pycache__" in p or p.endswith((".pyc", ".pyi"))]


def test_the_docker_ignore_file_lets_through_what_is_copied_and_nothing_else():
    allowed = {w[1:] for w in (ROOT / ".dockerignore").read_text().split() if w.startswith("!")}
    assert allowed == {"rmx", "assets", "pyproject.toml", "requirements.lock", "README.md", "LICENSE"}


def test_a_zerogpu_space_has_its_own_readme_and_requirements():
    made = plan("me/rmx", zerogpu=True)
    sources = {f.path: f.source for f in made.files}
    assert sources["README.md"] == ROOT / "assets/space/zerogpu/README.md"
    assert sources["requirements.txt"] == ROOT / "assets/space/zerogpu/requirements.txt"
    assert {"app.py", "rmx/cli/main.py", "assets/mini/config.json"} <= set(sources)
    assert "Dockerfile" not in sources
    assert (made.sdk, made.hardware) == ("gradio", "zero-a10g")


@pytest.mark.parametrize(
    ("hardware", "index"),
    [
        ("cpu-basic", "https://download.pytorch.org/whl/cpu"),
        ("cpu-upgrade", "https://download.pytorch.org/whl/cpu"),
        ("l4x1", "https://pypi.org/simple"),
    ],
)
def test_hardware_chooses_the_torch_that_the_image_is_built_with(hardware, index):
    assert plan("me/rmx", hardware=hardware).variables == {"TORCH_INDEX": index}
    own = plan("me/rmx", hardware=hardware, variables={"TORCH_INDEX": "https://mine"})
    assert own.variables == {"TORCH_INDEX": "https://mine"}


def test_without_hardware_nothing_is_said_about_torch():
    assert plan("me/rmx").variables == {}


def test_a_zerogpu_space_with_storage_is_told_what_lies_there():
    assert plan("me/rmx", zerogpu=True).variables == {}
    assert plan("me/rmx", zerogpu=True, storage="box").variables["RMX_RUNS"] == "/data/runs"


def test_a_bucket_without_an_owner_is_the_spaces_owners():
    assert plan("me/rmx", storage="box").bucket == "me/box"
    assert plan("me/rmx", storage="you/box").bucket == "you/box"


@pytest.mark.parametrize("space", ["rmx", "a/b/c", "me/", "me/r mx", "me/rmx--x", "me/rmx.git", ""])
def test_a_wrong_name_is_refused_before_anything_is_asked(space):
    with pytest.raises(RmxError, match="no name for a Space. Write OWNER/NAME"):
        plan(space)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"hardware": "t4"}, "no hardware 't4'. Did you mean t4-small"),
        ({"hardware": "zzz"}, "no hardware 'zzz'. There are: cpu-basic, "),
        ({"hardware": "zero-a10g"}, "Say --zerogpu instead"),
        ({"hardware": "l4x1", "zerogpu": True}, "leave out --hardware l4x1"),
        ({"storage": "small"}, "no storage 'small' any more"),
        ({"storage": "a b"}, "no name for a storage bucket"),
        ({"variables": {"A-B": "1"}}, "'A-B' is no name for a variable"),
        ({"variables": {"A": "1"}, "secrets": {"A": "2"}}, "A is given as a variable and as a secret"),
        ({"secrets": {"A": ""}}, "The secret A is empty"),
        ({"variables": {"HF_TOKEN": TOKEN}}, "looks like a token"),
    ],
)
def test_what_cannot_be_is_a_sentence(asked, said):
    with pytest.raises(RmxError) as told:
        plan("me/rmx", **asked)
    assert said in str(told.value)
    assert TOKEN not in str(told.value)


def test_an_installed_wheel_says_that_it_lacks_the_files(tmp_path):
    (tmp_path / "rmx").mkdir()
    (tmp_path / "rmx" / "cli.py").write_text("")
    with pytest.raises(RmxError, match="has no assets: an installed rmx lacks these files. Run this in a checkout"):
        plan("me/rmx", root=tmp_path)


def test_leftovers_in_the_checkout_are_not_sent(tmp_path):
    for name in ("LICENSE", "Dockerfile", ".dockerignore", "README.md", "assets/space/start", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "requirements.lock").write_text("x")
    for name in ("rmx/a.py", "rmx/a.pyi", "rmx/__pycache__/a.pyc", "rmx/assets/x", "assets/x", ".env", "runs/r/key"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    paths = [f.path for f in plan("me/rmx", root=tmp_path).files]
    assert [p for p in paths if "/" in p] == ["rmx/a.py", "assets/space/start", "assets/x"]
    assert ".env" not in paths


def test_a_plan_never_shows_a_secret():
    made = plan("me/rmx", secrets={"HF_TOKEN": SECRET})
    assert SECRET not in repr(made)
    assert "set the secret HF_TOKEN (its value is not shown)" in made.steps
    assert not [step for step in made.steps if SECRET in step]


def test_words_become_settings_and_a_secret_may_come_from_the_environment():
    assert settings(["A=1", "B=x=y"], "--env") == {"A": "1", "B": "x=y"}
    assert settings(["A", "B=2"], "--secret", {"A": SECRET}) == {"A": SECRET, "B": "2"}
    with pytest.raises(RmxError, match="--env takes NAME=VALUE; 'A' has no '='"):
        settings(["A"], "--env")
    with pytest.raises(RmxError, match="--secret A: A is not set in the environment"):
        settings(["A"], "--secret", {})


# -- the files as they are laid out -----------------------------------------------------------------------------------


def test_the_readme_names_the_picture_by_its_address_in_the_space(tmp_path):
    made = plan("me/rmx")
    stage(made, tmp_path)
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    head, rest = readme.split("---\n")[1], readme.split("---\n", 2)[2]
    assert "thumbnail: https://huggingface.co/spaces/me/rmx/resolve/main/assets/pictures/explore.png\n" in head
    assert rest == (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    assert (tmp_path / "assets/pictures/explore.png").stat().st_size > 10_000
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == {
        f.path for f in made.files
    }


def test_another_picture_gives_way():
    assert with_thumbnail("---\na: 1\nthumbnail: old\nb: 2\n---\ntext ---\n", "new") == (
        "---\na: 1\nb: 2\nthumbnail: new\n---\ntext ---\n"
    )


# -- carrying it out --------------------------------------------------------------------------------------------------


def test_a_new_space_is_made_set_and_filled_in_that_order():
    hub = Hub()
    lines = done(hub, hardware="t4-small", private=True, variables={"RMX_TAU": "1"}, secrets={"KEY": SECRET})
    assert hub.names == [
        "whoami", "repo_exists", "create_repo", "add_space_variable", "add_space_variable", "add_space_secret",
        "upload_folder",
    ]  # fmt: skip
    assert hub.asked("create_repo") == (
        ("me/rmx",),
        {
            "repo_type": "space",
            "space_sdk": "docker",
            "private": True,
            "space_hardware": "t4-small",
            "exist_ok": True,
        },
    )
    variables = [args for name, args, _ in hub.calls if name == "add_space_variable"]
    assert variables == [("me/rmx", "TORCH_INDEX", "https://pypi.org/simple"), ("me/rmx", "RMX_TAU", "1")]
    assert hub.asked("add_space_secret") == (("me/rmx", "KEY", SECRET), {})
    assert hub.sent.keys() == {f.path for f in plan("me/rmx").files}
    assert hub.sent["Dockerfile"] == (ROOT / "Dockerfile").read_bytes()
    assert not [line for line in lines if SECRET in line]
    assert lines[-1] == f"uploaded {len(hub.sent)} files: https://huggingface.co/spaces/me/rmx"


def test_what_an_update_no_longer_has_is_deleted_there():
    hub = Hub(known=True)
    done(hub)
    _, upload = hub.asked("upload_folder")
    assert (upload["repo_id"], upload["repo_type"]) == ("me/rmx", "space")
    assert upload["delete_patterns"] == ["rmx/*", "assets/*"]
    assert set(upload["allow_patterns"]) == set(hub.sent)


def test_a_space_that_is_there_is_updated_not_made():
    hub = Hub(known=True)
    done(hub)
    assert hub.names == ["whoami", "repo_exists", "get_space_variables", "upload_folder"]


def test_private_hides_a_space_that_is_there():
    hub = Hub(known=True)
    done(hub, private=True)
    assert hub.asked("update_repo_settings") == (("me/rmx",), {"private": True, "repo_type": "space"})


@pytest.mark.parametrize(
    ("built_with", "again"), [({}, True), ({"TORCH_INDEX": "other"}, True), ({"TORCH_INDEX": CUDA_TORCH}, False)]
)
def test_another_torch_needs_another_build(built_with, again):
    hub = Hub(known=True, variables=built_with)
    done(hub, hardware="l4x1")
    assert hub.asked("request_space_hardware") == (("me/rmx", "l4x1"), {})
    assert ("restart_space" in hub.names) is again
    if again:
        assert hub.asked("restart_space") == (("me/rmx",), {"factory_reboot": True})


def test_a_bucket_is_mounted_beside_what_is_there():
    other = Volume(type="model", source="a/model", mount_path="/models")
    hub = Hub(known=True, volumes=[other, Volume(type="bucket", source="me/old", mount_path="/data")])
    done(hub, storage="box")
    assert hub.asked("create_bucket") == (("me/box",), {"private": True, "exist_ok": True})
    (space, volumes), _ = hub.asked("set_space_volumes")
    assert space == "me/rmx"
    assert [(v.source, v.mount_path) for v in volumes] == [("a/model", "/models"), ("me/box", "/data")]


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        ("whoami", LocalTokenNotFoundError("none"), "The Hub needs to know you. Log in (hf auth login)"),
        ("whoami", refused(401, "Invalid user token."), "The Hub does not know this token"),
        ("create_repo", refused(402, "Payment"), "A docker Space needs a PRO or Team plan on the free CPU"),
        ("create_repo", refused(403, "no rights"), "may not write to me/rmx (no rights)"),
        ("create_repo", refused(404, "x"), "The Hub has no place called me/rmx"),
        ("create_repo", refused(400, "Invalid name"), "The Hub refused the Space (400: Invalid name)"),
        ("add_space_secret", refused(400, f"bad {SECRET}"), "bad (secret)"),
        ("upload_folder", refused(429, "slow"), "takes no more requests"),
        ("upload_folder", refused(503, "down"), "a fault of its own right now (503)"),
        ("upload_folder", RuntimeError("Data processing error: xet"), "broke off: Data processing error"),
        ("upload_folder", OfflineModeIsEnabled("offline"), "The Hub cannot be reached (offline)"),
        ("whoami", ConnectionError("no route"), "The Hub cannot be reached (no route)"),
        (
            "upload_folder",
            PermissionError(13, "Permission denied", "README.md"),
            "A file of the Space cannot be read or written (Permission denied: README.md)",
        ),
    ],
)
def test_a_refusal_is_a_sentence_without_secrets(where, error, said):
    hub = Hub(refuse={where: error})
    with pytest.raises(RmxError) as told:
        done(hub, secrets={"KEY": SECRET})
    assert said in str(told.value)
    assert SECRET not in str(told.value)
    assert told.value.__cause__ is None
    assert told.value.__context__ is None


def test_no_network_is_a_sentence_with_the_real_client():
    api = HfApi(endpoint="http://127.0.0.1:9", token=TOKEN)
    with pytest.raises(RmxError, match="The Hub cannot be reached"):
        list(carry_out(plan("me/rmx"), api))


def test_nothing_is_done_for_a_stranger():
    hub = Hub(refuse={"whoami": refused(401, "Invalid user token.")})
    with pytest.raises(RmxError):
        done(hub)
    assert hub.names == ["whoami"]


# -- the verb ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_all_and_needs_neither_token_nor_network(capsys, monkeypatch):
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a dry run asked the Hub")

    monkeypatch.setattr(HfApi, "__init__", never)
    monkeypatch.setenv("KEY", SECRET)
    assert (
        main(["deploy", "--space", "me/rmx", "--hardware", "l4x1", "--secret", "KEY", "--env", "A=b", "--dry-run"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "create or update the Docker Space me/rmx, as visible as it is, or public if it is new",
        "run it on l4x1",
        "set the variable TORCH_INDEX=https://pypi.org/simple",
        "set the variable A=b",
        "set the secret KEY (its value is not shown)",
    ]
    made = plan("me/rmx")
    assert lines[5].startswith(f"upload {len(made.files)} files, {made.bytes / 1e6:.1f} MB")
    assert lines[6:] == [f"  {f.path}" for f in made.files]
    assert SECRET not in "\n".join(lines)


def test_a_dry_run_as_json(capsys):
    assert main(["deploy", "--space", "me/rmx", "--zerogpu", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["space"], told["sdk"], told["dry_run"]) == ("me/rmx", "gradio", True)
    assert {
        "path": "requirements.txt",
        "bytes": (ROOT / "assets/space/zerogpu/requirements.txt").stat().st_size,
    } in told["files"]


def test_the_verb_does_it_and_says_so(capsys, monkeypatch):
    hub = Hub()
    monkeypatch.setattr("rmx.cli.space.HfApi", lambda: hub.api)
    assert main(["deploy", "--space", "me/rmx"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "created the docker Space me/rmx for me"
    assert "upload_folder" in hub.names


def test_a_mistake_is_one_line_and_exit_code_2(capsys):
    assert main(["deploy", "--space", "rmx"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_does_not_wait_for_the_hubs_client():
    code = "import sys\nfrom rmx.cli.main import main\ntry: main(['deploy', '--help'])\n"
    code += "finally: print('huggingface_hub.hf_api' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.splitlines()[-1] == "False", out.stderr
