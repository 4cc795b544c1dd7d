"""Adapters on disk: training state, and PEFT directories for sampling.

A training state is a directory with `state.json` (format, base model and a hash of its config,
LoraConfig, optimizer, step, layers) and `state.safetensors` (`weights`, and once a step was taken
the optimizer's state, each one flat buffer). Gradients that were accumulated but not yet stepped
are not part of it.

Sampler weights are a PEFT adapter directory (`adapter_config.json`, `adapter_model.safetensors`)
that PEFT and vLLM load as it is; any LoRA directory that PEFT wrote for the base model loads here.
Both kinds are written completely and then renamed into place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tinsmith.core import jsonio
from tinsmith.core.errors import ConfigError
from tinsmith.core.ids import content_hash
from tinsmith.core.paths import atomic_directory
from tinsmith.engine.adapters import LORA_ALPHA, Adapter, AdapterSnapshot, layer_shapes
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.lora import LoraPair
from tinsmith.types import (
    AdamOptimizerConfig,
    DimuonOptimizerConfig,
    LoraConfig,
    OptimizerConfig,
)

__all__ = ["base_model_hash", "read_peft", "read_state", "write_peft", "write_state"]

_FORMAT = "tinsmith-training-state"
_VERSION = 1
_PEFT_PREFIX = "base_model.model."


def base_model_hash(base: BaseModel) -> str:
    """Identifies the base model's configuration; where it lies does not matter."""
    config = base.model.config.to_dict()
    for key in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        config.pop(key, None)
    return content_hash(json.dumps(config, sort_keys=True, default=str).encode())


def write_state(adapter: Adapter, base: BaseModel, directory: Path) -> None:
    """Write a training state; an existing directory is replaced."""
    tensors = {"weights": adapter.flat.detach().cpu()}
    tensors |= {key: t.cpu() for key, t in adapter.optimizer.state_tensors().items()}
    state = {
        "format": _FORMAT,
        "version": _VERSION,
        "base_model": base.info.name,
        "base_model_hash": base_model_hash(base),
        "lora_config": adapter.lora_config.model_dump(),
        "lora_alpha": LORA_ALPHA,
        "optimizer_config": adapter.optimizer.config.model_dump(),
        "step": adapter.step,
        "layers": {shape.name: [*shape.a_shape, *shape.b_shape] for shape in adapter.shapes},
        "dropped_gradient": adapter.grad is not None,
    }
    with atomic_directory(directory, overwrite=True) as staging:
        save_file(tensors, str(staging / "state.safetensors"))
        (staging / "state.json").write_text(jsonio.dumps(state) + "\n", encoding="utf-8")


def read_state(
    base: BaseModel,
    directory: Path,
    *,
    with_optimizer: bool,
    optimizer_config: OptimizerConfig | None = None,
) -> Adapter:
    """The adapter that `write_state` wrote; without the optimizer it starts at step 0.

    `optimizer_config` is the family that the adapter is to have, by default the saved one's.

    Raises:
        ConfigError: no such state, it belongs to another base model, or (with the optimizer) it
            is another family's.
    """
    state = _read_json(directory / "state.json", "training state")
    if state.get("format") != _FORMAT or state.get("version") != _VERSION:
        raise _bad_checkpoint(
            directory,
            f"format {state.get('format')!r} version {state.get('version')!r} is not "
            f"{_FORMAT!r} version {_VERSION}",
        )
    if state["base_model_hash"] != base_model_hash(base):
        raise _bad_checkpoint(
            directory, f"it was trained on {state['base_model']!r}, not on {base.info.name!r}"
        )
    lora_config = LoraConfig(**state["lora_config"])
    shapes = layer_shapes(layer_features(base, lora_config), lora_config.rank)
    if {s.name: [*s.a_shape, *s.b_shape] for s in shapes} != state["layers"]:
        raise _bad_checkpoint(directory, "its layers are not those of the base model")
    tensors = _read_tensors(directory / "state.safetensors")
    saved_family = _saved_config(state)
    optimizer_config = optimizer_config or saved_family
    if with_optimizer and optimizer_config != saved_family:
        raise _bad_checkpoint(
            directory,
            f"its optimizer is {saved_family.type!r}, the model's is {optimizer_config.type!r}; "
            "load it without the optimizer",
        )
    adapter = Adapter(
        lora_config,
        shapes,
        device=base.device,
        dtype=base.adapter_dtype,
        optimizer_config=optimizer_config,
    )
    weights = tensors.pop("weights", None)
    if weights is None or weights.shape != adapter.flat.shape:
        raise _bad_checkpoint(directory, "its tensors do not have the size of its layers")
    with torch.no_grad():
        adapter.flat.copy_(weights)
    if with_optimizer and tensors:
        try:
            adapter.optimizer.load_state(tensors, int(state["step"]))
        except ValueError as error:
            raise _bad_checkpoint(directory, f"its optimizer state is damaged: {error}") from error
    return adapter


def _saved_config(state: Mapping[str, Any]) -> OptimizerConfig:
    """The family of a saved optimizer; states from before there was a choice name none."""
    if state.get("optimizer_config", {}).get("type") == "dimuon":
        return DimuonOptimizerConfig(**state["optimizer_config"])
    return AdamOptimizerConfig()


def layer_features(base: BaseModel, lora_config: LoraConfig) -> dict[str, tuple[int, int]]:
    """(in, out) features of the layers that the config trains."""
    layers = ((name, base.layers[name]) for name in base.target_modules(lora_config))
    return {name: (layer.in_features, layer.out_features) for name, layer in layers}


