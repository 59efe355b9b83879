"""Specs that cannot be loaded say why; what loads behaves."""

import json
import shutil
import threading
import time

import gguf
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import rmx.models.load
from rmx.errors import ModelError, PromptError
from rmx.models.adapters import add_adapter
from rmx.models.load import dequantised, fingerprint, gguf_read_once, load
from rmx.models.stand_ins import byte_tokenizer
from rmx.models.workspace import Workspace
from tests.conftest import qwen, wrap


@pytest.fixture
def folder(tmp_path):
    """A loadable local model."""
    path = tmp_path / "model"
    qwen().save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def adapter(tmp_path):
    path = tmp_path / "adapter"
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(qwen(), config).save_pretrained(path)
    return path


def refused(call, *args) -> str:
    with pytest.raises(ModelError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_a_local_folder_loads_with_its_content_as_revision(folder):
    model = load(str(folder), device="cpu")
    assert model.dtype == "float32"
    assert model.revision == fingerprint(folder)
    assert model.prompt_ids("1 + 1?")


def test_the_revision_changes_with_the_weights(folder):
    before = fingerprint(folder)
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] + 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(folder) != before


def test_a_folder_without_tokenizer(folder):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink(missing_ok=True)
    assert "no tokenizer" in refused(load, str(folder))


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "no weights" in refused(load, str(folder))


def test_a_folder_of_pickles_is_refused_unopened(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path).encode() + b"/pwned'\ntR.")
    assert "pickled" in refused(load, str(folder))
    assert not (tmp_path / "pwned").exists()


def test_a_folder_without_config(tmp_path):
    assert "config.json" in refused(load, str(tmp_path))


def test_broken_safetensors(folder):
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    assert "damaged" in refused(load, str(folder))


def test_a_truncated_file(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert "damaged" in refused(load, str(folder))


def test_a_config_of_no_known_architecture(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    assert str(folder) in refused(load, str(folder))


def test_remote_code_is_never_run(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    refused(load, str(folder))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        (OSError("We couldn't connect to 'https://huggingface.co' to load the files"), "cannot be reached"),
        (OSError("x/y is not a local folder and is not a valid model identifier listed on the Hub"), "found neither"),
        (OSError("401 Client Error. Cannot access gated repo for url"), "gated"),
        (ValueError("you need to execute the configuration file; set `trust_remote_code=True`"), "code of"),
        (OSError("x/y does not appear to have a file named model.safetensors"), "model.safetensors"),
    ],
)  # fmt: skip
def test_failures_of_the_hub_are_sentences(monkeypatch, recorded, said):
    def fail(*args, **kwargs):
        raise recorded

    monkeypatch.setattr(rmx.models.load, "_from_pretrained", fail)
    assert said in refused(load, "someone/something")


def test_a_cached_snapshot_is_tried_before_the_network(monkeypatch, folder):
    asked, looked_for = [], []
    real = rmx.models.load.AutoConfig.from_pretrained

    def config(place, **options):
        asked.append(options["local_files_only"])
        if options["local_files_only"]:
            raise OSError("not cached")
        return real(folder)

    monkeypatch.setattr(rmx.models.load, "check_reach", looked_for.append)
    monkeypatch.setattr(rmx.models.load.AutoConfig, "from_pretrained", config)
    monkeypatch.setattr(rmx.models.load.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: qwen())
    monkeypatch.setattr(rmx.models.load.AutoTokenizer, "from_pretrained", lambda *a, **k: byte_tokenizer())
    assert load("someone/something", device="cpu").spec == "someone/something"
    assert asked == [True, False]
    assert looked_for == ["someone/something"]  # the network, before the Hub's client tries for half a minute


def test_a_broken_gguf_file(tmp_path, monkeypatch):
    monkeypatch.setenv("RMX_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + b"\x00" * 100)
    assert "GGUF" in refused(dequantised, file)
    assert not list((tmp_path / "cache" / "gguf").iterdir())  # nothing half made is left behind


def test_a_gguf_file_is_read_once():
    reader, llama = gguf.GGUFReader, gguf.MODEL_ARCH.LLAMA
    with gguf_read_once():
        assert gguf.get_tensor_name_map(llama, 2) is gguf.get_tensor_name_map(llama, 2)
        assert gguf.GGUFReader is not reader
    assert gguf.get_tensor_name_map(llama, 2) is not gguf.get_tensor_name_map(llama, 2)
    assert gguf.GGUFReader is reader


def test_out_of_memory_is_a_sentence(monkeypatch, folder):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(rmx.models.load, "_from_pretrained", fail)
    assert "memory" in refused(load, str(folder))


# -- adapters


def test_an_adapter_loads_twice_under_one_name(adapter):
    dotted = adapter.rename(adapter.with_name("my.adapter"))
    model = wrap(qwen())
    first = add_adapter(model, str(dotted))
    assert add_adapter(model, str(dotted)) == first
    assert model.adapters == [first]
    with model.engine.using(first):
        model.engine.open([1, 2])


def test_an_adapter_of_another_architecture(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["c_attn"]}))
    message = refused(add_adapter, wrap(qwen()), str(adapter))
    assert "another architecture" in message
    assert "c_attn" in message


