"""Supervised fine-tuning on conversations, through the SDK.

`train(config)` is the run, `run(config)` its synchronous face. Reading order: `job.prepare` (data
and batches, before any service is started), `_connect` (a new or a resumed training client), and
`loop.Loop`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinsmith.telemetry import (
    ConsoleRecorder,
    JsonlRecorder,
    NullTrace,
    Recorder,
    TraceWriter,
    TranscriptWriter,
    WandbRecorder,
    read_metrics,
)
from tinsmith.training import names
from tinsmith.training.adapter_location import local_adapter_dir
from tinsmith.training.checkpoints import CheckpointRecord
from tinsmith.training.config import SupervisedConfig
from tinsmith.training.job import Job, prepare
from tinsmith.training.loop import Loop, Measures, Outputs, make_measures
from tinsmith.training.objective import STATE, open_objective
from tinsmith.training.progress import make_progress
from tinsmith.training.provenance import make_manifest
from tinsmith.training.run_dir import RunDir, RunStart, choose_start, new_run_dir
from tinsmith.training.sampling_evaluators import AnyEvaluator
from tinsmith.training.saving import Saver, Stateful

if TYPE_CHECKING:
    from tinsmith.client import ServiceClient, TrainingClient

logger = logging.getLogger(__name__)

CONSOLE_COLUMNS = (
    names.TRAIN_NLL,
    names.EVAL_NLL,
    names.OPTIM_LEARNING_RATE,
    f"{names.OPTIM_PREFIX}grad_norm",
    names.PROGRESS_EPOCH,
    names.THROUGHPUT_TOKENS_PER_S,
)


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
    evaluators: Sequence[AnyEvaluator] = (),
    infrequent_evaluators: Sequence[AnyEvaluator] = (),
    stateful: Mapping[str, Stateful] | None = None,
    service: ServiceClient | None = None,
) -> SupervisedResult:
    """Fine-tune an adapter as `config` says, or go on where an interrupted run stopped.

    Args:
        config: The run.
        recorder: Receives every metric besides the run directory's `metrics.jsonl`.
        evaluators: Run every `eval_every` steps, after the held-out NLL.
        infrequent_evaluators: Run every `infrequent_eval_every` steps.
        stateful: Saved with every checkpoint, and given back when the run is resumed, by name.
        service: The service to use; none connects as `config.base_url` says.

    Raises:
        DataError: The data cannot be trained on; names file and line.
        ConfigError: The configuration contradicts itself, the data or the run directory.
        TrainingDivergedError: The loss is not finite.
    """
    job = await asyncio.to_thread(prepare, config)
    run_dir = RunDir(config.run_dir or new_run_dir("sft", Path(config.data)))
    start = choose_start(run_dir, config, config.if_exists, data_sha256=job.data.sha256)
    if start.record is not None and start.record.is_final:
        logger.info("%s: the run is complete; nothing to do", run_dir.path)
        return _result(run_dir, job, start.record, start.first_step)
    own = Measures(evaluators, infrequent_evaluators)
    measures = await make_measures(job, own, run_dir.path)
    extras = _Extras(recorder, measures, stateful or {})
    if service is not None:
        return await _train_with(service, job, start, extras)
    from tinsmith.client import ServiceClient

    async with ServiceClient(base_url=config.base_url) as own_service:
        return await _train_with(own_service, job, start, extras)


@dataclass(frozen=True)
class _Extras:
    """What is given in code, not in the configuration."""

    recorder: Recorder | None
    measures: Measures
    stateful: Mapping[str, Stateful]


async def _train_with(
    service: ServiceClient, job: Job, start: RunStart, extras: _Extras
) -> SupervisedResult:
    config, run = job.config, start.run
    client = await _connect(service, config, start.record)
    objective = await open_objective(service, config, job.terms)
    stateful = dict(extras.stateful)
    if job.terms:
        stateful[STATE] = client.regularizer_state
    # From here on there is something to record: what failed before leaves no run behind.
    with ExitStack() as stack:
        stack.enter_context(start.begin(config, {**make_manifest(), "data": job.describe()}))
        saver = Saver(
            client,
            service,
            run.checkpoints,
            plan=job.plan,
            config=config,
            stateful=stateful,
        )
        saver.restore(start.record, run.metrics)
        loop = Loop(
            job,
            client,
            outputs=_open_outputs(stack, job, start, extras.recorder),
            saver=saver,
            measures=extras.measures,
            objective=objective,
            num_tokens=0 if start.record is None else start.record.num_tokens,
        )
        final = await loop.run(start.first_step, is_resumed=start.record is not None)
    return _result(run, job, final, start.first_step)


def _open_outputs(
    stack: ExitStack, job: Job, start: RunStart, recorder: Recorder | None
) -> Outputs:
    """Open the sinks that the configuration names; the stack closes them."""
    config, run = job.config, start.run
    recorders: list[Recorder] = [JsonlRecorder(run.metrics)]
    if config.console:
        recorders.append(ConsoleRecorder(CONSOLE_COLUMNS))
    if config.wandb:
        recorders.append(
            WandbRecorder.start(
                run.path,
                project=config.wandb_project,
                name=config.wandb_name,
                config=config.model_dump(mode="json"),
            )
        )
    for sink in recorders:
        stack.callback(sink.close)
    if recorder is not None:
        recorders.append(recorder)  # the caller's, and so the caller's to close
    trace = TraceWriter(run.trace) if config.trace else NullTrace()
    stack.callback(trace.close)
    transcript = None
    if config.transcript:
        transcript = TranscriptWriter(run.transcript, f"Run {run.path.name}")
        stack.callback(transcript.close)
    progress = make_progress(job.num_steps, start.first_step, wanted=config.progress)
    return Outputs(recorders, stack.enter_context(progress), trace, transcript)


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


def _result(
    run_dir: RunDir, job: Job, record: CheckpointRecord, first_step: int
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
