"""The engine: one base model, many adapters, training passes, snapshots and the sampler.

Everything here runs on one thread. A call takes a list of jobs and returns, in the same order, a
result or an error for each: a bad job fails alone and leaves its adapter as it was.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from tinsmith.core.errors import ServerError, TinsmithError, UserError
from tinsmith.engine import checkpoints
from tinsmith.engine.adapters import Adapter, AdapterSnapshot
from tinsmith.engine.base_model import load_base_model
from tinsmith.engine.datums import CheckedJob, check_job
from tinsmith.engine.jobs import (
    BaseModelInfo,
    EngineLimits,
    ForwardBackwardJob,
    OptimStepJob,
    RetainGraph,
    UseGraph,
)
from tinsmith.engine.passes import JobRun, run_pass
from tinsmith.engine.retained import RetainedGraphs, accumulated_norm
from tinsmith.types import (
    ForwardBackwardOutput,
    LoraConfig,
    OptimizerConfig,
    OptimStepResponse,
)

if TYPE_CHECKING:
    from tinsmith.engine.sampler import Sampler

__all__ = ["Engine"]

logger = logging.getLogger(__name__)

_Retained = Callable[[ForwardBackwardJob, Adapter, CheckedJob], ForwardBackwardOutput]


class Engine:
    """Trains and samples any number of LoRA adapters over one frozen base model.

    Args:
        base_model: `tinsmith/tiny`, a local directory, or a Hub name.
        device: default CUDA where available, else the CPU.
        dtype: default bfloat16 on CUDA, float32 elsewhere.
        limits: bounds on batch shapes; default by device.
    """

    def __init__(
        self,
        base_model: str,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        limits: EngineLimits | None = None,
    ) -> None:
        self.base = load_base_model(base_model, device, dtype)
        self.limits = limits or EngineLimits.for_device(self.base.device.type)
        self._adapters: dict[str, Adapter] = {}
        self._snapshots: dict[str, AdapterSnapshot] = {}
        self._num_holds: Counter[str] = Counter()
        """By snapshot id, how often it was handed out and not released."""
        self._sampler: Sampler | None = None
        self.retained = RetainedGraphs(self.base, self.limits)
        """Forward graphs that wait for their backward."""

    @property
    def info(self) -> BaseModelInfo:
        """What a client may know about the base model."""
        return self.base.info

    @property
    def snapshots(self) -> Mapping[str, AdapterSnapshot]:
        """Loaded snapshots by id (a live, read-only view)."""
        return MappingProxyType(self._snapshots)

    @property
    def sampler(self) -> Sampler:
        """The sampler over this engine's base model and snapshots, made on first use."""
        if self._sampler is None:
            from tinsmith.engine.sampler import Sampler

            self._sampler = Sampler(self.base, self.snapshots, self.limits)
        return self._sampler

    def create_adapter(
        self,
        adapter_id: str,
        lora_config: LoraConfig,
        optimizer_config: OptimizerConfig | None = None,
    ) -> LoraConfig:
        """A fresh adapter.

        Returns:
            The config with the seed that was used.

        Raises:
            UserError: the id is taken.
            ConfigError: the rank is out of range, or nothing would be trained.
        """
        if adapter_id in self._adapters:
            raise UserError(f"adapter {adapter_id!r} exists", field="model_id")
        adapter = Adapter.initialize(
            lora_config,
            checkpoints.layer_features(self.base, lora_config),
            device=self.base.device,
            dtype=self.base.adapter_dtype,
            optimizer_config=optimizer_config,
        )
        self._adapters[adapter_id] = adapter
        return adapter.lora_config

    def unload_adapter(self, adapter_id: str) -> None:
        """Forget an adapter and free its memory; its snapshots stay."""
        self.adapter(adapter_id)
        del self._adapters[adapter_id]
        self.retained.drop(adapter_id, "the model was unloaded")

    def has_adapter(self, adapter_id: str) -> bool:
        """Whether the adapter is loaded."""
        return adapter_id in self._adapters

    def adapter(self, adapter_id: str) -> Adapter:
        """The adapter in training, for looking at its weights and gradient.

        Raises:
            UserError: it is not loaded.
        """
        adapter = self._adapters.get(adapter_id)
        if adapter is None:
            raise UserError(
                f"adapter {adapter_id!r} is not loaded",
                field="model_id",
                hint="create the model, or load one of its checkpoints",
            )
        return adapter

    def adapter_config(self, adapter_id: str) -> LoraConfig:
        """The adapter's config, seed filled in."""
        return self.adapter(adapter_id).lora_config

    def forward_backward(
        self, jobs: Sequence[ForwardBackwardJob]
    ) -> list[ForwardBackwardOutput | TinsmithError]:
        """Losses of all jobs in one pass, and gradients of those that are not forward-only.

        Gradients are sums over tokens and datums, and add up until the adapter's next step. If the
        pass itself dies (out of memory, a fault in a model's code), each job runs once more alone:
        only those that die again fail, and no gradient of theirs changes.

        Returns:
            For each job its logprobs and metrics, or why it was refused.
        """
        results: list[ForwardBackwardOutput | TinsmithError | None] = [None] * len(jobs)
        runs: dict[int, JobRun] = {}
        for index, job in enumerate(jobs):
            try:
                adapter = self.adapter(job.adapter_id)
                checked = check_job(job, self.info)
                if isinstance(job.graph, RetainGraph):
                    results[index] = self._guarded(self.retained.forward, job, adapter, checked)
                    continue
                if isinstance(job.graph, UseGraph) and self.retained.has(job):
                    results[index] = self._guarded(self.retained.backward, job, adapter, checked)
                    continue
                runs[index] = JobRun(checked, adapter.make_pass(backward=not job.forward_only))
            except TinsmithError as error:
                results[index] = error
        if not self._run(list(runs.values())) and len(runs) > 1:
            for index, run in runs.items():
                adapter = self.adapter(jobs[index].adapter_id)
                runs[index] = JobRun(run.checked, adapter.make_pass(backward=run.backward))
                self._run([runs[index]])
        for index, run in runs.items():
            results[index] = problem = run.problem()
            if problem is not None:
                continue
            results[index] = output = run.output()
            if run.adapter.grad is not None:
                adapter = self.adapter(jobs[index].adapter_id)
                adapter.accumulate(run.adapter.grad)
                if isinstance(jobs[index].graph, UseGraph):  # whose graph was gone
                    output.metrics.update(accumulated_norm(adapter))
        return [result for result in results if result is not None]

    def _guarded(
        self, work: _Retained, job: ForwardBackwardJob, adapter: Adapter, checked: CheckedJob
    ) -> ForwardBackwardOutput | TinsmithError:
        try:
            return work(job, adapter, checked)
        except TinsmithError:
            raise
        except Exception as error:  # request boundary: this job's result reports it
            logger.warning("a pass of one job died", exc_info=error)
            return _dead_pass(error)

    def _run(self, runs: Sequence[JobRun]) -> bool:
        """Run one pass; returns whether it lived. If not, it is noted as each run's failure."""
        try:
            run_pass(self.base, runs, self.limits)
        except Exception as error:  # request boundary: the jobs' results report it
            logger.warning("a pass of %d jobs died", len(runs), exc_info=error)
            for run in runs:
                run.failure = _dead_pass(error)
            return False
        return True

    def optim_step(self, jobs: Sequence[OptimStepJob]) -> list[OptimStepResponse | TinsmithError]:
        """One optimizer step for each job, on its own adapter and with its own settings."""
        results: list[OptimStepResponse | TinsmithError] = []
        for job in jobs:
            try:
                adapter = self.adapter(job.adapter_id)
                # Before the step: the graphs hold views of the weights that it writes to.
                self.retained.drop(job.adapter_id, "optim_step changed the weights")
                metrics = adapter.optim_step(job.params)
                results.append(OptimStepResponse(metrics=metrics))
            except TinsmithError as error:
                results.append(error)
        return results

    def save_state(self, adapter_id: str, directory: Path) -> None:
        """Write weights, the optimizer's state and step; an existing directory is replaced.

        A gradient that was accumulated and not stepped is not part of a checkpoint.
        """
        adapter = self.adapter(adapter_id)
        if adapter.grad is not None:
            logger.warning(
                "adapter %s is saved with a gradient accumulated since its last step, which is "
                "not part of a checkpoint",
                adapter_id,
            )
        checkpoints.write_state(adapter, self.base, directory)

    def load_state(
        self,
        adapter_id: str,
        directory: Path,
        *,
        with_optimizer: bool,
        optimizer_config: OptimizerConfig | None = None,
    ) -> LoraConfig:
        """Replace the adapter, or create it, by what `save_state` wrote.

        Without the optimizer it starts from zero moments at step 0. An accumulated gradient is
        dropped either way. `optimizer_config` is the family the adapter has from then on, by
        default that of the adapter that is replaced, or else of the saved one.
        """
        if optimizer_config is None and adapter_id in self._adapters:
            optimizer_config = self._adapters[adapter_id].optimizer.config
        adapter = checkpoints.read_state(
            self.base,
            directory,
            with_optimizer=with_optimizer,
            optimizer_config=optimizer_config,
        )
        self._adapters[adapter_id] = adapter
        self.retained.drop(adapter_id, "load_weights replaced the weights")
        return adapter.lora_config

    def save_sampler_weights(self, adapter_id: str, directory: Path) -> str:
        """Write a PEFT directory of the weights as they are now, and load it as a snapshot.

        Returns:
            The snapshot's id, which `load_snapshot` of the directory gives again.
        """
        snapshot = self.adapter(adapter_id).snapshot(self.info.name)
        checkpoints.write_peft(snapshot, self.base, directory)
        return self._keep(snapshot)

    def export_adapter(self, adapter_id: str, directory: Path) -> None:
        """Write a PEFT directory of the weights as they are now, and keep nothing."""
        snapshot = self.adapter(adapter_id).snapshot(self.info.name)
        checkpoints.write_peft(snapshot, self.base, directory)

    def snapshot(self, adapter_id: str) -> str:
        """An immutable copy of the weights as they are now, in memory only; returns its id."""
        return self._keep(self.adapter(adapter_id).snapshot(self.info.name))

    def load_snapshot(self, directory: Path) -> str:
        """Load a PEFT LoRA directory of this base model as a snapshot; returns its id."""
        return self._keep(checkpoints.read_peft(self.base, directory))

    def release_snapshot(self, snapshot_id: str, num_holds: int = 1) -> None:
        """Give back a snapshot as often as its id was returned; it is forgotten with the last hold.

        Equal weights have one id, so a hold that is released late takes nothing from a newer one.
        Unknown ids are ignored.
        """
        self._num_holds[snapshot_id] -= num_holds
        if self._num_holds[snapshot_id] <= 0:
            del self._num_holds[snapshot_id]
            self._snapshots.pop(snapshot_id, None)

    def _keep(self, snapshot: AdapterSnapshot) -> str:
        self._num_holds[snapshot.id] += 1
        return self._snapshots.setdefault(snapshot.id, snapshot).id


def _dead_pass(error: Exception) -> TinsmithError:
    """Why a pass died, as the caller's error. It changed nothing: gradients count on success."""
    if isinstance(error, TinsmithError):
        return error
    reason = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, torch.OutOfMemoryError):
        return ServerError(
            f"the pass ran out of memory and changed nothing: {reason}",
            hint="lower max_microbatch_tokens or send shorter sequences",
        )
    return ServerError(
        f"the pass failed and changed nothing: {type(error).__name__}: {reason}",
        hint="the service's log has the details",
    )
