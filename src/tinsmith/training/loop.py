"""The loop of a run, whatever its method: make a batch, submit, await, evaluate, save.

Each step sends forward_backward and optim_step without waiting. Unless a batch is made with the
weights that it trains, the next step is sent before the last one is awaited, so the service is
never idle, and the next batch is made meanwhile. A step
counts from 1 and names a state: row `step` of the metrics and checkpoint `step` belong to the
weights after `step` updates. Where a state is looked at (evaluation, checkpoint), everything
before it has come back and nothing after it has been sent.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tinsmith.core.errors import UserError, unknown_name
from tinsmith.renderers.messages import content_text
from tinsmith.telemetry import (
    NullTrace,
    Recorder,
    Trace,
    TraceContext,
    TranscriptWriter,
    in_trace,
)
from tinsmith.training import names
from tinsmith.training.batches import Batch
from tinsmith.training.checkpoints import CheckpointRecord
from tinsmith.training.job import Job
from tinsmith.training.measures import Measures
from tinsmith.training.objective import Objective
from tinsmith.training.progress import Progress
from tinsmith.training.recorded_events import record_answer, record_evaluation
from tinsmith.training.sampling_evaluators import AnyEvaluator
from tinsmith.training.saving import Saver

if TYPE_CHECKING:
    from tinsmith.client import APIFuture, TrainingClient
    from tinsmith.regularizers import CustomLossOutput
    from tinsmith.training.terms import Future
    from tinsmith.types import ForwardBackwardOutput, OptimStepResponse


class TrainingDivergedError(UserError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Outputs:
    """Where a loop's numbers go."""

    recorders: Sequence[Recorder]
    progress: Progress
    trace: Trace = field(default_factory=NullTrace)
    transcript: TranscriptWriter | None = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for recorder in self.recorders:
            recorder.log(step, metrics)


class _Update(NamedTuple):
    """One optimizer update on its way."""

    forward_backward: Future
    optim_step: APIFuture[OptimStepResponse]


@dataclass(frozen=True)
class _Submitted:
    """A step on its way; `step` counts from 1."""

    step: int
    batch: Batch
    learning_rate: float
    sent_ns: int
    place: TraceContext
    """The step's span: its requests bear these ids, and so does its event."""
    updates: Sequence[_Update]


