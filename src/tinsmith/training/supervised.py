"""Supervised fine-tuning on conversations, through the SDK.

`train(config)` is the loop, `run(config)` its synchronous face. Reading order: `_prepare` (data and
batches, before any service is started), `_connect` (a new or a resumed training client), `_Loop`.

Each step sends forward_backward and optim_step without waiting, and the next step is sent before
the last one is awaited, so the service is never idle; the next batch is rendered meanwhile. A step
counts from 1 and names a state: row `step` of the metrics and checkpoint `step` belong to the
weights after `step` updates. Where a state is looked at (evaluation, checkpoint), everything
before it has come back and nothing after it has been sent.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinsmith.algorithms.schedules import Schedule, make_schedule
from tinsmith.core.errors import ConfigError, DataError, UserError
from tinsmith.data import SupervisedDataset, TrainingData, load_training_data
from tinsmith.data.supervised import ExampleFormat
from tinsmith.renderers import TrainOnWhat, get_renderer, get_tokenizer, recommended_renderer
from tinsmith.telemetry import JsonlRecorder, Recorder, read_metrics
from tinsmith.training import names
from tinsmith.training.adapter_location import local_adapter_dir
from tinsmith.training.batches import Batch, BatchPlan
from tinsmith.training.checkpoints import (
    FINAL,
    CheckpointRecord,
    append_record,
    checkpoint_name,
)
from tinsmith.training.config import SupervisedConfig
from tinsmith.training.evaluators import Evaluator, NLLEvaluator, sum_nll
from tinsmith.training.progress import Progress, make_progress
from tinsmith.training.provenance import make_manifest
from tinsmith.training.run_dir import RunDir, RunStart, choose_start, new_run_dir

if TYPE_CHECKING:
    from tinsmith.client import APIFuture, ServiceClient, TrainingClient
    from tinsmith.types import ForwardBackwardOutput, OptimStepResponse

logger = logging.getLogger(__name__)


class TrainingDivergedError(UserError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class SupervisedResult:
    """What a run leaves behind.

    Attributes:
        run_dir: Directory of configuration, metrics and checkpoint records.
        num_steps: Optimizer steps of the run.
        resumed_from_step: Steps that an earlier process had done; 0 for a run of one piece.
        metrics: The newest value of every metric.
        eval_nll_before: Held-out NLL before the first step; None without held-out data.
        eval_nll_after: Held-out NLL after the last step; None without held-out data.
        state_path: Address of the final training state.
        sampler_path: Address of the final sampler weights.
        adapter_dir: Directory of the final PEFT adapter, if it lies on this machine.
    """

    run_dir: Path
    num_steps: int
    resumed_from_step: int
    metrics: Mapping[str, float]
    eval_nll_before: float | None
    eval_nll_after: float | None
    state_path: str | None
    sampler_path: str | None
    adapter_dir: Path | None

    def summary(self) -> dict[str, Any]:
        """The result as JSON values."""
        values = asdict(self)
        for name in ("run_dir", "adapter_dir"):
            values[name] = None if values[name] is None else str(values[name])
        return values


def run(config: SupervisedConfig, **options: Any) -> SupervisedResult:
    """`train`, waited for; works inside a running event loop (a notebook), too.

    Args:
        config: The run.
        options: Keyword arguments of `train`.
    """
    if not _is_loop_running():
        return asyncio.run(train(config, **options))
    outcome: dict[str, SupervisedResult | BaseException] = {}

    def work() -> None:
        try:
            outcome["is"] = asyncio.run(train(config, **options))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread below
            outcome["is"] = error

    thread = threading.Thread(target=work, name="tinsmith-train")
    thread.start()
    thread.join()
    if isinstance(outcome["is"], BaseException):
        raise outcome["is"]
    return outcome["is"]


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def train(
    config: SupervisedConfig,
    *,
    recorder: Recorder | None = None,
    evaluators: Sequence[Evaluator] = (),
    service: ServiceClient | None = None,
) -> SupervisedResult:
    """Fine-tune an adapter as `config` says, or go on where an interrupted run stopped.

    Args:
        config: The run.
        recorder: Receives every metric besides the run directory's `metrics.jsonl`.
        evaluators: Run together with the held-out NLL.
        service: The service to use; none connects as `config.base_url` says.

    Raises:
        DataError: The data cannot be trained on; names file and line.
        ConfigError: The configuration contradicts itself, the data or the run directory.
        TrainingDivergedError: The loss is not finite.
    """
    job = await asyncio.to_thread(_prepare, config)
    run_dir = RunDir(config.run_dir or new_run_dir("sft", Path(config.data)))
    start = choose_start(run_dir, config, config.if_exists, data_sha256=job.data.sha256)
    if start.record is not None and start.record.is_final:
        logger.info("%s: the run is complete; nothing to do", run_dir.path)
        return _result(run_dir, job, start.record, start.first_step)
    if service is not None:
        return await _train_with(service, job, start, recorder=recorder, evaluators=evaluators)
    from tinsmith.client import ServiceClient

    async with ServiceClient(base_url=config.base_url) as own_service:
        return await _train_with(own_service, job, start, recorder=recorder, evaluators=evaluators)


async def _train_with(
    service: ServiceClient,
    job: _Job,
    start: RunStart,
    *,
    recorder: Recorder | None,
    evaluators: Sequence[Evaluator],
) -> SupervisedResult:
    config = job.config
    client = await _connect(service, config, start.record)
    # From here on there is something to record: what failed before leaves no run behind.
    with (
        start.begin(config, {**make_manifest(), "data": job.describe()}),
        JsonlRecorder(start.run.metrics) as metrics_file,
        make_progress(job.num_steps, start.first_step, wanted=config.progress) as progress,
    ):
        recorders = [metrics_file] if recorder is None else [metrics_file, recorder]
        outputs = _Outputs(start.run, recorders, progress)
        final = await _Loop(job, client, outputs, evaluators=evaluators).run(start.first_step)
    return _result(start.run, job, final, start.first_step)


@dataclass(frozen=True)
class _Job:
    """Everything that is known before a service is asked."""

    config: SupervisedConfig
    plan: BatchPlan
    held_out: Mapping[str, SupervisedDataset]
    schedule: Schedule
    num_steps: int
    renderer_name: str
    data: TrainingData

    def describe(self) -> dict[str, Any]:
        return {
            "sha256": self.data.sha256,
            "num_repeats_dropped": self.data.num_repeats_dropped,
            "num_duplicates_dropped": self.data.num_duplicates_dropped,
            "renderer": self.renderer_name,
            "num_steps": self.num_steps,
            "batches_per_epoch": self.plan.batches_per_epoch,
            "train": asdict(self.plan.dataset.counts),
            "test": {name: asdict(held_out.counts) for name, held_out in self.held_out.items()},
        }


def _check_max_length(config: SupervisedConfig, tokenizer: Any) -> None:
    """Refuse examples that the model could not read, where its tokenizer says how much it can."""
    limit = getattr(tokenizer, "model_max_length", None)
    if limit is not None and config.max_length > limit:
        raise ConfigError(
            f"max_length={config.max_length}: {config.model} reads at most {int(limit)} tokens",
            field="max_length",
            hint=f"set max_length to {int(limit)} or less",
        )


def _prepare(config: SupervisedConfig) -> _Job:
    """Read and check the data, and lay out the steps."""
    what = config.train_on_what
    data = load_training_data(
        config.data,
        test_size=config.test_size,
        test_data=config.test_data,
        seed=config.seed,
        deduplicate=config.deduplicate,
        require_assistant=what
        in (
            TrainOnWhat.LAST_ASSISTANT_MESSAGE,
            TrainOnWhat.LAST_ASSISTANT_TURN,
            TrainOnWhat.ALL_ASSISTANT_MESSAGES,
        ),
    )
    tokenizer = get_tokenizer(config.model)
    _check_max_length(config, tokenizer)
    renderer_name = config.renderer or recommended_renderer(config.model, tokenizer)
    form = ExampleFormat(
        get_renderer(renderer_name, tokenizer), what, config.max_length, config.on_too_long
    )
    dataset = SupervisedDataset.from_conversations(data.train, form)
    if not len(dataset):
        raise DataError(
            f"{config.data}: none of {dataset.counts.num_offered} conversations can be trained on",
            field="data",
            file=config.data,
            hint="raise max_length, or choose another train_on_what",
        )
    plan = BatchPlan(dataset, config.batch_size, config.seed, config.loss_normalisation)
    num_steps = plan.batches_per_epoch * config.num_epochs
    num_steps = min(num_steps, config.max_steps or num_steps)
    return _Job(
        config=config,
        plan=plan,
        held_out={
            name: SupervisedDataset.from_conversations(rows, form)
            for name, rows in data.held_out.items()
        },
        schedule=make_schedule(config.lr_schedule, num_steps, config.warmup_steps),
        num_steps=num_steps,
        renderer_name=renderer_name,
        data=data,
    )


async def _connect(
    service: ServiceClient, config: SupervisedConfig, record: CheckpointRecord | None
) -> TrainingClient:
    """A training client with a fresh adapter, or with the state of a checkpoint."""
    if record is not None and record.state_path is not None:
        return await service.create_training_client_from_state_with_optimizer(record.state_path)
    return await service.create_lora_training_client(
        config.model,
        rank=config.lora_rank,
        seed=config.seed if config.lora_seed is None else config.lora_seed,
        train_attn=config.train_attn,
        train_mlp=config.train_mlp,
        train_unembed=config.train_unembed,
    )


@dataclass(frozen=True)
class _Outputs:
    """Where a loop's numbers go."""

    run_dir: RunDir
    recorders: Sequence[Recorder]
    progress: Progress

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for recorder in self.recorders:
            recorder.log(step, metrics)


