"""A forward pass whose graph waits: logprobs first, their gradients later, and one pass in all.

A custom loss needs the logprobs before it can say their gradient. `RetainedForward` computes them
and keeps the graph of the hidden states; `pull_back` takes a gradient by the logprobs through it to
the adapter, as often as asked: once for the step, and once for each term whose norm by the
parameters is wanted. Logits are kept as far as `EngineLimits.max_head_elements` allows, and used up
by the last gradient; beyond that the output layer is computed again. `RetainedForwards` holds a
bounded number of tokens for a bounded time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tinsmith.core.errors import UserError
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.batching import plan_microbatches
from tinsmith.engine.datums import CheckedJob
from tinsmith.engine.head import KeptChunks
from tinsmith.engine.jobs import EngineLimits
from tinsmith.engine.passes import HiddenPass, JobRun, finish_microbatch, rows_of, run_hidden

__all__ = ["RetainedForward", "RetainedForwards"]


class RetainedForward:
    """One job's forward pass with its graph.

    Args:
        base: The base model.
        run: The job, whose adapter pass wants gradients. Its logprobs and loss are filled in.
        limits: Shapes of the micro-batches.
    """

    def __init__(self, base: BaseModel, run: JobRun, limits: EngineLimits) -> None:
        if run.adapter.grad is None:
            raise ValueError("run: its adapter pass must want gradients")
        self.run = run
        self._base = base
        self._limits = limits
        self._grad = run.adapter.grad
        run.logprobs = [None] * len(run.checked.data)
        rows = rows_of(run)
        plan = plan_microbatches([row.length for row in rows], limits.max_microbatch_tokens)
        self._passes: list[tuple[list[int], HiddenPass, KeptChunks]] = []
        room = limits.max_head_elements
        for places in plan:
            hidden = run_hidden(base, [rows[i] for i in places], backward=True)
            chunks = KeptChunks(room)
            finish_microbatch(base, hidden, limits, backward=False, chunks=chunks)
            room = chunks.room
            self._passes.append((list(places), hidden, chunks))

    @property
    def num_tokens(self) -> int:
        """Positions that the graph holds, without padding."""
        return sum(len(datum.tokens) for datum in self.run.checked.data)

    def run_of(self, checked: CheckedJob) -> JobRun:
        """Another loss of the same logprobs.

        Raises:
            UserError: its inputs or targets are not those of this pass.
        """
        ours = self.run.checked.data
        is_same = len(checked.data) == len(ours) and all(
            torch.equal(one.tokens, other.tokens) and torch.equal(one.targets, other.targets)
            for one, other in zip(checked.data, ours, strict=True)
        )
        if not is_same:
            raise UserError(
                "data: inputs and targets are not those of the forward pass that waits",
                field="data",
                hint="send the same datums, with other weights",
            )
        return JobRun(checked, self.run.adapter)

    def pull_back(self, run: JobRun, *, is_last: bool) -> Tensor:
        """The gradient by the adapter of another loss of the same logprobs.

        Args:
            run: Of `run_of`: a cross-entropy whose weights are minus the gradient by the logprobs.
                Its results are filled in.
            is_last: Let go of the graph.

        Returns:
            The flat gradient; a buffer of the caller's own.
        """
        self._grad.zero_()
        run.logprobs = [None] * len(run.checked.data)
        rows = rows_of(run)
        for places, hidden, chunks in self._passes:
            finish_microbatch(
                self._base,
                hidden.for_rows([rows[i] for i in places]),
                self._limits,
                backward=True,
                keep_graph=not is_last,
                chunks=chunks if is_last else None,
            )
        if is_last:
            self._passes = []
        return self._grad.clone()


@dataclass
class _Held:
    adapter_id: str
    forward: RetainedForward
    expires_at: float


class RetainedForwards:
    """Forward passes that wait for their gradients, by id; the oldest give way.

    Args:
        max_tokens: Positions held at a time; a single pass may be larger and is then alone.
        ttl_s: Seconds that one is kept.
        clock: Seconds that only grow.
    """

    def __init__(
        self, max_tokens: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_tokens = max_tokens
        self._ttl_s = ttl_s
        self._clock = clock
        self._held: dict[str, _Held] = {}

    @property
    def num_tokens(self) -> int:
        """Positions held now."""
        return sum(held.forward.num_tokens for held in self._held.values())

    def keep(self, graph_id: str, adapter_id: str, forward: RetainedForward) -> None:
        """Hold a pass, and let go of those that are too old or too many."""
        self._expire()
        self._held[graph_id] = _Held(adapter_id, forward, self._clock() + self._ttl_s)
        while len(self._held) > 1 and self.num_tokens > self._max_tokens:
            del self._held[next(iter(self._held))]

    def get(self, graph_id: str, adapter_id: str) -> RetainedForward:
        """The pass of that id.

        Raises:
            UserError: it has expired, given way, belongs to another adapter, or never was.
        """
        self._expire()
        held = self._held.get(graph_id)
        if held is None or held.adapter_id != adapter_id:
            raise UserError(
                f"graph={graph_id!r}: no forward pass of this model waits under this name; it is "
                f"kept for {self._ttl_s:g} s, and until the weights change",
                field="graph",
                hint="compute the forward pass again",
            )
        return held.forward

    def drop(self, graph_id: str) -> None:
        """Let go of a pass; unknown ids are ignored."""
        self._held.pop(graph_id, None)

    def drop_adapter(self, adapter_id: str) -> None:
        """Let go of an adapter's passes, because its weights change."""
        self._held = {k: held for k, held in self._held.items() if held.adapter_id != adapter_id}

    def _expire(self) -> None:
        now = self._clock()
        self._held = {k: held for k, held in self._held.items() if held.expires_at > now}
