"""Forward graphs kept between a forward and its backward.

A loss that the client computes from logprobs needs a forward, then a backward with the gradient of
the logprobs. Done with two ordinary passes the layers run forward twice; a kept graph saves the
second time. `RetainedGraphs` keeps the graphs of all adapters under one bound of bytes and a time
to live. A graph holds views of its adapter's weights, so whatever changes these drops it first.

What is kept is the graph below the head, the hidden states, and the head's logprobs where these are
a small part of the room; elsewhere they are computed again for positions that have a gradient.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tinsmith.core.errors import ConfigError, DataError, UserError
from tinsmith.engine.adapters import Adapter, AdapterPass
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.batching import plan_microbatches
from tinsmith.engine.datums import CheckedDatum, CheckedJob
from tinsmith.engine.head import HeadChunk, TargetGradient, head_backward
from tinsmith.engine.jobs import EngineLimits, ForwardBackwardJob, RetainGraph, UseGraph
from tinsmith.engine.passes import JobRun, Microbatch, Row
from tinsmith.types import ForwardBackwardOutput, TensorData

__all__ = ["MAX_DISTRIBUTION_CELLS", "RetainedGraphs", "accumulated_norm"]

MAX_DISTRIBUTION_CELLS = 2**23
"""Logprobs of distributions in one answer; with the way back some 100 MB."""

_LOGITS_SHARE = 0.25
"""Of the free room, up to which the logprobs of all tokens are kept, too."""

_MAX_REASONS = 1024
"""Graphs that are gone and whose fate is remembered."""


class _KeptBatch(NamedTuple):
    """One micro-batch, and what its head computed if that was kept."""

    batch: Microbatch
    chunks: list[HeadChunk]


@dataclass(frozen=True)
class _Graph:
    """What one forward left behind."""

    data: list[CheckedDatum]
    batches: list[_KeptBatch]
    adapter: AdapterPass
    output: ForwardBackwardOutput
    distributions: list[tuple[Tensor | None, Tensor | None]]
    num_bytes: int
    expires_s: float


class RetainedGraphs:
    """The graphs of one engine.

    Args:
        base: the model.
        limits: how much is kept, and how long.
        clock: seconds that never go back.
    """

    def __init__(
        self, base: BaseModel, limits: EngineLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._base = base
        self._limits = limits
        self._clock = clock
        self._graphs: dict[tuple[str, int], _Graph] = {}
        self._reasons: OrderedDict[tuple[str, int], str] = OrderedDict()
        self._frozen = {
            parameter.untyped_storage().data_ptr() for parameter in base.model.parameters()
        }

    def bound(self, *, max_bytes: int | None, ttl_s: float) -> None:
        """Set how much is kept (None: as it is) and how long, from the next forward on."""
        if max_bytes is not None:
            self._limits = replace(self._limits, max_graph_bytes=max_bytes)
        self._limits = replace(self._limits, graph_ttl_s=ttl_s)

    @property
    def num_bytes(self) -> int:
        """What all graphs hold."""
        return sum(graph.num_bytes for graph in self._graphs.values())

    def next_expiry_s(self) -> float | None:
        """Seconds until a graph's time is up; None while there is none."""
        if not self._graphs:
            return None
        first = min(graph.expires_s for graph in self._graphs.values())
        return max(0.0, first - self._clock())

    def expire(self) -> None:
        """Drop what has been kept for too long."""
        now = self._clock()
        for key, graph in list(self._graphs.items()):
            if graph.expires_s <= now:
                self._forget(key, f"it was kept for {self._limits.graph_ttl_s:g} s and expired")

    def drop(self, adapter_id: str, reason: str) -> None:
        """Drop an adapter's graphs, because of `reason`."""
        for key in [key for key in self._graphs if key[0] == adapter_id]:
            self._forget(key, reason)

    def forward(
        self, job: ForwardBackwardJob, adapter: Adapter, checked: CheckedJob
    ) -> ForwardBackwardOutput:
        """A forward whose graph is kept, if there is room: `graph_bytes:sum` is 0 if not.

        Raises:
            UserError: the logprobs are not finite, or the distributions asked for are too many.
        """
        assert isinstance(job.graph, RetainGraph)
        self.expire()
        self._check_distribution(job.graph, checked)
        run = JobRun(checked, adapter.make_pass(backward=True), distribution=job.graph.distribution)
        run.prepare()
        key = (job.adapter_id, job.graph.graph_id)
        batches, num_bytes = self._forward_batches(run)
        problem = run.problem()
        if problem is not None:
            raise problem
        output = run.output()
        told = {"graph_bytes:sum": float(num_bytes if batches is not None else 0)}
        output = output.model_copy(update={"metrics": output.metrics | told})
        if batches is None:
            self._remember(
                key,
                f"it would not fit: {num_bytes} bytes and more, of max_graph_bytes="
                f"{self._limits.max_graph_bytes} another {self.num_bytes} are taken",
            )
            return output
        self._reasons.pop(key, None)
        self._graphs[key] = _Graph(
            data=checked.data,
            batches=batches,
            adapter=run.adapter,
            output=output,
            distributions=list(zip(run.top_tokens, run.top_logprobs, strict=True)),
            num_bytes=num_bytes,
            expires_s=self._clock() + self._limits.graph_ttl_s,
        )
        return output

    def has(self, job: ForwardBackwardJob) -> bool:
        """Whether the job's graphs are there.

        Raises:
            ConfigError: a graph computes another loss than the job's.
            UserError: one is not, and the job does not want an ordinary pass instead.
        """
        use = job.graph
        assert isinstance(use, UseGraph)
        if job.loss_fn != "cross_entropy":
            raise ConfigError(
                f"loss_fn={job.loss_fn!r}: must be 'cross_entropy' on a kept graph: its weights "
                "are minus the gradient of your loss by the logprobs",
                field="loss_fn",
            )
        self.expire()
        for graph_id in use.graph_ids:
            key = (job.adapter_id, graph_id)
            if key in self._graphs:
                continue
            if use.on_missing == "recompute" and use.accumulate:
                return False
            why = self._reasons.get(key, "no forward of this model kept it")
            raise UserError(
                f"graph={graph_id}: is not kept: {why}",
                field="graph",
                hint="run the forward again, or send on_missing=recompute for an ordinary pass",
            )
        return True

    def backward(
        self, job: ForwardBackwardJob, adapter: Adapter, checked: CheckedJob
    ) -> ForwardBackwardOutput:
        """The gradient through kept graphs: added and the graphs dropped, or its norm told.

        Raises:
            DataError: the data is not that of the forward; nothing was added, the graphs stay.
            UserError: the gradient is not finite; nothing was added.
        """
        use = job.graph
        assert isinstance(use, UseGraph)
        keys = [(job.adapter_id, graph_id) for graph_id in use.graph_ids]
        graphs = [self._graphs[key] for key in keys]
        parts = _parts(graphs, checked)
        logprobs = [
            _logprobs_of(graph, (index, first + index), datum)
            for graph, first, data in parts
            for index, datum in enumerate(data)
        ]
        try:
            total = torch.zeros_like(adapter.flat)
            for graph, _, data in parts:
                assert graph.adapter.grad is not None, "a kept graph has a gradient buffer"
                graph.adapter.grad.zero_()
                for batch in graph.batches:
                    self._pull_back(batch, data, retain_graph=not use.accumulate)
                total.add_(graph.adapter.grad)
        finally:
            if use.accumulate:  # as much as ran has freed its part of the graph
                for key in keys:
                    self._forget(key, "its backward has run")
        norm = float(torch.linalg.vector_norm(total, dtype=torch.float64))
        if not math.isfinite(norm):
            raise UserError(
                "the gradient is not finite; nothing was accumulated",
                field="data",
                hint="scale weights or advantages down",
            )
        answer = _answer(checked, logprobs, norm)
        if use.accumulate:
            adapter.accumulate(total)
            answer.metrics.update(accumulated_norm(adapter))
        return answer

    def _check_distribution(self, retain: RetainGraph, checked: CheckedJob) -> None:
        if retain.distribution is None:
            return
        vocab_size = self._base.info.vocab_size
        width = retain.distribution or vocab_size
        if width > vocab_size:
            raise ConfigError(
                f"distribution={width}: must be at most the vocabulary of {vocab_size}, or 'full'",
                field="distribution",
            )
        num_positions = sum(len(datum.tokens) for datum in checked.data)
        if num_positions * width > MAX_DISTRIBUTION_CELLS:
            most = MAX_DISTRIBUTION_CELLS // num_positions
            raise ConfigError(
                f"distribution: {num_positions} positions of {width} tokens are "
                f"{num_positions * width} logprobs, must be {MAX_DISTRIBUTION_CELLS} at most",
                field="distribution",
                hint=f"ask for the likeliest tokens only, distribution={most} or fewer, or send "
                "fewer datums at a time",
            )

    def _forward_batches(self, run: JobRun) -> tuple[list[_KeptBatch] | None, int]:
        """The micro-batches with their graphs, None if they do not fit; and their bytes."""
        rows = [Row(run, index) for index in range(len(run.checked.data))]
        limits = self._limits
        room = limits.max_graph_bytes - self.num_bytes
        itemsize = max(4, self._base.dtype.itemsize)
        num_logits = sum(row.length for row in rows) * self._base.info.vocab_size
        keeps_logits = num_logits * itemsize <= _LOGITS_SHARE * room
        batches: list[_KeptBatch] | None = []
        saved = _SavedBytes({*self._frozen, *_storages(run.adapter)})
        for indices in plan_microbatches(
            [row.length for row in rows], limits.max_microbatch_tokens
        ):
            members = [rows[i] for i in indices]
            with torch.autograd.graph.saved_tensors_hooks(saved.pack, _same):
                batch = Microbatch.forward(self._base, members, with_graph=batches is not None)
            kept = [] if keeps_logits and batches is not None else None
            batch.evaluate(self._base, limits, backward=False, kept=kept)
            if batches is not None:
                saved.add(batch.hidden)
                for chunk in kept or ():
                    for tensor in (chunk.hidden, chunk.logprobs, *chunk.projected):
                        saved.add(tensor)
                batches.append(_KeptBatch(batch, kept or []))
                if saved.num_bytes > room:
                    batches = None  # one micro-batch above the bound, as any pass holds
        return batches, saved.num_bytes

    def _pull_back(
        self, kept: _KeptBatch, data: Sequence[CheckedDatum], *, retain_graph: bool
    ) -> None:
        """Add the gradient of one micro-batch to its leaves' buffers."""
        batch = kept.batch
        gradients: list[TargetGradient] = []
        for row, start in zip(batch.rows, batch.offsets[:-1], strict=True):
            datum = data[row.index]
            targets = datum.targets.to(self._base.device)
            dtype = torch.float64 if self._base.dtype == torch.float64 else torch.float32
            values = -datum.inputs["weights"].to(self._base.device, dtype)
            gradients.append(TargetGradient(start, targets, values))
        grad = head_backward(
            self._base.head,
            batch.flat,
            gradients,
            batch.spans,
            max_elements=self._limits.max_head_elements,
            chunks=kept.chunks,
        )
        batch.backward(grad, retain_graph=retain_graph)

    def _forget(self, key: tuple[str, int], reason: str) -> None:
        del self._graphs[key]
        self._remember(key, reason)

    def _remember(self, key: tuple[str, int], reason: str) -> None:
        self._reasons[key] = reason
        if len(self._reasons) > _MAX_REASONS:
            self._reasons.popitem(last=False)


