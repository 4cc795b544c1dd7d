"""What the model says of whole distributions, for terms that need more than chosen tokens.

A term with `distribution="full"` or `distribution=K` sees each datum as if the vocabulary, or the K
likeliest tokens of each position, were its targets: `target_tokens` and the logprobs are (N, V) or
(N, K), and the tokens that the data itself names are the loss input `chosen_tokens`. The logprobs
come from a service with the extension `retained_forward`; their gradients go back to it. Main
names: `Distributions`, `widest`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tinsmith.regularizers.specs import Regularizer
from tinsmith.types import Datum, TensorData

if TYPE_CHECKING:
    import torch

__all__ = ["CHOSEN_TOKENS", "Distributions", "widest"]

CHOSEN_TOKENS = "chosen_tokens"
"""Loss input of the datums that such a term sees: their own `target_tokens`."""

Width = int | Literal["full"]


@dataclass(frozen=True)
class Distributions:
    """Logprobs of many tokens at every position of a batch.

    Attributes:
        logprobs: Of each datum, (N, V) or (N, K); leaves.
        tokens: Of each datum (N, K), int64, likeliest first; None where column j is token j.
    """

    logprobs: Sequence[torch.Tensor]
    tokens: Sequence[torch.Tensor] | None = None

    def columns(self, index: int) -> torch.Tensor:
        """The token of every logprob of a datum: (N, V) or (N, K), int64."""
        import torch

        if self.tokens is not None:
            return self.tokens[index]
        tensor = self.logprobs[index]
        return torch.arange(tensor.shape[1]).expand(tensor.shape)

    def narrowed(self, width: Width) -> Distributions:
        """The `width` likeliest tokens of every position, or the same; differentiable."""
        if width == "full":
            return self
        if self.tokens is not None:
            tokens = [tensor[:, :width] for tensor in self.tokens]
            return Distributions([tensor[:, :width] for tensor in self.logprobs], tokens)
        top = [tensor.topk(min(width, tensor.shape[1]), dim=1) for tensor in self.logprobs]
        return Distributions([found.values for found in top], [found.indices for found in top])

    def seen_in(self, data: Sequence[Datum]) -> list[Datum]:
        """The datums with these tokens as targets."""
        return [
            Datum(
                model_input=datum.model_input,
                loss_fn_inputs={
                    **datum.loss_fn_inputs,
                    CHOSEN_TOKENS: datum.loss_fn_inputs["target_tokens"],
                    "target_tokens": TensorData.from_numpy(
                        np.ascontiguousarray(self.columns(index).numpy())
                    ),
                },
            )
            for index, datum in enumerate(data)
        ]


def widest(terms: Iterable[Regularizer]) -> Width | None:
    """What one forward has to tell for all of them; None where no term needs a distribution."""
    widths = [term.distribution for term in terms if term.distribution is not None]
    numbers = [width for width in widths if isinstance(width, int)]
    return "full" if len(numbers) < len(widths) else max(numbers, default=None)
