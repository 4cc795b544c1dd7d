"""A run from its job to its result: the part that all methods share.

Reading order: `start` decides whether there is anything to do and connects, `_train_with` opens
what the loop needs, `loop.Loop` trains. `wait_for` is the synchronous face.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinsmith.core.errors import ConfigError
from tinsmith.telemetry import (
    ConsoleRecorder,
    JsonlRecorder,
    NullTrace,
    Recorder,
    TraceWriter,
    TranscriptWriter,
    WandbRecorder,
    propagate,
    read_metrics,
)
from tinsmith.training import names
from tinsmith.training.adapter_location import local_adapter_dir
from tinsmith.training.checkpoints import CheckpointRecord
from tinsmith.training.config import RunConfig
from tinsmith.training.job import Job, Opening
from tinsmith.training.loop import Loop, Outputs
from tinsmith.training.measures import Measures, make_measures
from tinsmith.training.progress import make_progress
from tinsmith.training.provenance import make_manifest
from tinsmith.training.recording import RunRecorder, recorded
from tinsmith.training.run_dir import RunDir, RunStart, choose_start, new_run_dir
from tinsmith.training.sampling_evaluators import AnyEvaluator
from tinsmith.training.saving import Saver, Stateful
from tinsmith.training.share_chart import ShareChartRecorder
from tinsmith.training.terms import STATE

if TYPE_CHECKING:
    from tinsmith.client import ServiceClient, TrainingClient

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Attributes:
        run_dir: Directory of configuration, metrics and checkpoint records.
        num_steps: Steps of the run.
        resumed_from_step: Steps that an earlier process had done; 0 for a run of one piece.
        metrics: The newest value of every metric.
        metrics_before: What was measured before the first step.
        state_path: Address of the final training state.
        sampler_path: Address of the final sampler weights.
        adapter_dir: Directory of the final PEFT adapter, if it lies on this machine.
    """

    run_dir: Path
    num_steps: int
    resumed_from_step: int
    metrics: Mapping[str, float]
    metrics_before: Mapping[str, float]
    state_path: str | None
    sampler_path: str | None
    adapter_dir: Path | None

    @property
    def eval_nll_before(self) -> float | None:
        """Held-out NLL before the first step; None without held-out data."""
        return self.metrics_before.get(names.EVAL_NLL)

    @property
    def eval_nll_after(self) -> float | None:
        """Held-out NLL after the last step; None without held-out data."""
        return self.metrics.get(names.EVAL_NLL)

    def summary(self) -> dict[str, Any]:
        """The result as JSON values."""
        values = asdict(self)
        for name in ("run_dir", "adapter_dir"):
            values[name] = None if values[name] is None else str(values[name])
        values["eval_nll_before"] = self.eval_nll_before
        values["eval_nll_after"] = self.eval_nll_after
        return values


@dataclass(frozen=True)
class Extras:
    """What is given in code, not in the configuration.

    Attributes:
        recorder: Receives every metric besides the run directory's `metrics.jsonl`.
        evaluators: Run every `eval_every` steps, after those of the method.
        infrequent_evaluators: Run every `infrequent_eval_every` steps.
        stateful: Saved with every checkpoint, and given back when the run is resumed, by name.
        service: The service to use; none connects as `config.base_url` says.
    """

    recorder: Recorder | None = None
    evaluators: Sequence[AnyEvaluator] = ()
    infrequent_evaluators: Sequence[AnyEvaluator] = ()
    stateful: Mapping[str, Stateful] = field(default_factory=dict[str, Stateful])
    service: ServiceClient | None = None


def wait_for(work: Callable[[], Awaitable[RunResult]]) -> RunResult:
    """The result of an asynchronous run; works inside a running event loop (a notebook), too."""

    async def run() -> RunResult:
        return await work()

    if not _is_loop_running():
        return asyncio.run(run())
    outcome: dict[str, RunResult | BaseException] = {}

    def run_in_thread() -> None:
        try:
            outcome["is"] = asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread below
            outcome["is"] = error

    thread = threading.Thread(target=propagate(run_in_thread), name="tinsmith-train")
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


async def start(job: Job, extras: Extras) -> RunResult:
    """Train as a job says, or go on where an interrupted run stopped.

    Raises:
        ConfigError: The configuration contradicts the run directory.
        TrainingDivergedError: The loss is not finite.
    """
    config = job.config
    run_dir = RunDir(config.run_dir or new_run_dir(job.method.kind, Path(config.data)))
    begin = choose_start(run_dir, config, config.if_exists, data_sha256=job.data["sha256"])
    if begin.record is not None and begin.record.is_final:
        logger.info("%s: the run is complete; nothing to do", run_dir.path)
        return _result(run_dir, job, begin.record, begin.first_step)
    own = Measures(extras.evaluators, extras.infrequent_evaluators)
    measures = make_measures(job, own, run_dir.path)
    if extras.service is not None:
        return await _train_with(extras.service, job, begin, (measures, extras))
    from tinsmith.client import ServiceClient

    async with ServiceClient(base_url=config.base_url) as service:
        return await _train_with(service, job, begin, (measures, extras))


