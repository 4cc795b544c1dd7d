"""One tensor of all logprobs instead of one for each datum.

`packed(fn)` makes a loss or a term of a function `(data, logprobs, boundaries)`: `logprobs` holds
the datums one after another, and datum `i` is `logprobs[boundaries[i]:boundaries[i + 1]]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinsmith.core.errors import ConfigError, DataError
from tinsmith.regularizers.specs import accepts
from tinsmith.types import Datum

if TYPE_CHECKING:
    import torch

__all__ = ["packed"]


@dataclass(frozen=True)
class _Packed:
    fn: Callable[..., Any]
    name: str
    num_arguments: int

    def __call__(self, data: list[Datum], logprobs: list[torch.Tensor]) -> Any:
        """Any: what the function returns, a coroutine perhaps."""
        import torch

        widths = {tuple(tensor.shape[1:]) for tensor in logprobs}
        if len(widths) > 1:
            raise DataError(
                f"logprobs: of shapes (N, ...) with {sorted(widths)}; one tensor needs one width",
                field="target_tokens",
                hint="give every datum as many targets a position, or take a list of tensors",
            )
        boundaries = [0, *itertools.accumulate(len(tensor) for tensor in logprobs)]
        arguments = (data, torch.cat(logprobs), boundaries)
        return self.fn(*arguments[: self.num_arguments])


def packed(fn: Callable[..., Any]) -> Callable[[list[Datum], list[torch.Tensor]], Any]:
    """Let `fn` see one tensor: `(data, logprobs, boundaries)`, or `(data, logprobs)` alone.

    Args:
        fn: `logprobs` is (N,) or (N, K) with the targets of all datums, `boundaries` a list of
            len(data) + 1 positions from 0 to N. It may be a coroutine function.

    Example:
        >>> mean_nll = packed(lambda data, logprobs: (-logprobs.mean(), {}))

    Raises:
        ConfigError: it takes neither two nor three arguments.
    """
    num_arguments = next((count for count in (3, 2) if accepts(fn, count)), None)
    if num_arguments is None:
        raise ConfigError(
            "packed: fn must take (data, logprobs, boundaries) or (data, logprobs)", field="fn"
        )
    name = getattr(fn, "__name__", "")
    return _Packed(fn, "" if name == "<lambda>" else name, num_arguments)
