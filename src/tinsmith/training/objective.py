"""What the steps of a run train on and minimise: the part in which methods differ.

The loop knows this protocol alone. A method (supervised, preference, RL) is one class that has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from tinsmith.training.batches import Batch
from tinsmith.types import Datum, LossFnOutput

if TYPE_CHECKING:
    from tinsmith.client import TrainingClient
    from tinsmith.telemetry import TranscriptWriter
    from tinsmith.training.sampling_evaluators import AnyEvaluator
    from tinsmith.training.saving import Stateful
    from tinsmith.training.terms import Future


class Objective(Protocol):
    """The batches, the loss and the measures of a method."""

    @property
    def num_ahead(self) -> int:
        """Steps sent to the service before the oldest is awaited."""
        ...

    @property
    def is_on_policy(self) -> bool:
        """Whether a batch is made with the weights that it trains, and so after the last step."""
        ...

    @property
    def evaluators(self) -> Sequence[AnyEvaluator]:
        """What is measured on held-out data every `eval_every` steps."""
        ...

    @property
    def stateful(self) -> Mapping[str, Stateful]:
        """What is saved with every checkpoint, by name."""
        ...

    async def build(self, step: int) -> Batch:
        """The batch of a step; the first step is 0."""
        ...

    def submit(self, client: TrainingClient, datums: Sequence[Datum], epoch: float) -> Future:
        """Send the data of one optimizer update; `epoch` counts those done before it."""
        ...

    def measure(self, batch: Batch, outputs: Sequence[LossFnOutput]) -> Mapping[str, float]:
        """Metrics of a step, the first one being what is shown of its progress.

        Args:
            batch: What was sent.
            outputs: What came back for each of its datums.
        """
        ...

    def show_data(self, page: TranscriptWriter) -> None:
        """Put examples of the data into the transcript, once."""
        ...

    def show_batch(self, page: TranscriptWriter, step: int) -> None:
        """Put what there is to see of a step's batch, the newest, into the transcript."""
        ...
