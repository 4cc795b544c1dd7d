"""Loading a frozen base model and wrapping its linear layers for adapters.

`load_base_model` takes the bundled model's name, a local directory, or a Hub name, and returns a
`BaseModel`: the Hugging Face causal LM with every attention, MLP and output-embedding linear layer
wrapped by `LoraLinear`, all parameters frozen, in eval mode. `BaseModel` is the only place that
calls the model's trunk and head, so that trainer and sampler share one implementation.

Shapes: B rows, T positions, H hidden size, V vocabulary size.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tinsmith.core import paths
from tinsmith.core.errors import ConfigError
from tinsmith.engine.jobs import BaseModelInfo
from tinsmith.engine.lora import LoraLinear, Router
from tinsmith.types import LoraConfig

__all__ = ["BaseModel", "LayerKind", "load_base_model", "wrap_model"]

logger = logging.getLogger(__name__)

LayerKind = Literal["attn", "mlp", "unembed"]

_ATTENTION_PARENTS = frozenset({"self_attn", "attn", "attention", "self_attention"})
_MLP_PARENTS = frozenset({"mlp", "feed_forward", "ffn"})
_SUPPORTED = "use a dense decoder such as Qwen3, Llama, GPT-NeoX or GPT-2"
_DEFAULT_CONTEXT = 2048  # assumed when a config states no maximum


@dataclass(frozen=True)
class BaseModel:
    """A frozen causal LM whose linear layers accept adapters."""

    model: Any  # a transformers causal LM; transformers' own types are too loose to help
    router: Router
    info: BaseModelInfo
    device: torch.device
    dtype: torch.dtype
    layers: Mapping[str, LoraLinear]
    """Wrapped layers by name, in the model's order, the output embedding last."""
    kinds: Mapping[str, LayerKind]
    """What each wrapped layer is part of."""
    directory: Path | None
    """Where the model was loaded from, when that is a local directory."""

    @property
    def head(self) -> LoraLinear:
        """The output embedding."""
        return next(self.layers[name] for name, kind in self.kinds.items() if kind == "unembed")

    @property
    def adapter_dtype(self) -> torch.dtype:
        """float32, except over a float64 base model (used in tests)."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def target_modules(self, lora_config: LoraConfig) -> list[str]:
        """Names of the layers that an adapter with this config trains, in the model's order.

        Raises:
            ConfigError: nothing is enabled.
        """
        wanted = {
            "attn": lora_config.train_attn,
            "mlp": lora_config.train_mlp,
            "unembed": lora_config.train_unembed,
        }
        names = [name for name, kind in self.kinds.items() if wanted[kind]]
        if not names:
            raise ConfigError(
                "lora_config: train_attn, train_mlp and train_unembed are all false, so nothing "
                "would be trained",
                field="lora_config",
                hint="enable at least one of them",
            )
        return names

    def hidden_states(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Final hidden states [B, T, H] of right-padded rows [B, T], as the head wants them.

        No attention mask: with causal attention a real position never sees the padding to its
        right, and without a mask SDPA stays on its fast path. `position_ids` must count up by one
        in every row (else transformers believes that sequences are packed).
        """
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        trunk = self.model.base_model
        output = trunk(
            input_ids=input_ids,
            attention_mask=None,
            position_ids=position_ids,
            use_cache=False,
        )
        return output.last_hidden_state


def load_base_model(
    name_or_path: str,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> BaseModel:
    """Load a base model and freeze and wrap it.

    Args:
        name_or_path: `tinsmith/tiny`, a local directory, or a Hub name.
        device: default CUDA where available, else the CPU.
        dtype: default bfloat16 on CUDA, float32 elsewhere.

    Raises:
        ConfigError: the model cannot be found, or is of a kind that the engine cannot train; or
            there is no such device.
    """
    from transformers import AutoModelForCausalLM

    device = _checked_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    source = _resolve_source(name_or_path)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, attn_implementation="sdpa"
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"base_model={name_or_path!r}: cannot be loaded: {_first_line(error)}",
            field="base_model",
            hint="it must hold config.json and weights of a causal language model",
        ) from error
    directory = Path(source) if Path(source).is_dir() else None
    return wrap_model(model.to(device), name=name_or_path, directory=directory)


def _checked_device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"device={str(device)!r}: cannot be used: {_first_line(error)}",
            field="device",
            hint="leave it out to take CUDA where there is some, else the CPU",
        ) from error


def wrap_model(model: Any, *, name: str, directory: Path | None = None) -> BaseModel:
    """Freeze a Hugging Face causal LM and wrap its linear layers, in place.

    Raises:
        ConfigError: the model has no linear attention or MLP layers under known names, or does
            more than a linear layer between its last hidden state and its logits.
    """
    model.eval().requires_grad_(False)
    kinds = _classify_layers(model, name)
    router = Router()
    layers: dict[str, LoraLinear] = {}
    for layer_name in kinds:
        parent = model.get_submodule(layer_name.rpartition(".")[0])
        leaf = layer_name.rpartition(".")[2]
        layers[layer_name] = LoraLinear(getattr(parent, leaf), layer_name, router)
        setattr(parent, leaf, layers[layer_name])
    config = model.config.get_text_config()
    parameter = next(model.parameters())
    base = BaseModel(
        model=model,
        router=router,
        info=BaseModelInfo(
            name=name,
            arch=str(model.config.model_type),
            tokenizer_id=name,
            max_context_length=_max_context_length(config),
            vocab_size=int(config.vocab_size),
            hidden_size=int(config.hidden_size),
            num_parameters=sum(p.numel() for p in model.parameters()),
        ),
        device=parameter.device,
        dtype=parameter.dtype,
        layers=layers,
        kinds=kinds,
        directory=directory,
    )
    _check_wiring(base)
    return base


