"""What is known of a run before a service is asked: format, batches, schedule, how it will train.

A method reads and checks its data, and `make_job` adds what every method has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tinsmith.algorithms.schedules import Schedule, make_schedule
from tinsmith.core.errors import ConfigError
from tinsmith.renderers import Renderer, get_renderer, get_tokenizer, recommended_renderer
from tinsmith.telemetry.wandb_recorder import require_wandb
from tinsmith.training.batches import BatchPlan
from tinsmith.training.checkpoints import CheckpointRecord
from tinsmith.training.config import RunConfig
from tinsmith.training.objective import Objective
from tinsmith.training.sampling_evaluators import AnswerEvaluator

if TYPE_CHECKING:
    from tinsmith.client import ServiceClient, TrainingClient


class Opening(NamedTuple):
    """What an objective is opened with: the service, the model, and where the run goes on."""

    service: ServiceClient
    client: TrainingClient
    record: CheckpointRecord | None


@dataclass(frozen=True)
class Method:
    """What one way of training brings to a run.

    Attributes:
        kind: Its name in the names of runs.
        open: Makes the objective once there is a model.
        columns: Metrics for the console, the first of which is the progress bar's.
        label: What the progress bar calls it.
    """

    kind: str
    open: Callable[[Opening], Awaitable[Objective]]
    columns: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Job:
    """A run's data and steps.

    Attributes:
        config: What was asked for.
        method: How it trains.
        plan: Which rows every step trains on.
        schedule: Learning-rate multiplier of every step.
        num_steps: Steps of the run.
        renderer: The chat format.
        data: The data as JSON values, with its hash as `sha256`.
        has_held_out: Whether the method measures held-out data.
        answers: Prompts that are answered and graded, if any.
    """

    config: RunConfig
    method: Method
    plan: BatchPlan
    schedule: Schedule
    num_steps: int
    renderer: Renderer
    data: Mapping[str, Any]
    has_held_out: bool = False
    answers: AnswerEvaluator | None = None

    def describe(self) -> dict[str, Any]:
        """The data and its layout as JSON values, for `config.json`."""
        return {
            **self.data,
            "renderer": self.renderer.name,
            "num_steps": self.num_steps,
            "batches_per_epoch": self.plan.batches_per_epoch,
        }


def make_job(
    config: RunConfig,
    method: Method,
    plan: BatchPlan,
    renderer: Renderer,
    data: Mapping[str, Any],
    *,
    has_held_out: bool = False,
) -> Job:
    """Lay out the steps.

    Raises:
        DataError: The prompts to be graded cannot be read.
        ConfigError: The configuration contradicts itself.
        MissingExtraError: It asks for W&B, which is not installed.
    """
    if config.wandb:
        require_wandb()
    num_steps = config.num_steps or plan.num_steps(config.num_epochs)
    num_steps = min(num_steps, config.max_steps or num_steps)
    answers = None
    if config.sample_eval.data is not None:
        answers = AnswerEvaluator.from_config(config.sample_eval, renderer)
    return Job(
        config=config,
        method=method,
        plan=plan,
        schedule=_schedule(config, num_steps),
        num_steps=num_steps,
        renderer=renderer,
        data=data,
        has_held_out=has_held_out,
        answers=answers,
    )


def open_renderer(config: RunConfig, *, max_length: int | None = None) -> Renderer:
    """The chat format of a run.

    Args:
        config: Of the run.
        max_length: Longest example in tokens, which the model must be able to read.

    Raises:
        ConfigError: It is not.
        UnknownNameError: No such renderer.
    """
    tokenizer = get_tokenizer(config.model)
    limit = getattr(tokenizer, "model_max_length", None)
    if limit is not None and max_length is not None and max_length > limit:
        raise ConfigError(
            f"max_length={max_length}: {config.model} reads at most {int(limit)} tokens",
            field="max_length",
            hint=f"set max_length to {int(limit)} or less",
        )
    name = config.renderer or recommended_renderer(config.model, tokenizer)
    return get_renderer(name, tokenizer)


def _schedule(config: RunConfig, num_steps: int) -> Schedule:
    warmup_steps = config.warmup_steps
    if config.warmup_fraction:
        if warmup_steps:
            raise ConfigError(
                "warmup_fraction: warmup_steps is set, too",
                field="warmup_fraction",
                hint="keep one",
            )
        warmup_steps = int(config.warmup_fraction * num_steps)
    return make_schedule(
        config.lr_schedule, num_steps, warmup_steps, final_fraction=config.final_lr_fraction
    )