class Loop:
    """One run's steps.

    Args:
        job: Data, batches and schedule.
        client: The model.
        outputs: Where the numbers go.
        saver: Saves the state.
        measures: What is measured between steps.
        objective: What a step trains on and minimises.
        num_tokens: Tokens that the run has trained on before.
    """

    def __init__(
        self,
        job: Job,
        client: TrainingClient,
        *,
        outputs: Outputs,
        saver: Saver,
        measures: Measures,
        objective: Objective,
        num_tokens: int = 0,
    ) -> None:
        self.config = job.config
        self.job = job
        self.client = client
        self.outputs = outputs
        self.saver = saver
        self.measures = measures
        self.objective = objective
        self.num_tokens = num_tokens
        self.pending: deque[_Submitted] = deque()
        self.last_finished = time.perf_counter()

    async def run(self, first_step: int, *, is_resumed: bool) -> CheckpointRecord:
        """Train from the state after `first_step` steps to the end, and save it.

        Args:
            first_step: Steps that the state contains.
            is_resumed: Whether it comes from a checkpoint, and so has been measured already.
        """
        num_steps = self.job.num_steps
        if not is_resumed:
            if self.outputs.transcript is not None:
                self.objective.show_data(self.outputs.transcript)
            await self._evaluate(0)
        self.last_finished = time.perf_counter()
        batch = await self._build(first_step) if first_step < num_steps else None
        for step in range(first_step + 1, num_steps + 1):
            assert batch is not None
            self.pending.append(self._submit(step, batch))
            is_made_meanwhile = step < num_steps and not self.objective.is_on_policy
            following = asyncio.create_task(self._build(step)) if is_made_meanwhile else None
            try:
                await self._after_submitting(step)
                if following is not None:
                    batch = await following
            finally:
                if following is not None:
                    following.cancel()
            if step < num_steps and self.objective.is_on_policy:
                batch = await self._build(step)
        return await self.saver.save(num_steps, "final", self.num_tokens)

    async def _after_submitting(self, step: int) -> None:
        """Await what is due; look at the state where the cadences say so."""
        is_last = step == self.job.num_steps
        evaluators = self._due_evaluators(step)
        kind = None if is_last else self.saver.kind_due(step)
        is_looked_at = bool(evaluators) or kind is not None or is_last
        await self._finish(0 if is_looked_at else self.objective.num_ahead)
        if evaluators:
            await self._evaluate(step)
        if kind is not None:
            with self.outputs.trace.span("save", step=step, kind=kind):
                await self.saver.save(step, kind, self.num_tokens)
            self.last_finished = time.perf_counter()

    def _due_evaluators(self, step: int) -> list[AnyEvaluator]:
        """Those that measure the state after `step` updates; all of them first and last."""
        is_end = step in (0, self.job.num_steps)
        return [
            *(self.measures.frequent if is_end or _is_due(step, self.config.eval_every) else ()),
            *(
                self.measures.infrequent
                if is_end or _is_due(step, self.config.infrequent_eval_every)
                else ()
            ),
        ]

    def _submit(self, step: int, batch: Batch) -> _Submitted:
        params = self.config.adam_params(self.job.schedule(step - 1))
        epoch = self.job.plan.epochs_done(step - 1)
        place = TraceContext.begin()
        with in_trace(place):
            return _Submitted(
                step=step,
                batch=batch,
                learning_rate=params.learning_rate,
                sent_ns=time.time_ns(),
                place=place,
                updates=[
                    _Update(
                        self.objective.submit(self.client, datums, epoch),
                        self.client.optim_step(params),
                    )
                    for datums in batch.updates
                ],
            )

    async def _finish(self, num_left: int) -> None:
        """Await and record the oldest steps until `num_left` are on their way."""
        while len(self.pending) > num_left:
            submitted = self.pending.popleft()
            done = [(await u.forward_backward, await u.optim_step) for u in submitted.updates]
            self.outputs.trace.complete(
                "step",
                submitted.sent_ns,
                time.time_ns(),
                lane=1 + submitted.step % (self.objective.num_ahead + 1),
                step=submitted.step,
                num_tokens=submitted.batch.num_tokens,
            )
            with in_trace(submitted.place):
                self._record(submitted, done)

    def _record(
        self,
        submitted: _Submitted,
        done: Sequence[tuple[ForwardBackwardOutput | CustomLossOutput, OptimStepResponse]],
    ) -> None:
        """Log a step; what optimizer and regularizers report is of its last update."""
        step, batch = submitted.step, submitted.batch
        now = time.perf_counter()
        elapsed_s, self.last_finished = now - self.last_finished, now
        self.num_tokens += batch.num_tokens
        measured = self.objective.measure(
            batch, [result for output, _ in done for result in output.loss_fn_outputs]
        )
        tokens_per_s = batch.num_tokens / elapsed_s
        output, optim = done[-1]
        metrics: dict[str, float] = {
            f"{names.OPTIM_PREFIX}{name}": value for name, value in (optim.metrics or {}).items()
        }
        metrics |= {
            name: value
            for name, value in output.metrics.items()
            if name.startswith(names.REGULARIZER_PREFIX)
        }
        metrics |= {
            **measured,
            **batch.metrics,
            names.TRAIN_NUM_SEQUENCES: len(batch.datums),
            names.TRAIN_NUM_TOKENS: batch.num_tokens,
            names.OPTIM_LEARNING_RATE: submitted.learning_rate,
            names.PROGRESS_EPOCH: self.job.plan.epochs_done(step),
            names.PROGRESS_FRACTION: step / self.job.num_steps,
            names.PROGRESS_NUM_TOKENS: self.num_tokens,
            names.TIME_STEP_S: elapsed_s,
            names.THROUGHPUT_TOKENS_PER_S: tokens_per_s,
        }
        self.outputs.log(step, metrics)
        self.outputs.progress.update(step, metrics[self.job.method.columns[0]], tokens_per_s)
        self._show_batch(step)
        self._check_finite(step, measured)

    def _show_batch(self, step: int) -> None:
        """Put the batch into the transcript, as often as held-out data is looked at."""
        is_shown = step in (1, self.job.num_steps) or _is_due(step, self.config.eval_every)
        if self.outputs.transcript is not None and is_shown:
            self.objective.show_batch(self.outputs.transcript, step)

    def _check_finite(self, step: int, measured: Mapping[str, float]) -> None:
        for name, value in measured.items():
            if not math.isfinite(value):
                raise TrainingDivergedError(
                    f"{name}={value} at step {step}: the loss is not finite",
                    field="learning_rate",
                    hint="resume is of no use; start again with a lower learning_rate "
                    f"(now {self.config.learning_rate}), a warm-up or grad_clip_norm",
                )

    async def _evaluate(self, step: int) -> None:
        """Record the metrics of the weights after `step` updates; keep the best weights."""
        evaluators = self._due_evaluators(step)
        if not evaluators:
            return
        started = time.perf_counter()
        metrics: dict[str, float] = {}
        sampler: Any = None  # a SamplingClient, made for the first evaluator that needs one
        with self.outputs.trace.span("evaluate", step=step):
            for evaluator in evaluators:
                if getattr(evaluator, "needs_sampler", False):
                    sampler = sampler or await self.client.save_weights_and_get_sampling_client()
                    metrics |= await evaluator(sampler)
                else:
                    given: Any = self.client  # an Evaluator's; the check above cannot say so
                    metrics |= await evaluator(given)
        metrics[names.TIME_EVAL_S] = time.perf_counter() - started
        if step == 0:
            self._check_best_metric(metrics)
        self.outputs.log(step, metrics)
        record_evaluation(step, metrics)
        self._show_evaluation(step, metrics)
        await self.saver.save_if_best(step, metrics, self.num_tokens)
        self.last_finished = time.perf_counter()

    def _check_best_metric(self, measured: Mapping[str, float]) -> None:
        """Refuse a `best_metric` that no measure gives, where all of them have just run."""
        metric = self.config.best_metric
        if metric is not None and metric not in measured:
            raise unknown_name("best_metric", metric, sorted(measured), field="best_metric")

    def _show_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        answers = () if self.job.answers is None else self.job.answers.take_answers()
        for answer in answers:
            record_answer(step, answer)
        page = self.outputs.transcript
        if page is None:
            return
        page.heading(f"Step {step}")
        page.table(metrics)
        for answer in answers:
            asked = [(m["role"], content_text(m)) for m in answer.prompt]
            page.conversation(
                f"score {answer.score:g}: {answer.text[:80]}",
                [*asked, ("assistant", answer.text), ("expected", answer.expected)],
            )

    async def _build(self, step: int) -> Batch:
        with self.outputs.trace.span("batch", lane=0, step=step + 1):
            return await self.objective.build(step)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