def _classify_layers(model: Any, name: str) -> dict[str, LayerKind]:
    """Which linear layers take adapters, by name; attention and MLP in order, the head last."""
    head = model.get_output_embeddings()
    kinds: dict[str, LayerKind] = {}
    head_name = None
    for layer_name, module in model.named_modules():
        if module is head:
            head_name = layer_name
        elif _is_linear(module):
            parents = layer_name.split(".")[:-1]
            if _ATTENTION_PARENTS.intersection(parents):
                kinds[layer_name] = "attn"
            elif _MLP_PARENTS.intersection(parents):
                kinds[layer_name] = "mlp"
    if head_name is None or not _is_linear(head) or not {"attn", "mlp"} <= set(kinds.values()):
        raise ConfigError(
            f"base_model={name!r}: architecture {model.config.model_type!r} has no linear "
            "attention, MLP and output layers under names that the engine knows",
            field="base_model",
            hint=_SUPPORTED,
        )
    kinds[head_name] = "unembed"
    return kinds


def _is_linear(module: object) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _check_wiring(base: BaseModel) -> None:
    """Refuse models on which adapters or the head would silently compute something else.

    Routing needs [B, T, features] at every wrapped layer, and the head needs logits that are
    `head(last hidden state)`, without a soft cap or a scale.
    """
    tokens = torch.arange(6, device=base.device).view(2, 3) % base.info.vocab_size
    shapes: dict[str, tuple[int, ...]] = {}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, LoraLinear)
        shapes[layer.name] = tuple(inputs[0].shape[:-1])

    hooks = [layer.register_forward_pre_hook(record) for layer in base.layers.values()]
    try:
        with torch.no_grad():
            whole = base.model(input_ids=tokens, use_cache=False).logits
            ours = base.head(base.hidden_states(tokens))
    finally:
        for hook in hooks:
            hook.remove()
    problem = None
    if any(shapes.get(name) != tuple(tokens.shape) for name in base.layers):
        problem = "reshapes or skips its linear layers' inputs"
    elif whole.shape != ours.shape or not torch.allclose(whole, ours, rtol=1e-3, atol=1e-3):
        problem = "changes its logits after the output layer (a soft cap or a scale)"
    if problem is not None:
        raise ConfigError(
            f"base_model={base.info.name!r}: architecture {base.info.arch!r} {problem}, which the "
            "engine does not support",
            field="base_model",
            hint=_SUPPORTED,
        )


def _max_context_length(config: Any) -> int:
    for key in ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx"):
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return _DEFAULT_CONTEXT


def _resolve_source(name_or_path: str) -> str:
    """The local directory or Hub name to load from.

    Raises:
        ConfigError: a path that is no model directory, or a Hub name that cannot be had.
    """
    if name_or_path == paths.BUNDLED_MODEL:
        return str(_model_directory(paths.bundled_model_dir(), name_or_path))
    local = Path(name_or_path).expanduser()
    looks_like_path = name_or_path.startswith(("/", ".", "~", os.sep)) or (
        name_or_path.count("/") != 1 and not local.exists() and "/" in name_or_path
    )
    if local.is_dir() or looks_like_path:
        return str(_model_directory(local, name_or_path))
    _check_hub(name_or_path)
    return name_or_path


def _model_directory(directory: Path, name: str) -> Path:
    if not (directory / "config.json").is_file():
        what = "holds no config.json" if directory.is_dir() else "does not exist"
        raise ConfigError(
            f"base_model={name!r}: directory {directory} {what}",
            field="base_model",
            hint="give a directory written by save_pretrained, a Hub name, or "
            f"{paths.BUNDLED_MODEL!r}",
        )
    return directory


def _check_hub(name: str) -> None:
    """Fail at once, in one line, where transformers would retry for minutes."""
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        if isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str):
            return
        huggingface_hub.HfApi().model_info(name, timeout=10)
    except HFValidationError as error:
        raise _not_found(name, "neither a local directory nor a Hub name") from error
    except (OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        if isinstance(error, HfHubHTTPError):
            reason = "no local directory, and the Hub has no such model open to you"
        else:
            reason = "no local directory, not in the Hub cache, and the Hub cannot be reached"
        raise _not_found(name, reason) from error


def _not_found(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"base_model={name!r}: {reason}",
        field="base_model",
        hint=f"check the spelling, give a local directory, or use {paths.BUNDLED_MODEL!r}; for a "
        "private model set HF_TOKEN",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
