"""LossHandle: a custom loss that was traced once, for use in many passes.

A service that runs uploaded losses gets the graph and computes the loss in one ordinary pass;
against any other the same graph runs here, between a forward and a backward pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tinsmith.algorithms.loss_graph import LossGraph
from tinsmith.client.connection import Connection, json_request
from tinsmith.client.loss_tracing import TracedLoss
from tinsmith.client.polling import ResultKind
from tinsmith.core.errors import DataError
from tinsmith.types import (
    CreateCustomLossRequest,
    CreateCustomLossResponse,
    CustomLossInput,
    Datum,
)

if TYPE_CHECKING:
    import torch

_CREATE_LOSS = ResultKind("CreateCustomLoss")


@dataclass(frozen=True)
class LossHandle:
    """A loss that `ServiceClient.create_custom_loss` made.

    Pass it to `TrainingClient.forward_backward_custom` in the place of a function.
    """

    name: str
    inputs: tuple[CustomLossInput, ...]
    """Its parameters in order, `logprobs` first, each with its rank."""
    session_id: str
    """Whose clients can use it."""
    graph: LossGraph = field(repr=False, compare=False)
    """What it computes; this, and not the function, is what runs."""
    loss_id: str | None = None
    """The service's name for it; None where the service runs no uploaded losses."""

    @property
    def key(self) -> str:
        """The same for two losses that compute the same from the same inputs."""
        return hashlib.sha256(repr((self.name, self.inputs, self.graph)).encode()).hexdigest()

    @property
    def input_names(self) -> tuple[str, ...]:
        """The keys of `loss_fn_inputs` that it reads."""
        return tuple(item.name for item in self.inputs[1:])

    def check(self, data: Sequence[Datum]) -> None:
        """Check that every datum has what the loss reads.

        Raises:
            DataError: an input is missing, or has another rank.
        """
        wanted = [("target_tokens", self.inputs[0].rank)]  # logprobs have their shape
        wanted += [(item.name, item.rank) for item in self.inputs[1:]]
        for index, datum in enumerate(data):
            for key, rank in wanted:
                tensor = datum.loss_fn_inputs.get(key)
                problem = None
                if tensor is None:
                    problem = f"missing; the loss {self.name!r} reads it"
                elif len(tensor.shape) != rank:
                    problem = f"rank {len(tensor.shape)}, the loss {self.name!r} declares {rank}"
                if problem is not None:
                    where = f"loss_fn_inputs.{key}"
                    message = f"data[{index}].{where}: {problem}"
                    raise DataError(message, field=where, datum_index=index)

    def run(
        self, data: list[Datum], logprobs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The sum of the datums' losses, and the metrics; for a service that cannot run it."""
        from tinsmith.algorithms.loss_graph_run import budget, run_loss_graph

        losses: list[torch.Tensor] = []
        metrics: dict[str, float] = {}
        for datum, tensor in zip(data, logprobs, strict=True):
            inputs = {name: datum.loss_fn_inputs[name].to_torch() for name in self.input_names}
            loss, values, _ = run_loss_graph(self.graph, tensor, inputs, budget(tensor))
            losses.append(loss)
            for name, value in values.items():
                share = value.item() / (len(data) if name.endswith(":mean") else 1)
                metrics[name] = metrics.get(name, 0.0) + share
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total, metrics


class LossHandles:
    """The losses of one session; used on the SDK's loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[tuple[str, str], LossHandle] = {}

    async def create(self, traced: TracedLoss) -> LossHandle:
        """The handle of a loss, which is uploaded if the service runs such losses."""
        session_id = (await self._connection.session()).session_id
        handle = LossHandle(traced.name, traced.inputs, session_id, traced.checked)
        known = self._known.get((session_id, handle.key))
        if known is not None:
            return known
        if self._connection.config.custom_loss_server_side:
            request = CreateCustomLossRequest(
                session_id=session_id,
                custom_loss_seq_id=next(self._connection.custom_loss_seq_ids),
                name=traced.name,
                inputs=list(traced.inputs),
                graph=traced.uploaded,
            )
            promise = await self._connection.submit(json_request(request))
            answer = await self._connection.result(
                promise.request_id, _CREATE_LOSS, CreateCustomLossResponse
            )
            handle = replace(handle, loss_id=answer.loss_id)
        return self._known.setdefault((session_id, handle.key), handle)
