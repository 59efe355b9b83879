"""Adapters of every kind, made and "trained" by PEFT alone; its own model in memory says what their logits are."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.conftest import SHAPE, qwen

IDS = [1, 2, 3, 4, 5, 6, 7, 8]
TARGETS = ["q_proj", "v_proj", "o_proj"]
Make = Callable[[], Any]  # an adapter's configuration


def lora(**options: Any) -> Make:
    return lambda: LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": list(TARGETS), **options})


def other(name: str, **options: Any) -> Make:
    return lambda: getattr(peft, name)(**options)


# What `rmx doctor --help` calls: works.
WORKS: dict[str, Make] = {
    "lora": lora(),
    "lora begun at random": lora(init_lora_weights=False),
    "gaussian": lora(init_lora_weights="gaussian"),
    "eva": lora(init_lora_weights="eva", eva_config=peft.EvaConfig()),
    "orthogonal": lora(init_lora_weights="orthogonal"),
    "mica": lora(init_lora_weights="mica"),
    "rslora": lora(use_rslora=True),
    "ranks and alphas apart": lora(rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 3}),
    "one layer": lora(layers_to_transform=[1]),
    "dora": lora(use_dora=True),
    "dora on embeddings": lora(use_dora=True, target_modules=["embed_tokens", "q_proj"]),
    "velora": lora(velora_config=peft.VeloraConfig()),
    "bias all": lora(bias="all"),
    "bias lora_only": lora(bias="lora_only"),
    "lora_bias": lora(lora_bias=True),
    "modules_to_save head": lora(modules_to_save=["lm_head"]),
    "modules_to_save embeddings": lora(modules_to_save=["embed_tokens"]),
    "modules_to_save norms": lora(modules_to_save=["norm"]),
    "trainable tokens": lora(trainable_token_indices=[1, 2]),
    "embeddings": lora(target_modules=["embed_tokens", "q_proj"]),
    "head": lora(target_modules=["lm_head", "q_proj"]),
    "parameters": lora(target_modules=[], target_parameters=["q_proj.weight"]),
    "ADALORA": other("AdaLoraConfig", target_modules=TARGETS, total_step=10, init_r=4),
    "C3A": other("C3AConfig", target_modules=TARGETS, block_size=16),
    "DELORA": other("DeloraConfig", target_modules=TARGETS, r=4),
    "FOURIERFT": other("FourierFTConfig", target_modules=TARGETS, n_frequency=20),
    "GRALORA": other("GraloraConfig", target_modules=TARGETS, r=4, gralora_k=2),
    "HIRA": other("HiraConfig", target_modules=TARGETS, r=4),
    "HRA": other("HRAConfig", target_modules=TARGETS, r=4),
    "IA3": other("IA3Config", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LN_TUNING": other("LNTuningConfig", target_modules=["input_layernorm", "norm"]),
    "LOHA": other("LoHaConfig", target_modules=TARGETS, r=4),
    "LOKR": other("LoKrConfig", target_modules=TARGETS, r=4),
    "MISS": other("MissConfig", target_modules=TARGETS, r=4),
    "OFT": other("OFTConfig", target_modules=TARGETS, r=2, oft_block_size=0),
    "RANDLORA": other("RandLoraConfig", target_modules=TARGETS, r=4),
    "ROAD": other("RoadConfig", target_modules=TARGETS, group_size=16),
    "SHIRA": other("ShiraConfig", target_modules=TARGETS, r=4),
    "TRAINABLE_TOKENS": other("TrainableTokensConfig", token_indices=[1, 2], target_modules=["embed_tokens"]),
    "VBLORA": other("VBLoRAConfig", target_modules=TARGETS, r=4, num_vectors=16, vector_length=8, topk=2),
    "VERA": other("VeraConfig", target_modules=TARGETS, r=4),
    "WAVEFT": other("WaveFTConfig", target_modules=TARGETS, n_frequency=16),
}

# What it calls: folded. Those after the mark need the initial adapter in their folder.
FOLDED: dict[str, Make] = {
    "pissa": lora(init_lora_weights="pissa"),
    "pissa rslora": lora(init_lora_weights="pissa", use_rslora=True),
    "pissa dora": lora(init_lora_weights="pissa", use_dora=True),
    "pissa, ranks and alphas apart": lora(
        init_lora_weights="pissa", rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 3}
    ),
    "pissa of full rank": lora(init_lora_weights="pissa", r=16, target_modules=["v_proj"]),
    "pissa and a head": lora(init_lora_weights="pissa", modules_to_save=["lm_head"]),
    "olora": lora(init_lora_weights="olora"),
    "olora rslora": lora(init_lora_weights="olora", use_rslora=True),
}
WITH_INITIAL: dict[str, Make] = {
    "pissa_niter_4": lora(init_lora_weights="pissa_niter_4"),
    "corda": lora(init_lora_weights="corda", corda_config=CordaConfig()),
    "lora_ga": lora(init_lora_weights="lora_ga", lora_ga_config=peft.LoraGAConfig()),
}


def tied(seed: int = 0) -> Qwen2ForCausalLM:
    """A random model whose head is its embeddings."""
    torch.manual_seed(seed)
    network = Qwen2ForCausalLM(Qwen2Config(**SHAPE | {"tie_word_embeddings": True}))
    network.lm_head.weight.data.mul_(30)
    network.generation_config.eos_token_id = None
    return network


def logits(network: nn.Module) -> Tensor:
    """(n, V) at every position of `IDS`, in one pass of a plain network."""
    with torch.inference_mode():
        return network(input_ids=torch.tensor([IDS]), use_cache=False).logits[0].float()


def prepared(network: nn.Module, config: Any) -> None:
    """What some kinds ask for before they begin."""
    text = torch.randint(0, 258, (64, 16), generator=torch.Generator().manual_seed(5))
    begun = getattr(config, "init_lora_weights", None)
    if begun == "corda":
        preprocess_corda(network, config, run_model=lambda: [network(input_ids=row[None]) for row in text])
    if begun == "lora_ga":
        preprocess_loraga(network, config, lambda: network(input_ids=text, labels=text).loss.backward())


def begin(make: Make, network: nn.Module | None = None, seed: int = 0) -> PeftModel:
    """PEFT's own model with an adapter that has not learned anything yet."""
    network, config = qwen() if network is None else network, make()
    torch.manual_seed(seed)
    prepared(network, config)
    return get_peft_model(network, config)


def train(tuned: PeftModel, seed: int = 3, size: float = 0.1) -> Tensor:
    """Move all that learns by noise; returns the logits of PEFT's own model in memory."""
    torch.manual_seed(seed)
    for weight in tuned.parameters():
        if weight.requires_grad:
            weight.data = weight.data + size * torch.randn_like(weight)
    return logits(tuned.eval())


def save(
    folder: Path, make: Make, network: nn.Module | None = None, initial: str | None = None, seed: int = 3
) -> tuple[str, Tensor]:
    """A trained adapter's folder, and what its logits are; `initial` keeps the untrained one in it, by that name."""
    tuned = begin(make, network)
    if initial:
        tuned.save_pretrained(str(folder / initial))
    expected = train(tuned, seed)
    copy.copy(tuned).save_pretrained(str(folder))
    return str(folder), expected