def accumulated_norm(adapter: Adapter) -> dict[str, float]:
    """Norm of everything added since the last optimizer step, as a metric."""
    assert adapter.grad is not None
    norm = torch.linalg.vector_norm(adapter.grad, dtype=torch.float64)
    return {"accumulated_grad_norm:unique": float(norm)}


class _SavedBytes:
    """Counts what a graph keeps alive besides weights, each storage once."""

    def __init__(self, weights: set[int]) -> None:
        self.num_bytes = 0
        self._known = weights

    def pack(self, tensor: Tensor) -> Tensor:
        self.add(tensor)
        return tensor

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.num_bytes += storage.nbytes()


def _storages(adapter: AdapterPass) -> set[int]:
    """Of its weights and gradients, which are one small buffer each."""
    return {
        tensor.untyped_storage().data_ptr()
        for pair in adapter.weights.values()
        for tensor in (pair.a, pair.b, pair.a.grad, pair.b.grad)
        if tensor is not None
    }


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _parts(
    graphs: Sequence[_Graph], checked: CheckedJob
) -> list[tuple[_Graph, int, list[CheckedDatum]]]:
    """Each graph with its datums of the job and the number of the first one.

    Raises:
        DataError: they are not those that the graphs are of.
    """
    count = sum(len(graph.data) for graph in graphs)
    if len(checked.data) != count:
        raise DataError(f"data: {len(checked.data)} datums, the forward had {count}", field="data")
    parts: list[tuple[_Graph, int, list[CheckedDatum]]] = []
    first = 0
    for graph in graphs:
        data = checked.data[first : first + len(graph.data)]
        for index, (datum, kept) in enumerate(zip(data, graph.data, strict=True), first):
            if not torch.equal(datum.tokens, kept.tokens):
                raise DataError(
                    f"datum {index}: model_input: differs from that of the forward",
                    field="model_input",
                    datum_index=index,
                )
        parts.append((graph, first, data))
        first += len(data)
    return parts


