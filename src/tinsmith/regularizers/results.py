"""What a loss function returns, checked: a loss and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tinsmith.core.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["checked_result"]

_HINT = "return loss, {'name': value}; the metrics may be {}"


def checked_result(returned: Any) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss as a scalar tensor and the metrics as numbers; a loss of several values is summed.

    A plain number is a loss that depends on nothing.

    Raises:
        UserError: it is no pair of a loss and metrics.
    """
    import torch

    if not isinstance(returned, tuple) or len(returned) != 2:
        raise UserError(f"returned a {type(returned).__name__}, must return two values", hint=_HINT)
    loss, metrics = returned
    if isinstance(loss, (int, float)) and not isinstance(loss, bool):
        loss = torch.tensor(float(loss))
    if not isinstance(loss, torch.Tensor) or not loss.is_floating_point():
        kind = loss.dtype if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise UserError(f"its loss is a {kind}, must be a torch tensor of floats", hint=_HINT)
    if not isinstance(metrics, Mapping):
        raise UserError(f"its metrics are a {type(metrics).__name__}, must be a dict", hint=_HINT)
    return loss.sum(), {str(name): _number(name, value) for name, value in metrics.items()}


def _number(name: Any, value: Any) -> float:
    try:
        return float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"its metric {name!r} is a {type(value).__name__}, must be a number",
            hint="texts and lists belong in a log, not in metrics",
        ) from error
