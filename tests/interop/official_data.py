"""Datums of the official client's own types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tinker

VOCABULARY = 500  # ids of ordinary tokens of the bundled model


def random_data(num_datums: int, *, seed: int, max_length: int = 24) -> list[tinker.Datum]:
    """Random tokens; weights that are zero, fractional and negative."""
    import tinker

    rng = np.random.default_rng(seed)
    data = []
    for _ in range(num_datums):
        length = int(rng.integers(3, max_length))
        tokens = rng.integers(5, VOCABULARY, length + 1).tolist()
        weights = rng.normal(size=length).astype(np.float32)
        weights[: length // 3] = 0.0
        inputs: Any = {"target_tokens": tokens[1:], "weights": weights}
        data.append(tinker.Datum(tinker.ModelInput.from_ints(tokens[:-1]), inputs))
    return data


def with_advantages(
    data: Sequence[tinker.Datum], learner: Sequence[np.ndarray], *, seed: int
) -> list[tinker.Datum]:
    """The same tokens for a policy-gradient loss; ratios fall below, within and above clips."""
    import tinker

    rng = np.random.default_rng(seed)
    made = []
    for datum, logprobs in zip(data, learner, strict=True):
        inputs: Any = {
            "target_tokens": datum.loss_fn_inputs["target_tokens"],
            "logprobs": (logprobs + 0.5 * rng.normal(size=logprobs.shape)).astype(np.float32),
            "advantages": datum.loss_fn_inputs["weights"],
        }
        made.append(tinker.Datum(datum.model_input, inputs))
    return made


def outputs_of(output: Any) -> list[np.ndarray]:
    """The logprobs of each datum."""
    return [record["logprobs"].to_numpy() for record in output.loss_fn_outputs]