def write_peft(snapshot: AdapterSnapshot, base: BaseModel, directory: Path) -> None:
    """Write a snapshot as a PEFT adapter directory; an existing one is replaced."""
    tensors: dict[str, Tensor] = {}
    for name, (a, b, _) in snapshot.weights.items():
        tensors[f"{_PEFT_PREFIX}{name}.lora_A.weight"] = a.detach().cpu().contiguous()
        tensors[f"{_PEFT_PREFIX}{name}.lora_B.weight"] = b.detach().cpu().contiguous()
    scales = {scale for _, _, scale in snapshot.weights.values()}
    ranks = {a.shape[0] for a, _, _ in snapshot.weights.values()}
    assert len(scales) == len(ranks) == 1, "adapters have one rank and one alpha"
    (scale,), (rank,) = scales, ranks
    alpha = float(scale * rank)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": snapshot.base_model,
        "r": rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": _short_names(base, list(snapshot.weights)),
        "fan_in_fan_out": any(base.layers[name].transposed for name in snapshot.weights),
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
    with atomic_directory(directory, overwrite=True) as staging:
        save_file(tensors, str(staging / "adapter_model.safetensors"), metadata={"format": "pt"})
        text = json.dumps(config, indent=2, sort_keys=True)
        (staging / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def read_peft(base: BaseModel, directory: Path) -> AdapterSnapshot:
    """A snapshot from any LoRA directory that PEFT, or `write_peft`, wrote for this base model.

    Raises:
        ConfigError: no such directory, another base model's, or a LoRA variant we do not compute.
    """
    config = _read_json(directory / "adapter_config.json", "PEFT adapter")
    _check_peft_config(config, directory)
    tensors = _read_tensors(directory / "adapter_model.safetensors")
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
    pairs = _pair_tensors(base, tensors, directory)
    weights: dict[str, LoraPair] = {}
    for name in base.layers:  # the model's order, whatever the file's
        if name not in pairs:
            continue
        layer, (a, b) = base.layers[name], pairs[name]
        shapes = (tuple(a.shape), tuple(b.shape))
        expected = ((rank, layer.in_features), (layer.out_features, rank))
        if shapes != expected:
            raise _bad_checkpoint(
                directory, f"layer {name!r} has shapes {shapes}, the base model needs {expected}"
            )
        place = {"device": base.device, "dtype": base.adapter_dtype}
        weights[name] = LoraPair(a.to(**place), b.to(**place), scale)
    kinds = {base.kinds[name] for name in weights}
    lora_config = LoraConfig(
        rank=rank,
        train_unembed="unembed" in kinds,
        train_mlp="mlp" in kinds,
        train_attn="attn" in kinds,
    )
    return AdapterSnapshot.from_weights(weights, lora_config=lora_config, base_model=base.info.name)


def _check_peft_config(config: Mapping[str, Any], directory: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise _bad_checkpoint(directory, f"peft_type {config.get('peft_type')!r} is not 'LORA'")
    plain = {"use_dora": False, "bias": "none"}
    empty = ("modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication")
    for key in (*plain, *empty):
        value = config.get(key)
        if value and value != plain.get(key):
            raise _bad_checkpoint(directory, f"{key}={value!r} is a LoRA variant not supported")
    rank = config.get("r")
    if not isinstance(rank, int) or rank < 1 or not config.get("lora_alpha"):
        raise _bad_checkpoint(directory, "r and lora_alpha must be positive numbers")


def _pair_tensors(
    base: BaseModel, tensors: Mapping[str, Tensor], directory: Path
) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each layer.

    Raises:
        ConfigError: a tensor that belongs to no layer of the base model, or A without B.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, half = key.removeprefix(_PEFT_PREFIX).rpartition(".lora_")
        if half not in ("A.weight", "B.weight") or name not in base.layers:
            raise _bad_checkpoint(directory, f"tensor {key!r} fits no layer of {base.info.name!r}")
        halves.setdefault(name, {})[half[0]] = tensor
    for name, found in halves.items():
        if len(found) != 2:
            raise _bad_checkpoint(directory, f"layer {name!r} has only one of lora_A and lora_B")
    if not halves:
        raise _bad_checkpoint(directory, "it holds no LoRA weights")
    return {name: (found["A"], found["B"]) for name, found in halves.items()}


def _short_names(base: BaseModel, names: list[str]) -> list[str]:
    """Last name parts where they select exactly these layers (vLLM expects those), else all."""
    leaves = {name.rpartition(".")[2] for name in names}
    selected = [
        name
        for name, _ in base.model.named_modules()
        if name.rpartition(".")[2] in leaves and not name.endswith(".base")
    ]
    return sorted(leaves) if set(selected) == set(names) else names


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        content = jsonio.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _bad_checkpoint(path.parent, f"no {what} there ({path.name} is missing)") from error
    except ValueError as error:
        raise _bad_checkpoint(path.parent, f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise _bad_checkpoint(path.parent, f"{path.name} does not hold an object")
    return content


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(str(path))
    except FileNotFoundError as error:
        raise _bad_checkpoint(path.parent, f"{path.name} is missing") from error
    except (SafetensorError, OSError) as error:
        raise _bad_checkpoint(path.parent, f"{path.name} cannot be read: {error}") from error


def _bad_checkpoint(directory: Path, problem: str) -> ConfigError:
    return ConfigError(f"checkpoint {str(directory)!r}: {problem}", field="path")
