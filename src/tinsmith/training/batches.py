"""The batches of a run: which rows of the data a step trains on, and with which weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinsmith.data import epoch_order
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
        updates: The datums of each optimizer update, ready to be sent; mostly there is one.
        metrics: What is known of the batch before it is sent.
    """

    updates: tuple[tuple[Datum, ...], ...]
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def datums(self) -> tuple[Datum, ...]:
        """Those of all updates."""
        return tuple(datum for update in self.updates for datum in update)

    @property
    def num_tokens(self) -> int:
        """Input tokens."""
        return sum(datum.model_input.length for datum in self.datums)


@dataclass(frozen=True)
class BatchPlan:
    """The order of a run's batches; a step's batch depends on the step alone.

    Attributes:
        num_items: Rows of the data.
        batch_size: Rows a batch; the last one of an epoch may hold fewer.
        seed: Every epoch is ordered by `seed + epoch`.
        max_batch_tokens: If given, batches are as many rows as fit into so many tokens, at least
            one, in the epoch's order; `batch_size` then does not matter.
        lengths: Tokens of every row; needed with `max_batch_tokens`.
    """

    num_items: int
    batch_size: int
    seed: int
    max_batch_tokens: int | None = None
    lengths: tuple[int, ...] = ()

    @property
    def batches_per_epoch(self) -> int:
        """Batches of the first epoch; of every epoch, where conversations are counted."""
        return self.num_batches(0)

    def num_batches(self, epoch: int) -> int:
        if self.max_batch_tokens is None:
            return -(-self.num_items // self.batch_size)
        return len(_token_starts(self, epoch)) - 1

    def num_steps(self, num_epochs: int) -> int:
        """Steps of so many epochs."""
        return sum(self.num_batches(epoch) for epoch in range(num_epochs))

    def position(self, step: int) -> Position:
        """Epoch and batch of a step, both from 0."""
        if self.max_batch_tokens is None:
            return Position(*divmod(step, self.batches_per_epoch))
        epoch = 0
        while step >= self.num_batches(epoch):
            step -= self.num_batches(epoch)
            epoch += 1
        return Position(epoch, step)

    def epochs_done(self, step: int) -> float:
        """Epochs behind a run after `step` steps, with their fraction."""
        epoch, batch = self.position(step)
        return epoch + batch / self.num_batches(epoch)

    def indices(self, step: int) -> list[int]:
        """Rows of a step."""
        epoch, batch = self.position(step)
        order = _cached_order(self.num_items, self.seed, epoch)
        if self.max_batch_tokens is None:
            return order[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()
        starts = _token_starts(self, epoch)
        return order[starts[batch] : starts[batch + 1]].tolist()


@lru_cache(maxsize=4)
def _token_starts(plan: BatchPlan, epoch: int) -> list[int]:
    """Where an epoch's batches start in its order, and where the last one ends."""
    assert plan.max_batch_tokens is not None
    starts, num_tokens = [0], 0
    for place, index in enumerate(_cached_order(plan.num_items, plan.seed, epoch).tolist()):
        length = plan.lengths[index]
        if num_tokens and num_tokens + length > plan.max_batch_tokens:
            starts.append(place)
            num_tokens = 0
        num_tokens += length
    return [*starts, len(plan.lengths)]


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


def scaled(datum: Datum, scale: float) -> Datum:
    """The datum with its weights multiplied."""
    weights = datum.loss_fn_inputs["weights"].to_numpy() * np.float32(scale)
    inputs = {**datum.loss_fn_inputs, "weights": TensorData.from_numpy(weights)}
    return Datum(model_input=datum.model_input, loss_fn_inputs=inputs)


@lru_cache(maxsize=2)
def _cached_order(num_items: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return epoch_order(num_items, seed, epoch)
