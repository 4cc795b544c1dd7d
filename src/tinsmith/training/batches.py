"""The batches of a supervised run: which conversations a step trains on, and with which weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinsmith.data import SupervisedDataset, epoch_order
from tinsmith.training.config import LossNormalisation
from tinsmith.types import Datum, TensorData


class Position(NamedTuple):
    """A place in the data: the batch that a step trains on."""

    epoch: int
    batch: int


@dataclass(frozen=True)
class Batch:
    """One step's data.

    Attributes:
        datums: With the weights that are sent, normalised.
        num_tokens: Input tokens.
        num_loss_tokens: Targets with a loss weight.
    """

    datums: tuple[Datum, ...]
    num_tokens: int
    num_loss_tokens: int


@dataclass(frozen=True)
class BatchPlan:
    """The order of a run's batches; a step's batch depends on the step alone.

    Attributes:
        dataset: What is trained on.
        batch_size: Conversations a batch; the last one of an epoch may hold fewer.
        seed: Every epoch is ordered by `seed + epoch`.
        normalisation: What the loss of a batch is divided by.
    """

    dataset: SupervisedDataset
    batch_size: int
    seed: int
    normalisation: LossNormalisation

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def position(self, step: int) -> Position:
        """Epoch and batch of a step, both from 0."""
        return Position(*divmod(step, self.batches_per_epoch))

    def indices(self, step: int) -> list[int]:
        """Conversations of a step."""
        epoch, batch = self.position(step)
        order = _cached_order(len(self.dataset), self.seed, epoch)
        return order[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()

    def build(self, step: int) -> Batch:
        """Render the batch of a step and normalise its weights."""
        built = self.dataset.build(self.indices(step))
        counts = [item.num_loss_tokens for item in built]
        scales = weight_scales(counts, self.normalisation)
        return Batch(
            datums=tuple(
                _scaled(item.datum, scale) for item, scale in zip(built, scales, strict=True)
            ),
            num_tokens=sum(item.datum.model_input.length for item in built),
            num_loss_tokens=sum(counts),
        )


def weight_scales(
    num_loss_tokens: Sequence[int], normalisation: LossNormalisation
) -> tuple[float, ...]:
    """What each example's weights are multiplied by.

    With `n_i` trained tokens in example `i` of `m`: `token_mean` 1 / sum(n), `example_mean`
    1 / (m n_i), `sum` 1.
    """
    match normalisation:
        case "token_mean":
            return (1.0 / sum(num_loss_tokens),) * len(num_loss_tokens)
        case "example_mean":
            return tuple(1.0 / (len(num_loss_tokens) * count) for count in num_loss_tokens)
        case "sum":
            return (1.0,) * len(num_loss_tokens)


def _scaled(datum: Datum, scale: float) -> Datum:
    weights = datum.loss_fn_inputs["weights"].to_numpy() * np.float32(scale)
    inputs = {**datum.loss_fn_inputs, "weights": TensorData.from_numpy(weights)}
    return Datum(model_input=datum.model_input, loss_fn_inputs=inputs)


@lru_cache(maxsize=2)
def _cached_order(num_items: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return epoch_order(num_items, seed, epoch)