async def _train_with(
    service: ServiceClient, job: Job, begin: RunStart, given: tuple[Measures, Extras]
) -> RunResult:
    config, run, record = job.config, begin.run, begin.record
    measures, extras = given
    client = await _connect(service, config, record)
    objective = await job.method.open(Opening(service, client, record))
    stateful = {**extras.stateful, **objective.stateful}
    if config.regularizers:
        stateful[STATE] = client.regularizer_state
    # From here on there is something to record: what failed before leaves no run behind.
    with ExitStack() as stack:
        stack.enter_context(begin.begin(config, {**make_manifest(), "data": job.describe()}))
        recorded_run = stack.enter_context(recorded(job, begin))
        saver = Saver(
            client,
            service,
            run.checkpoints,
            plan=job.plan,
            config=config,
            stateful=stateful,
        )
        saver.restore(record, run.metrics)
        loop = Loop(
            job,
            client,
            outputs=_open_outputs(stack, job, begin, (RunRecorder(recorded_run), extras.recorder)),
            saver=saver,
            measures=Measures((*objective.evaluators, *measures.frequent), measures.infrequent),
            objective=objective,
            num_tokens=0 if record is None else record.num_tokens,
        )
        final = await loop.run(begin.first_step, is_resumed=record is not None)
    return _result(run, job, final, begin.first_step)


def _open_outputs(
    stack: ExitStack, job: Job, begin: RunStart, given: Sequence[Recorder | None]
) -> Outputs:
    """Open the sinks that the configuration names; the stack closes them."""
    config, run = job.config, begin.run
    recorders: list[Recorder] = [JsonlRecorder(run.metrics)]
    if config.console:
        recorders.append(ConsoleRecorder(job.method.columns))
    if config.wandb:
        recorders.append(
            WandbRecorder.start(
                run.path,
                project=config.wandb_project,
                name=config.wandb_name,
                config=config.model_dump(mode="json"),
            )
        )
    if config.regularizers:
        # After the metrics file, which it reads.
        recorders.append(ShareChartRecorder(run.metrics, run.shares, f"Run {run.path.name}"))
    for sink in recorders:
        stack.callback(sink.close)
    # These are the caller's, and so the caller's to close.
    recorders += [recorder for recorder in given if recorder is not None]
    trace = TraceWriter(run.trace) if config.trace else NullTrace()
    stack.callback(trace.close)
    transcript = None
    if config.transcript:
        transcript = TranscriptWriter(run.transcript, f"Run {run.path.name}")
        stack.callback(transcript.close)
    progress = make_progress(
        job.num_steps, begin.first_step, label=job.method.label, wanted=config.progress
    )
    return Outputs(recorders, stack.enter_context(progress), trace, transcript)


async def _connect(
    service: ServiceClient, config: RunConfig, record: CheckpointRecord | None
) -> TrainingClient:
    """A training client with a fresh adapter, a saved one, or the state of a checkpoint."""
    if record is not None and record.state_path is not None:
        return await service.create_training_client_from_state_with_optimizer(record.state_path)
    if config.start_from is not None:
        return await _from_saved(service, config, config.start_from)
    return await service.create_lora_training_client(
        config.model,
        rank=config.lora_rank,
        seed=config.seed if config.lora_seed is None else config.lora_seed,
        train_attn=config.train_attn,
        train_mlp=config.train_mlp,
        train_unembed=config.train_unembed,
    )


async def _from_saved(service: ServiceClient, config: RunConfig, path: str) -> TrainingClient:
    client = await service.create_training_client_from_state(path)
    base_model = client.get_info().model_data.model_name
    if base_model not in _names_of(config.model):
        raise ConfigError(
            f"start_from={path!r}: an adapter of {base_model!r}, and model={config.model!r}",
            field="start_from",
            hint=f"set model to {base_model}",
        )
    return client


def _names_of(model: str) -> tuple[str, str]:
    """What a service calls a base model; the embedded one calls a directory by its whole path."""
    return model, str(Path(model).expanduser().resolve())


def _result(run_dir: RunDir, job: Job, record: CheckpointRecord, first_step: int) -> RunResult:
    rows = read_metrics(run_dir.metrics)
    return RunResult(
        run_dir=run_dir.path,
        num_steps=job.num_steps,
        resumed_from_step=first_step,
        metrics={name: value for row in rows for name, value in row.items()},
        metrics_before=next((row for row in rows if row["step"] == 0), {}),
        state_path=record.state_path,
        sampler_path=record.sampler_path,
        adapter_dir=local_adapter_dir(record.sampler_path) if record.sampler_path else None,
    )
