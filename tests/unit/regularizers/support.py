"""Datums, logprobs and a finite-difference check that the tests of regularizers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tinsmith.types import Datum, ModelInput, TensorData

Returned = tuple[torch.Tensor, dict[str, float]]


def datum(num_targets: int, width: int | None = None, first: int = 0, **inputs: Any) -> Datum:
    """A datum with so many targets; further inputs are arrays of their own dtype."""
    tokens = np.arange(first, first + num_targets * (width or 1), dtype=np.int64)
    targets = tokens if width is None else tokens.reshape(num_targets, width)
    return Datum(
        model_input=ModelInput.from_ints(list(range(num_targets))),
        loss_fn_inputs={
            "target_tokens": targets,
            **{
                name: TensorData.from_numpy(np.asarray(v, np.float32)) for name, v in inputs.items()
            },
        },
    )


def leaves(*values: Any, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Logprobs of each datum, ready to be differentiated."""
    return [torch.as_tensor(np.asarray(v), dtype=dtype).requires_grad_(True) for v in values]


def data_for(logprobs: Sequence[torch.Tensor], **inputs: Sequence[Any]) -> list[Datum]:
    """A datum for each tensor; `inputs` hold one array a datum."""
    return [
        datum(
            len(tensor),
            tensor.shape[1] if tensor.ndim == 2 else None,
            **{name: arrays[index] for name, arrays in inputs.items()},
        )
        for index, tensor in enumerate(logprobs)
    ]


def gradient(loss: torch.Tensor, logprobs: Sequence[torch.Tensor]) -> np.ndarray[Any, Any]:
    """Autograd's gradient of all datums in one row."""
    found = torch.autograd.grad(loss, logprobs, allow_unused=True, retain_graph=True)
    parts = [torch.zeros_like(x) if g is None else g for g, x in zip(found, logprobs, strict=True)]
    return torch.cat([part.flatten() for part in parts]).numpy()


def finite_differences(
    value: Callable[[list[torch.Tensor]], torch.Tensor],
    logprobs: Sequence[torch.Tensor],
    step: float = 1e-6,
) -> np.ndarray[Any, Any]:
    """Central differences of a scalar function at every coordinate."""
    slopes: list[float] = []
    for which, tensor in enumerate(logprobs):
        for place in range(tensor.numel()):
            ends = []
            for sign in (1.0, -1.0):
                moved = [x.detach().clone() for x in logprobs]
                moved[which].view(-1)[place] += sign * step
                # A leaf, since some terms differentiate it themselves.
                ends.append(float(value([x.requires_grad_(True) for x in moved]).detach()))
            slopes.append((ends[0] - ends[1]) / (2 * step))
    return np.array(slopes)
