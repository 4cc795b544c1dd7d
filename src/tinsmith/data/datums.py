"""From a rendered example to a `Datum`: truncation and the shift by one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinsmith.core.errors import DataError
from tinsmith.types import Datum, ModelInput, TensorData


class BuiltDatum(NamedTuple):
    """A datum and what became of the example on the way.

    Attributes:
        datum: Inputs `tokens[:-1]`, targets `tokens[1:]` and the targets' weights.
        num_loss_tokens: Targets whose weight is not 0; a datum with none teaches nothing.
        num_truncated_tokens: Tokens cut off on the right.
    """

    datum: Datum
    num_loss_tokens: int
    num_truncated_tokens: int


def datum_from_example(
    model_input: ModelInput, weights: NDArray[np.float32], max_length: int | None = None
) -> BuiltDatum:
    """Cut an example at `max_length` tokens on the right and shift it by one.

    Args:
        model_input: Tokens of the whole example, text only.
        weights: One weight a token, of the token as a *target*.
        max_length: Longest example kept whole, in tokens.

    Raises:
        DataError: Fewer than two tokens, or not one weight a token.
    """
    tokens = np.asarray(model_input.to_ints(), dtype=np.int64)
    if tokens.shape != weights.shape:
        raise DataError(
            f"weights: {weights.size} for {tokens.size} tokens; one a token is needed",
            field="weights",
        )
    length = tokens.size if max_length is None else min(tokens.size, max_length)
    if length < 2:
        raise DataError(
            f"the example has {length} tokens: at least 2 are needed to predict one from another",
            field="model_input",
        )
    targets = tokens[1:length]
    target_weights = np.ascontiguousarray(weights[1:length], dtype=np.float32)
    return BuiltDatum(
        datum=Datum(
            model_input=ModelInput.from_ints(tokens[: length - 1].tolist()),
            loss_fn_inputs={
                "target_tokens": TensorData.from_numpy(targets),
                "weights": TensorData.from_numpy(target_weights),
            },
        ),
        num_loss_tokens=int(np.count_nonzero(target_weights)),
        num_truncated_tokens=int(tokens.size - length),
    )
