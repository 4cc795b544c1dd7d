"""What training asks for and gets: a request, its output, the answer to an optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tinsmith.core.errors import ServerError
from tinsmith.types._model import ResponseModel
from tinsmith.types.datum import Datum
from tinsmith.types.tensor_data import TensorData

__all__ = [
    "ForwardBackwardOutput",
    "ForwardBackwardRequest",
    "LossFnInputs",
    "LossFnOutput",
    "OptimStepResponse",
]

LossFnInputs = dict[str, TensorData]
LossFnOutput = dict[str, TensorData]


@dataclass(frozen=True)
class ForwardBackwardRequest:
    """Loss and gradients (the loss alone with `forward_only`) of some datums."""

    model_id: str
    seq_id: int
    """Place among the model's requests, from 1."""
    data: Sequence[Datum]
    loss_fn: str
    loss_fn_config: dict[str, float | str] = field(default_factory=dict[str, float | str])
    forward_only: bool = False


class ForwardBackwardOutput(ResponseModel):
    """Outputs of each datum, in order, and metrics named `name:reduction`."""

    loss_fn_output_type: str
    loss_fn_outputs: list[dict[str, TensorData]]
    """Arrays by name for each datum, such as `logprobs` in the shape of its targets."""
    metrics: dict[str, float]
    """The part after the colon says how values of several requests combine."""

    @property
    def loss(self) -> float:
        """The summed loss, `metrics["loss:sum"]`."""
        try:
            return self.metrics["loss:sum"]
        except KeyError as error:
            raise ServerError("metrics: the service sent no loss:sum", field="loss:sum") from error


class OptimStepResponse(ResponseModel):
    """Metrics of one optimizer step, such as `grad_norm`."""

    metrics: dict[str, float] | None = None