def _logprobs_of(graph: _Graph, place: tuple[int, int], datum: CheckedDatum) -> Tensor:
    """The forward's logprobs of a datum's targets, in their shape.

    Args:
        graph: of the forward.
        place: the datum's number in the graph, and in the job.
        datum: of the job.

    Raises:
        DataError: the forward did not answer logprobs of these targets.
    """
    index, index_of_job = place
    kept = graph.data[index]
    own = graph.output.loss_fn_outputs[index]["logprobs"].to_torch()
    if torch.equal(datum.targets, kept.targets):
        return own.reshape(datum.shape)
    top_tokens, top_logprobs = graph.distributions[index]
    if top_logprobs is not None:
        if top_tokens is None:
            top_tokens = torch.arange(top_logprobs.shape[1]).expand(top_logprobs.shape)
        if torch.equal(datum.targets, torch.cat([kept.targets, top_tokens], dim=1)):
            columns = [own.reshape(kept.targets.shape), top_logprobs.float()]
            return torch.cat(columns, dim=1)
    raise DataError(
        f"datum {index_of_job}: loss_fn_inputs.target_tokens: of shape {tuple(datum.shape)}, "
        f"differ from those of the forward, of shape {tuple(kept.shape)}",
        field="loss_fn_inputs.target_tokens",
        hint="send the forward's target_tokens, with distribution_tokens as further columns where "
        "they have a gradient",
        datum_index=index_of_job,
    )


def _answer(
    checked: CheckedJob, logprobs: Sequence[Tensor], grad_norm: float
) -> ForwardBackwardOutput:
    losses = [
        -(datum.inputs["weights"].double().reshape(values.shape) * values.double()).sum()
        for datum, values in zip(checked.data, logprobs, strict=True)
    ]
    return ForwardBackwardOutput(
        loss_fn_output_type="ArrayRecord",
        loss_fn_outputs=[{"logprobs": TensorData.from_numpy(v.numpy())} for v in logprobs],
        metrics={
            "loss:sum": float(torch.stack(losses).sum()),
            "tokens:sum": float(sum(len(datum.tokens) for datum in checked.data)),
            "loss_tokens:sum": float(sum(datum.num_loss_tokens or 0 for datum in checked.data)),
            "graph_reused:sum": 1.0,
            "grad_norm:unique": grad_norm,
        },
    )