@dataclass(frozen=True)
class _Submitted:
    """A step on its way; `step` counts from 1."""

    step: int
    batch: Batch
    learning_rate: float
    forward_backward: APIFuture[ForwardBackwardOutput]
    optim_step: APIFuture[OptimStepResponse]


class _Loop:
    """One run's steps: submit, await, evaluate, save."""

    def __init__(
        self,
        job: _Job,
        client: TrainingClient,
        outputs: _Outputs,
        *,
        evaluators: Sequence[Evaluator],
    ) -> None:
        self.config = job.config
        self.job = job
        self.client = client
        self.outputs = outputs
        self.evaluators = list(evaluators)
        self.pending: deque[_Submitted] = deque()
        self.last_finished = time.perf_counter()

    async def run(self, first_step: int) -> CheckpointRecord:
        """Train from the state after `first_step` steps to the end, and save it."""
        num_steps = self.job.num_steps
        if any(map(len, self.job.held_out.values())):
            self.evaluators.insert(0, await self._nll_evaluator())
        if first_step == 0:
            await self._evaluate(0)
        self.last_finished = time.perf_counter()
        batch = await self._build(first_step)
        for step in range(first_step + 1, num_steps + 1):
            self.pending.append(self._submit(step, batch))
            following = asyncio.create_task(self._build(step)) if step < num_steps else None
            try:
                await self._after_submitting(step)
                if following is not None:
                    batch = await following
            finally:
                if following is not None:
                    following.cancel()
        return await self._save(num_steps)

    async def _after_submitting(self, step: int) -> None:
        """Await what is due; look at the state where the cadences say so."""
        is_last = step == self.job.num_steps
        is_eval = bool(self.evaluators) and (is_last or _is_due(step, self.config.eval_every))
        is_save = not is_last and _is_due(step, self.config.save_every)
        await self._finish(0 if is_eval or is_save or is_last else self.config.submit_ahead)
        if is_eval:
            await self._evaluate(step)
        if is_save:
            await self._save(step)

    def _submit(self, step: int, batch: Batch) -> _Submitted:
        params = self.config.adam_params(self.job.schedule(step - 1))
        return _Submitted(
            step=step,
            batch=batch,
            learning_rate=params.learning_rate,
            forward_backward=self.client.forward_backward(list(batch.datums), "cross_entropy"),
            optim_step=self.client.optim_step(params),
        )

    async def _finish(self, num_left: int) -> None:
        """Await and record the oldest steps until `num_left` are on their way."""
        while len(self.pending) > num_left:
            submitted = self.pending.popleft()
            output = await submitted.forward_backward
            optim = await submitted.optim_step
            self._record(submitted, output, optim)

    def _record(
        self, submitted: _Submitted, output: ForwardBackwardOutput, optim: OptimStepResponse
    ) -> None:
        step, batch = submitted.step, submitted.batch
        now = time.perf_counter()
        elapsed_s, self.last_finished = now - self.last_finished, now
        nll, num_loss_tokens = sum_nll(batch.datums, output)
        mean_nll = nll / num_loss_tokens
        tokens_per_s = batch.num_tokens / elapsed_s
        metrics: dict[str, float] = {
            f"{names.OPTIM_PREFIX}{name}": value for name, value in (optim.metrics or {}).items()
        }
        metrics |= {
            names.TRAIN_NLL: mean_nll,
            names.TRAIN_NUM_SEQUENCES: len(batch.datums),
            names.TRAIN_NUM_TOKENS: batch.num_tokens,
            names.TRAIN_NUM_LOSS_TOKENS: num_loss_tokens,
            names.OPTIM_LEARNING_RATE: submitted.learning_rate,
            names.PROGRESS_EPOCH: step / self.job.plan.batches_per_epoch,
            names.PROGRESS_FRACTION: step / self.job.num_steps,
            names.TIME_STEP_S: elapsed_s,
            names.THROUGHPUT_TOKENS_PER_S: tokens_per_s,
        }
        self.outputs.log(step, metrics)
        self.outputs.progress.update(step, mean_nll, tokens_per_s)
        if not math.isfinite(mean_nll):
            raise TrainingDivergedError(
                f"train/nll={mean_nll} at step {step}: the loss is not finite",
                field="learning_rate",
                hint="resume is of no use; start again with a lower learning_rate "
                f"(now {self.config.learning_rate}), a warm-up or grad_clip_norm",
            )

    async def _evaluate(self, step: int) -> None:
        """Record the metrics of the weights after `step` updates."""
        if not self.evaluators:
            return
        started = time.perf_counter()
        metrics: dict[str, float] = {}
        for evaluator in self.evaluators:
            metrics |= await evaluator(self.client)
        now = time.perf_counter()
        metrics[names.TIME_EVAL_S] = now - started
        self.outputs.log(step, metrics)
        self.last_finished = now

    async def _save(self, step: int) -> CheckpointRecord:
        """Save the state after `step` updates; the last one with sampler weights, as `final`."""
        is_final = step == self.job.num_steps
        name = FINAL if is_final else checkpoint_name(step)
        state = await self.client.save_state(name)
        sampler_path = None
        if is_final:
            sampler_path = (await self.client.save_weights_for_sampler(name)).path
        epoch, batch = self.job.plan.position(step)
        record = CheckpointRecord(
            name=name,
            step=step,
            epoch=epoch,
            batch=batch,
            state_path=state.path,
            sampler_path=sampler_path,
        )
        append_record(self.outputs.run_dir.checkpoints, record)
        self.last_finished = time.perf_counter()
        return record

    async def _build(self, step: int) -> Batch:
        return await asyncio.to_thread(self.job.plan.build, step)

    async def _nll_evaluator(self) -> NLLEvaluator:
        return await asyncio.to_thread(
            NLLEvaluator.from_datasets, self.job.held_out, self.config.batch_size
        )


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _result(
    run_dir: RunDir, job: _Job, record: CheckpointRecord, first_step: int
) -> SupervisedResult:
    rows = read_metrics(run_dir.metrics)
    newest = {name: value for row in rows for name, value in row.items()}
    before = next((row for row in rows if row["step"] == 0), {})
    return SupervisedResult(
        run_dir=run_dir.path,
        num_steps=job.num_steps,
        resumed_from_step=first_step,
        metrics=newest,
        eval_nll_before=before.get(names.EVAL_NLL),
        eval_nll_after=newest.get(names.EVAL_NLL),
        state_path=record.state_path,
        sampler_path=record.sampler_path,
        adapter_dir=local_adapter_dir(record.sampler_path) if record.sampler_path else None,
    )
