"""When a run saves its state, under which name, for how long, and which older ones go.

Kinds of checkpoints: `periodic` every so many steps, `rolling` by the clock (one at a time, with a
time to live, for runs that may be killed), `best` by a metric (one at a time), `final` at the end.
Every one of them can be resumed from.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tinsmith.core.errors import TinsmithError
from tinsmith.telemetry import read_metrics
from tinsmith.training.batches import BatchPlan
from tinsmith.training.checkpoints import (
    FINAL,
    CheckpointKind,
    CheckpointRecord,
    append_record,
    checkpoint_name,
    read_records,
    replace_records,
)
from tinsmith.training.config import RunConfig
from tinsmith.training.recorded_events import record_checkpoint

if TYPE_CHECKING:
    from tinsmith.client import ServiceClient, TrainingClient

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """Something besides the model that a resumed run has to get back, such as a regularizer."""

    def state_dict(self) -> Mapping[str, Any]:
        """Its state as JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state back."""
        ...


class Saver:
    """Saves the state of one run, and keeps its records.

    Args:
        client: The model.
        service: Where checkpoints that are no longer wanted are deleted.
        records_path: `checkpoints.jsonl`.
        plan: Tells a step's place in the data.
        config: Cadences and lifetimes.
        stateful: What else is saved with the state, by name.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        client: TrainingClient,
        service: ServiceClient,
        records_path: Path,
        *,
        plan: BatchPlan,
        config: RunConfig,
        stateful: Mapping[str, Stateful],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.service = service
        self.records_path = records_path
        self.plan = plan
        self.config = config
        self.stateful = stateful
        self.clock = clock
        self.last_saved = clock()
        self.best: float | None = None

    def restore(self, record: CheckpointRecord | None, metrics_path: Path) -> None:
        """Take back what a checkpoint and the metrics up to it say."""
        if record is None:
            return
        for name, part in self.stateful.items():
            if name in record.state:
                part.load_state_dict(record.state[name])
        metric = self.config.best_metric
        values = [row[metric] for row in read_metrics(metrics_path) if metric and metric in row]
        if values:
            self.best = min(values) if self.config.best_is == "lowest" else max(values)

    def kind_due(self, step: int) -> CheckpointKind | None:
        """The kind of checkpoint that is due after a step, if one is."""
        every, every_s = self.config.save_every, self.config.rolling_save_every_s
        if every and step % every == 0:
            return "periodic"
        if every_s and self.clock() - self.last_saved >= every_s:
            return "rolling"
        return None

    async def save(self, step: int, kind: CheckpointKind, num_tokens: int) -> CheckpointRecord:
        """Save the state after `step` updates, then let go of those that it replaces."""
        name = FINAL if kind == "final" else checkpoint_name(step, kind)
        ttl_s = self.config.rolling_ttl_s if kind == "rolling" else self.config.checkpoint_ttl_s
        ttl_s = None if kind in ("final", "best") else ttl_s
        started = time.time()
        state = await self.client.save_state(name, ttl_s)
        sampler_path = None
        if kind in ("final", "best"):
            sampler_path = (await self.client.save_weights_for_sampler(name)).path
        epoch, batch = self.plan.position(step)
        record = CheckpointRecord(
            name=name,
            step=step,
            epoch=epoch,
            batch=batch,
            kind=kind,
            num_tokens=num_tokens,
            state_path=state.path,
            sampler_path=sampler_path,
            expires_at=None if ttl_s is None else started + ttl_s,
            state={name: dict(part.state_dict()) for name, part in self.stateful.items()},
        )
        append_record(self.records_path, record)
        record_checkpoint(record, time.time() - started)
        self.last_saved = self.clock()
        await self._let_go(self._replaced_by(record))
        return record

    async def save_if_best(self, step: int, metrics: Mapping[str, float], num_tokens: int) -> None:
        """Save the state as `best` if its metric is better than any before."""
        metric = self.config.best_metric
        if metric is None or metric not in metrics:
            return
        value, best = metrics[metric], self.best
        is_lowest = self.config.best_is == "lowest"
        if best is None or (value < best if is_lowest else value > best):
            self.best = value
            await self.save(step, "best", num_tokens)

    def _replaced_by(self, newest: CheckpointRecord) -> list[CheckpointRecord]:
        older = [
            record
            for record in read_records(self.records_path)
            if record.kind == newest.kind and record.name != newest.name
        ]
        if newest.kind in ("rolling", "best"):
            return older
        if newest.kind == "periodic" and self.config.keep_last:
            return older[: max(0, len(older) + 1 - self.config.keep_last)]
        return []

    async def _let_go(self, records: Sequence[CheckpointRecord]) -> None:
        """Delete checkpoints; the record goes first, so that none promises what is gone."""
        if not records:
            return
        names = {record.name for record in records}
        kept = [r for r in read_records(self.records_path) if r.name not in names]
        replace_records(self.records_path, kept)
        rest = self.service.create_rest_client()
        for path in [p for r in records for p in (r.state_path, r.sampler_path) if p]:
            try:
                await rest.delete_checkpoint_from_tinker_path(path)
            except TinsmithError as error:
                # The run goes on: an old checkpoint too many costs disk, nothing else.
                logger.warning("%s: could not be deleted: %s", path, error)
