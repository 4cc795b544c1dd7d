"""Adapters being trained, and immutable snapshots of them.

An `Adapter` keeps all its A and B in one flat buffer, its gradients in a second, and its
optimizer's state beside them, so that a norm, a clip or a copy is one operation over one tensor,
and no two adapters share any memory. A pass accumulates into a scratch buffer of its own
(`Adapter.make_pass`), which becomes part of the adapter only when the pass succeeded.

An `AdapterSnapshot` is a copy that nobody writes to; its id is a hash of what it holds.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tinsmith.core.errors import ConfigError, UserError
from tinsmith.core.ids import content_hash
from tinsmith.engine.lora import LoraPair
from tinsmith.engine.optimizers import check_params, make_optimizer
from tinsmith.types import AdamOptimizerConfig, LoraConfig, OptimizerConfig, OptimParams

__all__ = ["LORA_ALPHA", "Adapter", "AdapterPass", "AdapterSnapshot", "LayerShape", "flat_norm"]

LORA_ALPHA = 32.0
"""Tinker's fixed value: products are scaled by 32 / rank."""

MAX_RANK = 1024

NORM_PIECE = 4096
"""Entries whose squares are summed one after another: 2^12 of float32's 2^24."""


@dataclass(frozen=True)
class LayerShape:
    """Where one layer's A and B lie in an adapter's flat buffers."""

    name: str
    a_shape: tuple[int, int]
    b_shape: tuple[int, int]
    offset: int
    """Of A; B follows at once."""

    @property
    def numel(self) -> int:
        """Elements of A and B together."""
        return math.prod(self.a_shape) + math.prod(self.b_shape)

    @property
    def places(self) -> tuple[tuple[int, tuple[int, int]], tuple[int, tuple[int, int]]]:
        """Start and shape of A and of B."""
        middle = self.offset + math.prod(self.a_shape)
        return (self.offset, self.a_shape), (middle, self.b_shape)

    def views(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """A and B as views of a flat buffer."""
        middle = self.offset + math.prod(self.a_shape)
        a = flat[self.offset : middle].view(self.a_shape)
        return a, flat[middle : self.offset + self.numel].view(self.b_shape)


@dataclass(frozen=True)
class AdapterPass:
    """One job's own leaves on an adapter's weights, and the buffer that their gradients go to."""

    weights: Mapping[str, LoraPair]
    grad: Tensor | None
    """None in a pass without gradients."""


@dataclass(frozen=True)
class AdapterSnapshot:
    """Immutable adapter weights for sampling, addressed by their content."""

    id: str
    lora_config: LoraConfig
    base_model: str
    weights: Mapping[str, LoraPair]

    @classmethod
    def from_weights(
        cls, weights: Mapping[str, LoraPair], *, lora_config: LoraConfig, base_model: str
    ) -> AdapterSnapshot:
        """Hash `weights`, which the snapshot then owns: nobody may write to them any more."""
        parts = [base_model.encode()]
        for name in sorted(weights):
            a, b, scale = weights[name]
            parts.append(f"{name} {tuple(a.shape)} {tuple(b.shape)} {a.dtype} {scale!r}".encode())
            parts += [tensor.detach().cpu().contiguous().numpy().tobytes() for tensor in (a, b)]
        return cls(content_hash(parts), lora_config, base_model, weights)


class Adapter:
    """One adapter in training: weights, accumulated gradient and the optimizer's state."""

    def __init__(
        self,
        lora_config: LoraConfig,
        shapes: Sequence[LayerShape],
        *,
        device: torch.device,
        dtype: torch.dtype,
        optimizer_config: OptimizerConfig | None = None,
    ) -> None:
        self.lora_config = lora_config
        self.shapes = tuple(shapes)
        self.scale = LORA_ALPHA / lora_config.rank
        size = sum(shape.numel for shape in self.shapes)
        self.flat = nn.Parameter(torch.zeros(size, device=device, dtype=dtype))
        self.grad: Tensor | None = None
        """Sum of the gradients since the last step; None when there were none."""
        matrices = [place for shape in self.shapes for place in shape.places]
        self.optimizer = make_optimizer(
            optimizer_config or AdamOptimizerConfig(), self.flat, matrices, lora_config.rank
        )

    @classmethod
    def initialize(
        cls,
        lora_config: LoraConfig,
        features: Mapping[str, tuple[int, int]],
        *,
        device: torch.device,
        dtype: torch.dtype,
        optimizer_config: OptimizerConfig | None = None,
    ) -> Adapter:
        """A fresh adapter: A uniform as PEFT's (Kaiming, a = sqrt(5)), B zero.

        The seed of `lora_config` decides A; where it is None one is drawn and recorded in the
        adapter's `lora_config`, so that any adapter can be made again.

        Args:
            lora_config: rank and seed.
            features: (in, out) features of every layer to adapt, by name.
            device: where the weights live.
            dtype: of weights, gradients and moments.
            optimizer_config: the optimizer's family; AdamW by default.
        """
        check_rank(lora_config)
        if lora_config.seed is None:
            lora_config = lora_config.model_copy(update={"seed": secrets.randbits(31)})
        shapes = layer_shapes(features, lora_config.rank)
        adapter = cls(
            lora_config, shapes, device=device, dtype=dtype, optimizer_config=optimizer_config
        )
        generator = torch.Generator().manual_seed(_seed(lora_config))
        with torch.no_grad():
            for shape in shapes:
                bound = 1 / math.sqrt(shape.a_shape[1])  # what kaiming_uniform_(a=sqrt(5)) gives
                values = torch.empty(shape.a_shape, dtype=torch.float32)
                shape.views(adapter.flat)[0].copy_(
                    values.uniform_(-bound, bound, generator=generator)
                )
        return adapter

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.optimizer.step_count

    def make_pass(self, *, backward: bool) -> AdapterPass:
        """Leaves for one job: they share the weights' memory and own their gradients."""
        values = self.flat.detach()
        grad = torch.zeros_like(values) if backward else None
        weights: dict[str, LoraPair] = {}
        for shape in self.shapes:
            a, b = shape.views(values)
            if grad is not None:
                a.requires_grad_()
                b.requires_grad_()
                # Preset gradients make autograd add in place, into views of one buffer.
                a.grad, b.grad = shape.views(grad)
            weights[shape.name] = LoraPair(a, b, self.scale)
        return AdapterPass(weights, grad)

    def accumulate(self, grad: Tensor) -> None:
        """Add a finished pass's gradient, taking ownership of the buffer."""
        if self.grad is None:
            self.grad = grad
        else:
            self.grad.add_(grad)

    def optim_step(self, params: OptimParams) -> dict[str, float]:
        """One step of the optimizer on the accumulated gradient, which is then forgotten.

        Without any forward_backward since the last step the gradient is an empty sum, that is
        zero, and the step is the optimizer's on a zero gradient: AdamW's moments decay and its
        weight decay applies, Dimuon goes on along its momentum.

        Returns:
            `grad_norm` (before clipping), `update_norm`, `weight_norm`, `learning_rate`, `step`.

        Raises:
            ConfigError: the settings are of another family, or mean nothing.
            UserError: the gradient's norm overflows; nothing was changed.
        """
        settings = check_params(self.optimizer, params)
        grad = self.grad if self.grad is not None else torch.zeros_like(self.flat)
        grad_norm = flat_norm(grad)
        if not math.isfinite(grad_norm.item()):
            raise UserError(
                f"optim_step: the gradient's norm is {grad_norm.item()}, beyond {grad.dtype}",
                hint="scale weights or advantages down; load_state drops the gradient accumulated",
            )
        if settings.grad_clip_norm > 0:
            # torch.nn.utils.clip_grad_norm_'s formula, on the flat buffer.
            grad = grad * (settings.grad_clip_norm / (grad_norm + 1e-6)).clamp(max=1.0)
        before = self.flat.detach().clone()
        self.optimizer.step(grad, settings)
        self.grad = None
        weights = self.flat.detach()
        metrics = {
            "grad_norm": grad_norm.item(),
            "update_norm": flat_norm(before.sub_(weights)).item(),
            "weight_norm": flat_norm(weights).item(),
            "learning_rate": settings.learning_rate,
            "step": float(self.step),
        }
        return {key: value for key, value in metrics.items() if math.isfinite(value)}

    def snapshot(self, base_model: str) -> AdapterSnapshot:
        """An immutable copy of the weights as they are now."""
        copy = self.flat.detach().clone()
        weights = {shape.name: LoraPair(*shape.views(copy), self.scale) for shape in self.shapes}
        return AdapterSnapshot.from_weights(
            weights, lora_config=self.lora_config, base_model=base_model
        )


def flat_norm(values: Tensor) -> Tensor:
    """Euclidean norm of a flat buffer, as the norm of the norms of its pieces.

    torch sums a long float32 tensor's squares one after another on the CPU: its own norm of 1e8
    entries is 1 % too small, this one is right to 1e-6.
    """
    whole = values.numel() // NORM_PIECE * NORM_PIECE
    norms = torch.linalg.vector_norm(values[:whole].view(-1, NORM_PIECE), dim=1)
    rest = torch.linalg.vector_norm(values[whole:])
    return torch.linalg.vector_norm(torch.cat([norms, rest[None]]))


def layer_shapes(features: Mapping[str, tuple[int, int]], rank: int) -> list[LayerShape]:
    """Lay out A [rank, in] and B [out, rank] of each layer, one after another."""
    shapes: list[LayerShape] = []
    offset = 0
    for name, (in_features, out_features) in features.items():
        shapes.append(LayerShape(name, (rank, in_features), (out_features, rank), offset))
        offset += shapes[-1].numel
    return shapes


def check_rank(lora_config: LoraConfig) -> None:
    """Raise ConfigError unless the rank is usable."""
    if not 1 <= lora_config.rank <= MAX_RANK:
        raise ConfigError(
            f"lora_config.rank={lora_config.rank}: must be 1..{MAX_RANK}", field="lora_config.rank"
        )


def _seed(lora_config: LoraConfig) -> int:
    seed = lora_config.seed
    assert seed is not None, "filled in by the caller"
    return seed % 2**63
