"""Evaluators: what a loop measures between steps, without touching what is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tinsmith.data.supervised import SupervisedDataset
from tinsmith.training import names
from tinsmith.types import Datum, ForwardBackwardOutput

if TYPE_CHECKING:
    from tinsmith.client import TrainingClient


class Evaluator(Protocol):
    """Measures the current weights."""

    async def __call__(self, client: TrainingClient) -> Mapping[str, float]:
        """Metrics of the weights as they are now."""
        ...


def sum_nll(data: Sequence[Datum], output: ForwardBackwardOutput) -> tuple[float, int]:
    """Sum of the trained tokens' negative log-likelihoods, in nats and float64, and their number.

    A token is trained if its weight is not 0; how much it weighs in the loss does not matter here.
    """
    nll = 0.0
    num_tokens = 0
    for datum, result in zip(data, output.loss_fn_outputs, strict=True):
        trained = datum.loss_fn_inputs["weights"].to_numpy() != 0
        logprobs = result["logprobs"].to_numpy()[trained]
        nll -= float(logprobs.sum(dtype=np.float64))
        num_tokens += int(trained.sum())
    return nll, num_tokens


@dataclass(frozen=True)
class NLLEvaluator:
    """Mean negative log-likelihood of the trained tokens of held-out data.

    Runs forward passes only: no gradient is accumulated, so training goes on as if it had not been
    asked.

    Attributes:
        batches: Held-out datums with weights 0 or 1, in batches.
    """

    batches: tuple[tuple[Datum, ...], ...]

    @classmethod
    def from_dataset(cls, dataset: SupervisedDataset, batch_size: int) -> NLLEvaluator:
        datums = [built.datum for built in dataset.build(range(len(dataset)))]
        starts = range(0, len(datums), batch_size)
        return cls(tuple(tuple(datums[start : start + batch_size]) for start in starts))

    async def __call__(self, client: TrainingClient) -> Mapping[str, float]:
        futures = [client.forward(list(batch), "cross_entropy") for batch in self.batches]
        sums = [
            sum_nll(batch, await future)
            for batch, future in zip(self.batches, futures, strict=True)
        ]
        num_tokens = sum(count for _, count in sums)
        return {
            names.EVAL_NLL: sum(nll for nll, _ in sums) / num_tokens,
            names.EVAL_NUM_LOSS_TOKENS: num_tokens,
        }
