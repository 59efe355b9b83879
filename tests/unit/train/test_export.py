"""What leaves: plain PEFT files, the same zip every time, a push whose failures are sentences without the token."""

import io
import json
import logging
import os
import traceback
import zipfile
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch
from huggingface_hub import HfApi, RepoUrl
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, Response
from huggingface_hub.utils import hf_raise_for_status
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from rmx.config import ASSETS
from rmx.errors import TrainError
from rmx.models.adapters import add_adapter
from rmx.models.load import load
from rmx.train.adapter_folder import FILES, BaseFacts, base_of, finish_adapter, provenance, push_adapter, zipped
from tests.unit.train.test_card import COMMIT, DONE, EVENTS, MINI, QWEN, config

TOKEN = "hf_abcdefSECRETghijkl"
IDS = torch.tensor([[5, 6, 7, 8]])


def story(base: BaseFacts = MINI):
    return provenance(config(), EVENTS, base, DONE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """What a trainer leaves: an adapter that changes something, saved by PEFT, with other files beside it."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints" / "step_25"
    base = AutoModelForCausalLM.from_pretrained(ASSETS / "mini", dtype=torch.float32)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["v_proj", "q_proj"], task_type="CAUSAL_LM")
    torch.manual_seed(0)
    model = get_peft_model(base, lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / "adapter_model.safetensors.tmp").write_bytes(b"half")
    (folder / "token").write_text(TOKEN)
    with torch.no_grad():
        torch.save(model.eval()(IDS).logits, folder / "expected.pt")
    return folder


@pytest.fixture
def adapter(checkpoint, tmp_path) -> Path:
    folder = tmp_path / "adapter"
    finish_adapter(folder, story(), checkpoint)
    return folder


def logits_of(folder: Path) -> torch.Tensor:
    base = AutoModelForCausalLM.from_pretrained(ASSETS / "mini", dtype=torch.float32)
    with torch.no_grad():
        return PeftModel.from_pretrained(base, folder).eval()(IDS).logits


# -- files ------------------------------------------------------------------------------------------------------------


def test_plain_peft_loads_it_and_computes_the_same(adapter, checkpoint):
    assert torch.equal(logits_of(adapter), torch.load(checkpoint / "expected.pt"))


def test_rmx_loads_it_by_its_folder(adapter, checkpoint):
    model = load("mini", device="cpu")
    name = add_adapter(model, str(adapter))
    with model.engine.using(name), torch.no_grad():
        assert torch.equal(model.engine.model(IDS).logits, torch.load(checkpoint / "expected.pt"))


def test_only_four_files_are_there(adapter):
    assert sorted(p.name for p in adapter.iterdir()) == sorted(FILES)


def test_it_can_be_finished_where_it_lies(adapter):
    before = (adapter / "adapter_model.safetensors").read_bytes()
    finish_adapter(adapter, story(QWEN))
    assert (adapter / "adapter_model.safetensors").read_bytes() == before
    assert "Qwen2.5" in (adapter / "README.md").read_text()


@pytest.mark.parametrize(
    ("base", "name", "revision"),
    [
        (MINI, "mini", None),
        (QWEN, "Qwen/Qwen2.5-1.5B", COMMIT),
        (BaseFacts("my-model", "local", "sha256:12", None, "float32"), "my-model", None),
        (BaseFacts("org/x", "hub", "unknown", None, "float32"), "org/x", None),
    ],
)
def test_the_config_names_a_base_that_means_something_elsewhere(checkpoint, tmp_path, base, name, revision):
    finish_adapter(tmp_path / "a", story(base), checkpoint)
    found = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (found["base_model_name_or_path"], found["revision"]) == (name, revision)
    assert found["target_modules"] == ["q_proj", "v_proj"]
    assert found["inference_mode"] is True


def test_training_json_holds_recipe_run_and_figures(adapter):
    found = json.loads((adapter / "training.json").read_text())
    assert found["run"] == config()["id"]
    assert found["recipe"]["targets"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert found["checks"][1] == {
        "split": "test", "before": DONE["before"], "after": DONE["after"], "vs_base": DONE["vs_base"],
    }  # fmt: skip
    assert found["parameters"] == 4 * 2 * (4 * (128 + 128))  # four layers, two matrices each, A and B of rank 4
    assert found["adapter"].startswith("sha256:")


def test_no_file_names_a_place_on_this_machine(checkpoint, tmp_path):
    model = load(str(ASSETS / "mini"), device="cpu")  # the same weights, as a local folder
    finish_adapter(tmp_path / "a", story(base_of(model)), checkpoint)
    for file in FILES:
        assert str(ASSETS).encode() not in (tmp_path / "a" / file).read_bytes()
        assert str(tmp_path).encode() not in (tmp_path / "a" / file).read_bytes()


def test_a_checkpoint_without_weights_is_a_sentence(tmp_path):
    with pytest.raises(TrainError, match="cannot be finished"):
        finish_adapter(tmp_path / "a", story(), tmp_path)
    assert not (tmp_path / "a" / "README.md").exists()


# -- zip --------------------------------------------------------------------------------------------------------------


def test_the_zip_is_the_same_whenever_and_wherever_it_is_made(adapter, tmp_path):
    first = zipped(adapter, "run-1")
    for file in adapter.iterdir():
        os.utime(file, (1e9, 1e9))
        file.chmod(0o600)
    assert zipped(adapter, "run-1") == first


def test_only_the_known_files_get_into_it(adapter, tmp_path):
    (adapter / "token").write_text(TOKEN)
    (adapter / "run.lock").write_text("")
    (adapter / "README.md.part").write_text("half")
    data = zipped(adapter, "run-1")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == [f"run-1/{file}" for file in FILES]
        assert archive.testzip() is None
        archive.extractall(tmp_path / "out")
    assert TOKEN.encode() not in data
    assert torch.equal(logits_of(tmp_path / "out" / "run-1"), logits_of(adapter))


@pytest.mark.parametrize("name", ["../../etc", "/etc", "a b", "..", ""])
def test_the_folder_in_it_stays_inside(adapter, name):
    with zipfile.ZipFile(io.BytesIO(zipped(adapter, name))) as archive:
        for entry in archive.namelist():
            top, _, file = entry.partition("/")
            assert top.strip(".")
            assert file in FILES


@pytest.mark.parametrize("file", FILES)
def test_an_unfinished_adapter_is_not_zipped(adapter, file):
    (adapter / file).unlink()
    with pytest.raises(TrainError, match=f"{file} is missing"):
        zipped(adapter)


def test_a_link_to_elsewhere_is_not_followed(adapter, tmp_path):
    (tmp_path / "secret").write_text(TOKEN)
    (adapter / "training.json").unlink()
    (adapter / "training.json").symlink_to(tmp_path / "secret")
    with pytest.raises(TrainError, match=r"training\.json is missing"):
        zipped(adapter)


# -- the Hub ----------------------------------------------------------------------------------------------------------


def hub(**refusals) -> HfApi:
    """A Hub that accepts everything but what it is told to refuse; calls must fit the real client's signatures."""
    api = create_autospec(HfApi, instance=True)
    api.create_repo.return_value = RepoUrl("https://huggingface.co/ann/skill")
    for call, error in refusals.items():
        getattr(api, call).side_effect = error
    return api


def recorded(status: int, said: str, path: str = "repos/create", code: str | None = None) -> HfHubHTTPError:
    """The error that the client raises over an answer as the Hub has given it; the request holds the token."""
    client = __import__(Response.__module__.partition(".")[0])  # whichever HTTP library the client is built on
    request = client.Request("POST", f"https://huggingface.co/api/{path}", headers={"authorization": f"Bearer {TOKEN}"})
    headers = {"x-request-id": "Root=1-65f6cc9c-142137a0", "x-error-message": said}
    if code:
        headers["x-error-code"] = code
    answer = Response(status, headers=headers, json={"error": said}, request=request)
    try:
        hf_raise_for_status(answer)
    except HfHubHTTPError as error:
        return error
    raise AssertionError(f"{status} is no error")


def test_a_push_makes_the_repository_and_sends_the_four_files(adapter):
    api = hub()
    assert push_adapter(adapter, " ann/skill ", TOKEN + "\n", api=api) == "https://huggingface.co/ann/skill"
    made, sent = api.create_repo.call_args, api.upload_folder.call_args.kwargs
    assert made.args == ("ann/skill",)
    assert made.kwargs == {"private": True, "repo_type": "model", "exist_ok": False, "token": TOKEN}
    assert sent["repo_id"] == "ann/skill"
    assert sent["allow_patterns"] == list(FILES)
    assert sent["token"] == TOKEN


def test_a_public_one_and_an_update_are_asked_for(adapter):
    api = hub()
    push_adapter(adapter, "skill", TOKEN, private=False, update=True, api=api)
    assert api.create_repo.call_args.kwargs["private"] is False
    assert api.create_repo.call_args.kwargs["exist_ok"] is True
    assert api.upload_folder.call_args.kwargs["repo_id"] == "ann/skill"  # as the Hub calls it


def connect_error() -> Exception:
    client = __import__(Response.__module__.partition(".")[0])
    return client.ConnectError("[Errno -3] Temporary failure in name resolution")


REFUSALS = {
    "unknown token": (lambda: recorded(401, "Invalid username or password."), "does not know this token"),
    "no right": (
        lambda: recorded(403, 'You don\'t have the rights to create a model under the namespace "ann"'),
        'may not write to ann/skill .*rights to create a model under the namespace "ann"',
    ),
    "taken": (lambda: recorded(409, "You already created this model repo"), "exists already. Choose another name"),
    "no such owner": (lambda: recorded(404, "Repository not found", code="RepoNotFound"), "no place called ann/skill"),
    "too many": (lambda: recorded(429, "We had to rate limit you"), "no more requests from here"),
    "fault": (lambda: recorded(503, "Service unavailable"), "fault of its own"),
    "other": (lambda: recorded(418, "teapot"), r"refused the adapter \(418: teapot\)"),
    "switched off": (lambda: OfflineModeIsEnabled("offline mode is enabled"), "cannot be reached"),
    "no network": (connect_error, "cannot be reached"),
    "card": (lambda: ValueError("Invalid metadata in README.md.\n- license"), "refused the adapter: Invalid metadata"),
    "broken off": (lambda: RuntimeError("Data processing error: xet"), "broke off: Data processing error"),
    "disk": (lambda: PermissionError(13, "denied"), "A file of the adapter cannot be read"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSALS)
@pytest.mark.parametrize("call", ["create_repo", "upload_folder"])
def test_every_refusal_is_a_sentence(adapter, what, call):
    make, said = REFUSALS[what]
    with pytest.raises(TrainError, match=said) as caught:
        push_adapter(adapter, "ann/skill", TOKEN, api=hub(**{call: make()}))
    assert ("lacks files" in str(caught.value)) == (call == "upload_folder")


def test_the_token_is_in_no_error_and_nothing_that_it_refers_to(adapter, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    error = recorded(403, f"Bearer {TOKEN} may not write")  # a server that repeats what it was sent
    with pytest.raises(TrainError) as caught:
        push_adapter(adapter, "ann/skill", TOKEN, api=hub(create_repo=error))
    assert TOKEN in error.response.request.headers["authorization"]  # so there was something to leak
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    shown = "".join(traceback.format_exception(caught.value))
    out = capsys.readouterr()
    assert not any(TOKEN in text for text in (shown, caplog.text, out.out, out.err, str(caught.value)))
    assert not any(TOKEN.encode() in path.read_bytes() for path in adapter.iterdir())


@pytest.mark.parametrize("token", ["", "  ", "hf_a b", "hf_ä", "hf_a\nX-Evil: 1"])
def test_a_token_that_cannot_be_one_never_reaches_the_client(adapter, token):
    api = hub()
    with pytest.raises(TrainError, match="token") as caught:
        push_adapter(adapter, "ann/skill", token, api=api)
    assert not api.create_repo.called  # without a token the client would take the machine's own
    assert not token.strip() or token not in str(caught.value)


def test_a_name_that_is_none_is_refused_by_the_real_client(adapter):
    with pytest.raises(TrainError, match="no name for a repository"):
        push_adapter(adapter, "a/b/c", TOKEN)


def test_the_real_client_offline_is_a_sentence(adapter):
    with pytest.raises(TrainError, match="cannot be reached"):
        push_adapter(adapter, "ann/skill", TOKEN)


def test_an_unfinished_adapter_is_not_pushed(adapter):
    (adapter / "README.md").unlink()
    api = hub()
    with pytest.raises(TrainError, match=r"README\.md is missing"):
        push_adapter(adapter, "ann/skill", TOKEN, api=api)
    assert not api.create_repo.called