def test_an_adapter_of_another_width_leaves_the_base_untouched(adapter):
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({k: torch.zeros(v.shape[0] + 1, v.shape[1] + 1) for k, v in weights.items()},
              adapter / "adapter_model.safetensors")  # fmt: skip
    model = wrap(qwen())
    before = model.engine.open([1, 2, 3], reuse=False).logits
    refused(add_adapter, model, str(adapter))
    assert model.adapters == []
    with model.engine.using(None):
        assert torch.equal(model.engine.open([1, 2, 3], reuse=False).logits, before)


def test_a_pickled_adapter_is_refused(adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "pickle" in refused(add_adapter, wrap(qwen()), str(adapter))


def test_a_damaged_adapter(adapter):
    (adapter / "adapter_model.safetensors").write_bytes(b"nonsense")
    refused(add_adapter, wrap(qwen()), str(adapter))


def test_a_folder_that_is_no_adapter(tmp_path):
    assert "adapter_config.json" in refused(add_adapter, wrap(qwen()), str(tmp_path))


# -- prompts and the workspace


@pytest.mark.parametrize("text", ["", "   ", "\n\n"])
def test_empty_prompts(tiny, text):
    with pytest.raises(PromptError, match="empty"):
        tiny.prompt_ids(text)


def test_a_prompt_longer_than_the_context(tiny):
    with pytest.raises(PromptError, match="holds 256"):
        tiny.prompt_ids("x" * 400)


def test_hostile_prompts_are_text(tiny):
    text = "${x} {{y}} {problem} `z` <|im_end|> \u202e </s>"
    assert tiny.detokenizer.text(tiny.prompt_ids(text)).startswith(text)


def test_lone_surrogates_do_not_break_the_tokenizer(tiny):
    assert "?" in tiny.detokenizer.text(tiny.prompt_ids("a \ud83d b"))


def test_special_tokens_of_a_chat_template_are_not_doubled(smol):
    ids = smol.prompt_ids("What is 1 + 1?")
    text = smol.detokenizer.text(ids)
    assert text.count("<|im_start|>assistant") == 1
    assert text.startswith("<|im_start|>system")


def test_an_unfetchable_model_leaves_the_loaded_ones(folder):
    space = Workspace("cpu")
    first = space.model(str(folder))
    with pytest.raises(ModelError):
        space.model("no-such-model")
    assert space.model(str(folder)) is first


def test_large_models_go_and_mini_stays(folder, tmp_path):
    made = []
    space = Workspace(keep=1, loader=lambda spec: made.append(spec) or wrap(qwen()))
    space.model("mini")
    for spec in ("a", "b", "mini", "a"):
        space.model(spec)
    assert made == ["mini", "a", "b", "a"]
    assert space.loaded == ["mini", "a"]


def test_a_slow_load_stops_nobody_else_and_is_shared(tiny):
    go_on, made = threading.Event(), []

    def loader(spec):
        made.append(spec)
        if spec == "slow":
            assert go_on.wait(20)
        return wrap(qwen())

    space = Workspace(loader=loader)
    got: list = []
    waiting = [threading.Thread(target=lambda: got.append(space.model("slow"))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    while "slow" not in made:
        time.sleep(0.001)
    assert space.model("mini") is space.model("mini")  # at once, while the other still loads
    assert got == []
    go_on.set()
    for thread in waiting:
        thread.join(20)
    assert made.count("slow") == 1
    assert got[0] is got[1] is got[2]


def test_a_copy_of_the_bundled_model_is_the_same_model(mini, tmp_path):
    from rmx.config import ASSETS

    shutil.copytree(ASSETS / "mini", tmp_path / "copy")
    assert load(str(tmp_path / "copy"), device="cpu").revision == mini.revision
